#pragma once
// Marks functions that g++ and nvcc both compile: the formula is written once, tested on the CPU, used in kernels.
#if defined(__CUDACC__)
#define OVERPROOF_HD __host__ __device__
#else
#define OVERPROOF_HD
#endif
