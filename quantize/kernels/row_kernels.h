#pragma once
// The row operations of all schemes on the CPU: scalar reference, AVX2, AVX-512, chosen at run time. All give the same bytes
// and the same error sums, bit for bit (tests/quantize/row_kernels_test.cc), from f32 rows and from bf16 rows alike.

#include <cstdint>
#include <string_view>
#include <type_traits>
#include <vector>

namespace overproof {

/// Energy of a row and of its rounding errors, in units of the weights. SQNR = 10 log10(signal / noise).
/// Squares are taken in units of the scale (x times its reciprocal: a few hundred at most, so nothing overflows), summed in f32
/// over kErrorLanes lanes within blocks of kErrorBlock elements (or the group of the scale where that is smaller; groups of 32
/// make a block together, each weighed by the square of its scale over the largest one), and the blocks in double: an order that
/// no kernel changes.
struct RowError {
  double signal = 0, noise = 0;
  RowError& operator+=(const RowError& other) {
    signal += other.signal;
    noise += other.noise;
    return *this;
  }
};
inline constexpr int64_t kErrorBlock = 256;
inline constexpr int kErrorLanes = 16;
inline constexpr int kErrorGroups = 8;  ///< of 32 elements: kErrorBlock

/// Operations on rows of In: float, or uint16_t for bf16. Rows must not hold an infinity or NaN, except where stated.
template <class In>
struct InputKernels {
  /// Largest magnitudes of groups of `group` values (the last may be short), as f32 bits (int8.h: an infinity or NaN shows), or
  /// the current values of `amax` [ceil(n / group)] where they are larger.
  void (*amax_groups)(const In* x, int64_t n, int64_t group, uint32_t* amax);
  /// int8_code of n values at one scale per group, each byte XORed with `flip`: 0x80 turns q into q + 128, as packed formats store
  /// it.
  RowError (*int8_groups)(const In* x, int64_t n, int64_t group, const float* scales, uint8_t* codes, uint8_t flip);
  /// fp8_code of n values at one scale per group.
  RowError (*fp8_groups)(const In* x, int64_t n, int64_t group, const float* scales, uint8_t* codes);
  /// n / 32 groups: codes [n], exponents [n / 32]; `error` is added to. False, and outputs unspecified, when the row holds an
  /// infinity or NaN.
  bool (*mxfp8)(const In* x, int64_t n, uint8_t* codes, uint8_t* exponents, RowError& error);
  /// n / 32 blocks of kQ8Bytes; `error` is added to. False, and outputs unspecified, when a block has no f16 scale: an infinity,
  /// a NaN, or a magnitude from kQ8TooLarge on.
  bool (*q8_0)(const In* x, int64_t n, uint8_t* blocks, RowError& error);

  /// The same of one group.
  uint32_t amax_bits(const In* x, int64_t n) const {
    uint32_t amax = 0;
    amax_groups(x, n, n, &amax);
    return amax;
  }
  RowError int8(const In* x, int64_t n, float scale, uint8_t* codes, uint8_t flip) const {
    return int8_groups(x, n, n, &scale, codes, flip);
  }
  RowError fp8(const In* x, int64_t n, float scale, uint8_t* codes) const { return fp8_groups(x, n, n, &scale, codes); }
};

struct RowKernels {
  std::string_view name;
  InputKernels<float> f32;
  InputKernels<uint16_t> bf16;

  template <class In>
  const InputKernels<In>& of() const {
    if constexpr (std::is_same_v<In, float>) return f32;
    else return bf16;
  }
};

const RowKernels& scalar_row_kernels();
/// Null when the processor lacks the instructions.
const RowKernels* avx2_row_kernels();
const RowKernels* avx512_row_kernels();
/// The reference first, then the others that this processor can run, each faster than the one before.
std::vector<const RowKernels*> all_row_kernels();
/// The kernels that schemes use: the fastest ones of this processor.
const RowKernels& row_kernels();
/// Replaces row_kernels(), for tests and benchmarks. Must be one of all_row_kernels().
void use_row_kernels(const RowKernels& kernels);

}  // namespace overproof
