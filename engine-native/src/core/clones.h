// HEARTH_CLONES: a function compiled twice on x86, for any processor and for AVX2, chosen when the program starts; for the
// parts of the engine that are built for any x86-64. By the feature: "arch=haswell" would ask for that very processor.
// Without FMA, so that both give the same bits. Not under ASan, which cannot run code before main.
#pragma once

#ifdef __has_feature  // clang, which says it this way
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define HEARTH_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define HEARTH_CLONES
#endif
