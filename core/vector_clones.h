#pragma once
// A function compiled for several widths of vectors; the widest that the processor has is chosen when the program starts. Its results
// depend on it in no bit as long as sums are taken in a fixed number of lanes: multiplications and additions are not contracted
// (CMakeLists.txt).

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define OVERPROOF_VECTOR_CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define OVERPROOF_VECTOR_CLONES
#endif
