// The dynamic shared memory that kernels of fixed size ask for, for the test that holds it against device limits.
// (Kernels whose need depends on the shape ask for what fits, at run time.)
#pragma once

#include <string>
#include <vector>

namespace hearth::kernels::cuda {

struct SharedUse { std::string kernel; int bytes; };
std::vector<SharedUse> declared_shared_memory(int sm);

// Parts, each beside the choices it describes.
void append_w4_shared(int sm, std::vector<SharedUse>& uses);
void append_dense_shared(int sm, std::vector<SharedUse>& uses);
void append_attention_shared(int sm, std::vector<SharedUse>& uses);
void append_hopper_shared(int sm, std::vector<SharedUse>& uses);
void append_chain_shared(int sm, std::vector<SharedUse>& uses);

}  // namespace hearth::kernels::cuda
