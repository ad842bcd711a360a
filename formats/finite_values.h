#pragma once
// Infinities and NaNs among the numbers of a tensor: each makes a later stage fail, or measure nonsense.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "formats/tensor_source.h"

namespace overproof {

/// The index of the first infinity or NaN; -1 when all values are finite.
int64_t first_not_finite(std::span<const float> values);

/// Throws FormatError naming the tensor, the row and the element of the first infinity or NaN. `values` are rows of `row_elements`
/// from `first_row` of the tensor, in `where`.
void require_finite(std::span<const float> values, std::string_view tensor, int64_t first_row, int64_t row_elements,
                    const std::filesystem::path& where);

/// The largest magnitude that BF16, F16 or F32 holds, and the least one whose nearest number there is infinity (of F32 infinity itself).
struct DTypeRange {
  float most, infinite_from;
};
DTypeRange dtype_range(DType dtype);

}  // namespace overproof
