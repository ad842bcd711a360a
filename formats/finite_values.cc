#include "formats/finite_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/float_bits.h"

namespace overproof {

int64_t first_not_finite(std::span<const float> values) {
  // Magnitudes order as their bits do, so a block needs one maximum and no branch.
  constexpr size_t kBlock = 4096;
  for (size_t begin = 0; begin < values.size(); begin += kBlock) {
    const auto block = values.subspan(begin, std::min(kBlock, values.size() - begin));
    uint32_t most = 0;
    for (const float v : block) most = std::max(most, f32_bits(v) & 0x7fffffffu);
    if (most < 0x7f800000u) continue;
    return int64_t(begin) + (std::ranges::find_if(block, [](float v) { return !std::isfinite(v); }) - block.begin());
  }
  return -1;
}

void require_finite(std::span<const float> values, std::string_view tensor, int64_t first_row, int64_t row_elements,
                    const std::filesystem::path& where) {
  const int64_t bad = first_not_finite(values);
  if (bad < 0) return;
  const int64_t element = first_row * row_elements + bad;
  throw FormatError(where, -1,
                    fmt::format("'{}' row {} holds {} as element {} of the tensor; weights must be finite", tensor,
                                element / row_elements, values[size_t(bad)], element));
}

DTypeRange dtype_range(DType dtype) {
  OVERPROOF_CHECK(dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f32);
  if (dtype == DType::f16) return {65504.0f, 65520.0f};
  if (dtype == DType::bf16) return {f32_from_bits(0x7f7f0000), f32_from_bits(0x7f7f8000)};
  return {std::numeric_limits<float>::max(), std::numeric_limits<float>::infinity()};
}

}  // namespace overproof
