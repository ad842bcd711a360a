#include "formats/weight_dtype.h"

#include <fmt/format.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "core/json.h"
#include "formats/finite_values.h"
#include "formats/tensor_name.h"

namespace overproof {
namespace {

/// BF16, F16 or F32 for one matrix. A row in the file that is not as long as its elements in `dtype` was quantized: its dtype is
/// that of the values that are read from it.
DType stored_dtype(const Checkpoint& checkpoint, const TensorInfo& info) {
  if (info.dtype == DType::f16 || info.dtype == DType::bf16) return info.dtype;
  if (info.dtype != DType::f32 && info.dtype != DType::f64) return DType::bf16;
  if (checkpoint.tensors->files().empty()) return DType::f32;  // computed
  const std::optional<RowExtent> extent = checkpoint.tensors->extent(info.name);
  return extent && extent->row_bytes == info.row_bytes() ? DType::f32 : DType::bf16;
}

}  // namespace

DType weight_dtype(const Checkpoint& checkpoint) {
  std::map<DType, int64_t> elements;
  for (const TensorInfo& info : checkpoint.tensors->tensors())
    if (info.shape.size() >= 2 && !is_always_f32(info.name)) elements[stored_dtype(checkpoint, info)] += info.elements();
  DType most = DType::f32;
  int64_t count = 0;
  for (const auto& [dtype, n] : elements)
    if (n > count) most = dtype, count = n;
  return most;
}

DType written_dtype(WeightDType asked, const Checkpoint& parent) {
  switch (asked) {
    case WeightDType::bf16:
      return DType::bf16;
    case WeightDType::f16:
      return DType::f16;
    case WeightDType::f32:
      return DType::f32;
    case WeightDType::automatic:
      break;
  }
  return weight_dtype(parent);
}

void record_dtype(Json& metrics, DType dtype) { metrics["dtype"] = dtype_name(dtype); }

void require_range(DType dtype, std::span<const float> values, std::string_view tensor) {
  if (const int64_t bad = first_not_finite(values); bad >= 0)
    throw DivergenceError(fmt::format("{} holds {} as element {}; weights must be finite", tensor, values[size_t(bad)], bad));
  if (dtype == DType::f32) return;
  const auto [most, infinite_from] = dtype_range(dtype);
  for (const float value : values)
    if (std::abs(value) >= infinite_from)
      throw DivergenceError(fmt::format("{} holds {:.6g}, and {} ends at {:.6g}; write the weights as {} (dtype)", tensor, value,
                                        dtype == DType::f16 ? "f16" : "bf16", most, dtype == DType::f16 ? "bf16 or f32" : "f32"));
}

bool is_always_f32(std::string_view tensor) {
  const TensorName name = TensorName::parse(tensor);
  return name.in_decoder() && (name.part == TensorName::Part::router || name.part == TensorName::Part::router_bias);
}

}  // namespace overproof
