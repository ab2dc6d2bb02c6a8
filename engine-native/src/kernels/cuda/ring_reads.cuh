// Of rings in shared memory that bulk copies fill: when a slot may be given back.
#pragma once

#include <cstdint>

namespace hearth::kernels::cuda {

// Zero, as soon as what `words` is made of has been read: a word of each read of a slot, to be added to the address of the barrier
// that gives the slot back. An arrival does not wait for a warp's reads that are on their way: these queue behind other warps'
// reads of memory, the bulk copy that the arrival sets off does not, and it has written over what was still to be read
// (docs/notes/cuda.md).
// small: any number below 65,536 that the compiler does not know.
__device__ __forceinline__ uint32_t once_read(uint32_t words, int small) { return words & static_cast<uint32_t>(small) >> 16; }

}  // namespace hearth::kernels::cuda
