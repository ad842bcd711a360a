#include "student/statistics.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

void require(const SafetensorsFile& file, const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
  const TensorInfo& info = file.info(name);
  if (info.dtype != dtype || info.shape != shape)
    throw FormatError(file.path(), -1, fmt::format("'{}' is not {} [{}]", name, dtype_name(dtype), fmt::join(shape, ", ")));
}

}  // namespace

Statistics::Statistics(const fs::path& artifact) : file_(artifact / kStatisticsFile) {
  teacher_root_ = metadata_digest(file_, "teacher_root");
  tokens_ = metadata_integer(file_, "tokens", 1);
  window_length_ = metadata_integer(file_, "window_length", 1, INT32_MAX);
  layers_ = metadata_integer(file_, "layers", 1, INT32_MAX);
  hidden_ = metadata_integer(file_, "hidden_size", 1, INT32_MAX);
  ff_ = metadata_integer(file_, "intermediate_size", 1, INT32_MAX);
  if (tokens_ % window_length_ != 0) throw FormatError(file_.path(), -1, "tokens are not whole windows");
  require(file_, "tokens", DType::i32, {tokens_});
  for (int64_t l = 0; l < layers_; ++l) {
    require(file_, fmt::format("layers.{}.ffn_input", l), DType::f16, {tokens_, hidden_});
    require(file_, fmt::format("layers.{}.importance", l), DType::f32, {ff_});
  }
}

void Statistics::require_shape_of(const ModelConfig& teacher) const {
  if (teacher.layers != layers_ || teacher.hidden_size != hidden_ || teacher.intermediate_size != ff_)
    throw UsageError(fmt::format("the statistics are of {} layers, hidden size {}, FFN width {}; the teacher has {}, {}, {}",
                                 layers_, hidden_, ff_, teacher.layers, teacher.hidden_size, teacher.intermediate_size));
}

at::Tensor Statistics::ffn_input(int64_t layer) const {
  const auto values = file_.values<uint16_t>(fmt::format("layers.{}.ffn_input", layer));
  // from_blob does not write; the map is read-only and `to` makes the copy.
  return at::from_blob(const_cast<uint16_t*>(values.data()), {tokens_, hidden_}, at::kHalf).to(at::kFloat);
}

at::Tensor Statistics::importance(int64_t layer) const {
  const auto values = file_.values<float>(fmt::format("layers.{}.importance", layer));
  return at::from_blob(const_cast<float*>(values.data()), {ff_}, at::kFloat).clone();
}

at::Tensor Statistics::windows(int64_t windows) const {
  const int64_t count = std::min(windows, tokens_ / window_length_);
  const auto values = file_.values<int32_t>("tokens");
  return at::from_blob(const_cast<int32_t*>(values.data()), {count, window_length_}, at::kInt).to(at::kLong);
}

}  // namespace overproof
