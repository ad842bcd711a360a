#pragma once
// What the program takes into account of the processor that it runs on.

namespace overproof {

/// AVX-512 by another maker than Intel. MKL, by which libtorch multiplies f32, runs a kernel for AVX2 there; products are made by
/// oneDNN instead (model/ops/gemm.h), which keeps the code that it compiles for each shape.
bool has_avx512_of_another_maker();

}  // namespace overproof
