#include "student/statistics.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <charconv>

#include "core/error.h"

namespace overproof {
namespace {

int64_t metadata_number(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  int64_t value = 0;
  if (found != file.metadata().end()) {
    const std::string& text = found->second;
    const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (fault == std::errc() && end == text.data() + text.size() && value > 0) return value;
  }
  throw FormatError(file.path(), -1, fmt::format("metadata '{}' is not a positive number", key));
}

void require(const SafetensorsFile& file, const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
  const TensorInfo& info = file.info(name);
  if (info.dtype != dtype || info.shape != shape)
    throw FormatError(file.path(), -1, fmt::format("'{}' is not {} [{}]", name, dtype_name(dtype), fmt::join(shape, ", ")));
}

}  // namespace

Statistics::Statistics(const fs::path& artifact) : file_(artifact / kStatisticsFile) {
  const auto root = file_.metadata().find("teacher_root");
  if (root == file_.metadata().end()) throw FormatError(file_.path(), -1, "metadata 'teacher_root' is missing");
  teacher_root_ = Digest::from_hex(root->second);
  tokens_ = metadata_number(file_, "tokens");
  window_length_ = metadata_number(file_, "window_length");
  layers_ = metadata_number(file_, "layers");
  hidden_ = metadata_number(file_, "hidden_size");
  ff_ = metadata_number(file_, "intermediate_size");
  if (tokens_ % window_length_ != 0) throw FormatError(file_.path(), -1, "tokens are not whole windows");
  require(file_, "tokens", DType::i32, {tokens_});
  for (int64_t l = 0; l < layers_; ++l) {
    require(file_, fmt::format("layers.{}.ffn_input", l), DType::f16, {tokens_, hidden_});
    require(file_, fmt::format("layers.{}.importance", l), DType::f32, {ff_});
  }
}

void Statistics::require_shape_of(const ModelConfig& teacher) const {
  if (teacher.layers != layers_ || teacher.hidden_size != hidden_ || teacher.intermediate_size != ff_)
    throw UsageError(fmt::format("the statistics are of {} layers, hidden size {}, FFN width {}; the teacher has {}, {}, {}", layers_,
                                 hidden_, ff_, teacher.layers, teacher.hidden_size, teacher.intermediate_size));
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
