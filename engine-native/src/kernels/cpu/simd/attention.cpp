// Attention over the paged KV pool for every set of vectors.
#include "kernels/cpu/simd/fixed.h"
#include "kernels/cpu/simd/isa.h"

#define HEARTH_ATTENTION_NAME HEARTH_ISA_NAME
#define HEARTH_FIXED_PRODUCTS PairProducts
#define HEARTH_FIXED_ONLY false
#include "kernels/cpu/simd/pool_attention.inl"
