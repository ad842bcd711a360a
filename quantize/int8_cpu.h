#pragma once
// int8 rows on the CPU: the AVX2 kernel where the processor has it, the scalar reference elsewhere. Both give the same
// bytes and the same error sums, bit for bit (tests/quantize/int8_test.cc).

#include <cstdint>
#include <span>
#include <string_view>

namespace overproof {

/// Energy of a row and of what rounding took from it. SQNR = 10 log10(signal / noise).
/// Squares are taken in units of the scale (x times its reciprocal: within [-127, 127], so nothing overflows), summed in f32
/// over eight lanes within blocks of kErrorBlock elements and the blocks in double: an order that no kernel changes.
struct RowError {
  double signal = 0, noise = 0;
  RowError& operator+=(const RowError& other) {
    signal += other.signal;
    noise += other.noise;
    return *this;
  }
};
inline constexpr int64_t kErrorBlock = 256;

/// One implementation of the row operations.
struct Int8Kernel {
  std::string_view name;
  /// Largest magnitude of the row, as bits (int8.h: an infinity or NaN shows).
  uint32_t (*amax_bits)(const float* row, int64_t n);
  /// Codes of a row at a given scale; returns the error sums. codes [n].
  RowError (*quantize)(const float* row, int64_t n, float scale, int8_t* codes);
};

const Int8Kernel& int8_scalar_kernel();
/// nullptr when the processor lacks AVX2.
const Int8Kernel* int8_avx2_kernel();
/// The fastest kernel of this processor.
const Int8Kernel& int8_kernel();

enum class Int8Scale { absmax, mse };

struct Int8Row {
  float scale = 1.0f;
  RowError error;
  bool finite = true;  ///< false: the row holds an infinity or NaN; codes are unspecified
};

/// Quantises one row, n = codes.size(). `mse` picks the clipping candidate with the least squared error, the widest on ties.
Int8Row quantize_int8_row(std::span<const float> row, std::span<int8_t> codes, Int8Scale how,
                          const Int8Kernel& kernel = int8_kernel());

}  // namespace overproof
