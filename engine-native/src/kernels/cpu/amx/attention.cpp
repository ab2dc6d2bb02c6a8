// Attention of prompts in fixed point on AMX; all else is left to the other sets.
#include "kernels/cpu/amx/fixed.h"

#define HEARTH_ATTENTION_NAME "cpu/amx"
#define HEARTH_FIXED_PRODUCTS AmxProducts
#define HEARTH_FIXED_ONLY true
#include "kernels/cpu/simd/pool_attention.inl"
