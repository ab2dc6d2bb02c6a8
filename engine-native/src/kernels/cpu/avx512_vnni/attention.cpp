// Attention of prompts in fixed point with VNNI; all else is left to AVX-512 without it.
#include "kernels/cpu/simd/fixed.h"

#define HEARTH_ATTENTION_NAME "cpu/avx512-vnni"
#define HEARTH_FIXED_PRODUCTS PairProducts
#define HEARTH_FIXED_ONLY true
#include "kernels/cpu/simd/pool_attention.inl"
