#include "records/ffn_statistics.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

std::string input_name(int64_t layer) { return fmt::format("layers.{}.ffn_input", layer); }
std::string importance_name(int64_t layer) { return fmt::format("layers.{}.importance", layer); }
std::string neuron_name(int64_t layer, const char* what) { return fmt::format("layers.{}.{}", layer, what); }

fs::path file_of(const fs::path& artifact) { return fs::is_directory(artifact) ? artifact / kFfnStatisticsFile : artifact; }

}  // namespace

void write_ffn_statistics(const FfnStatisticsShape& shape, std::span<const int32_t> ids,
                          const std::function<FfnObservation(int64_t layer)>& observation, OutputFolder& folder,
                          const std::function<std::vector<float>(int64_t layer)>& taylor) {
  OVERPROOF_CHECK(int64_t(ids.size()) == shape.tokens && shape.tokens % shape.window_length == 0);
  std::vector<TensorInfo> infos = {{"tokens", DType::i32, {shape.tokens}}};
  for (int64_t l = 0; l < shape.layers; ++l) {
    infos.push_back({input_name(l), DType::f16, {shape.tokens, shape.hidden_size}});
    infos.push_back({importance_name(l), DType::f32, {shape.intermediate_size}});
    for (const char* what : {"mean", "variance"})
      if (shape.moments) infos.push_back({neuron_name(l, what), DType::f32, {shape.intermediate_size}});
  }
  for (int64_t l = 0; shape.taylor && l < shape.layers; ++l)
    infos.push_back({neuron_name(l, "taylor"), DType::f32, {shape.intermediate_size}});
  SafetensorsWriter writer(folder, kFfnStatisticsFile, infos,
                           {{"format_version", "1"},
                            {"teacher_root", shape.teacher_root.hex()},
                            {"corpus_root", shape.corpus_root.hex()},
                            {"tokens", std::to_string(shape.tokens)},
                            {"window_length", std::to_string(shape.window_length)},
                            {"layers", std::to_string(shape.layers)},
                            {"hidden_size", std::to_string(shape.hidden_size)},
                            {"intermediate_size", std::to_string(shape.intermediate_size)}});
  writer.append(ids.data(), ids.size_bytes());
  for (int64_t l = 0; l < shape.layers; ++l) {
    const FfnObservation seen = observation(l);
    OVERPROOF_CHECK(int64_t(seen.input.size()) == shape.tokens * shape.hidden_size &&
                    int64_t(seen.importance.size()) == shape.intermediate_size);
    writer.append(seen.input.data(), seen.input.size_bytes());
    writer.append(seen.importance.data(), seen.importance.size_bytes());
    for (const std::span<const float> values : {seen.mean, seen.variance}) {
      if (!shape.moments) break;
      OVERPROOF_CHECK(int64_t(values.size()) == shape.intermediate_size);
      writer.append(values.data(), values.size_bytes());
    }
  }
  for (int64_t l = 0; shape.taylor && l < shape.layers; ++l) {
    const std::vector<float> values = taylor(l);
    OVERPROOF_CHECK(int64_t(values.size()) == shape.intermediate_size);
    writer.append(values.data(), values.size() * sizeof(float));
  }
  writer.close();
}

FfnStatistics::FfnStatistics(const fs::path& artifact) : file_(file_of(artifact)) {
  if (const std::string& version = metadata_text(file_, "format_version"); version != "1")
    throw FormatError(file_.path(), -1, fmt::format("format_version is '{}'; only 1 is known", version.substr(0, 20)));
  shape_.teacher_root = metadata_digest(file_, "teacher_root");
  shape_.corpus_root = metadata_digest(file_, "corpus_root");
  shape_.tokens = metadata_integer(file_, "tokens", 1);
  shape_.window_length = metadata_integer(file_, "window_length", 1, INT32_MAX);
  shape_.layers = metadata_integer(file_, "layers", 1, INT32_MAX);
  shape_.hidden_size = metadata_integer(file_, "hidden_size", 1, INT32_MAX);
  shape_.intermediate_size = metadata_integer(file_, "intermediate_size", 1, INT32_MAX);
  if (shape_.tokens % shape_.window_length != 0)
    throw FormatError(file_.path(), -1,
                      fmt::format("{} tokens are not whole windows of {}", shape_.tokens, shape_.window_length));
  require_tensor(file_, "tokens", DType::i32, {shape_.tokens});
  shape_.moments = file_.contains(neuron_name(0, "mean"));
  shape_.taylor = file_.contains(neuron_name(0, "taylor"));
  for (int64_t l = 0; l < shape_.layers; ++l) {
    require_tensor(file_, input_name(l), DType::f16, {shape_.tokens, shape_.hidden_size});
    require_tensor(file_, importance_name(l), DType::f32, {shape_.intermediate_size});
    for (const char* what : {"mean", "variance"})
      if (shape_.moments) require_tensor(file_, neuron_name(l, what), DType::f32, {shape_.intermediate_size});
    if (shape_.taylor) require_tensor(file_, neuron_name(l, "taylor"), DType::f32, {shape_.intermediate_size});
  }
}

void FfnStatistics::require_teacher(const Digest& root, int64_t layers, int64_t hidden_size, int64_t intermediate_size) const {
  if (layers != shape_.layers || hidden_size != shape_.hidden_size || intermediate_size != shape_.intermediate_size)
    throw MismatchError(fmt::format("{}: statistics of {} layers, hidden size {} and FFN width {}, but the teacher has {}, {} and {}",
                                    path().string(), shape_.layers, shape_.hidden_size, shape_.intermediate_size, layers,
                                    hidden_size, intermediate_size));
  if (root != shape_.teacher_root)
    throw MismatchError(fmt::format("{}: statistics of another teacher, sha256:{}; run observe on this one", path().string(),
                                    shape_.teacher_root.hex()));
}

std::vector<float> FfnStatistics::finite_values(const std::string& name) const {
  const TensorInfo& info = file_.info(name);
  std::vector<float> values(size_t(info.elements()));
  elements_to_f32(info.dtype, file_.bytes(name).data(), values);
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      throw FormatError(path(), file_.offset(name) + int64_t(i) * dtype_bytes(info.dtype),
                        fmt::format("'{}' has an infinity or NaN", name));
  return values;
}

std::vector<float> FfnStatistics::ffn_input(int64_t layer) const { return finite_values(input_name(layer)); }

std::vector<float> FfnStatistics::positive_values(const std::string& name) const {
  std::vector<float> values = finite_values(name);
  if (const auto bad = std::ranges::find_if(values, [](float x) { return x < 0; }); bad != values.end())
    throw FormatError(path(), file_.offset(name) + 4 * (bad - values.begin()), fmt::format("'{}' has a negative value", name));
  return values;
}

std::vector<float> FfnStatistics::importance(int64_t layer) const { return positive_values(importance_name(layer)); }

std::vector<float> FfnStatistics::mean(int64_t layer) const {
  if (!shape_.moments)
    throw MismatchError(fmt::format("{}: has no means and variances of neurons; run observe again, this version records them", path().string()));
  return finite_values(neuron_name(layer, "mean"));
}

std::vector<float> FfnStatistics::variance(int64_t layer) const {
  if (!shape_.moments) return mean(layer);  // throws
  return positive_values(neuron_name(layer, "variance"));
}

std::vector<float> FfnStatistics::taylor(int64_t layer) const {
  if (!shape_.taylor) throw MismatchError(fmt::format("{}: has no gradients; run observe with --gradients", path().string()));
  return positive_values(neuron_name(layer, "taylor"));
}

std::vector<int64_t> FfnStatistics::ids(int64_t windows, int64_t vocab_size) const {
  const int64_t count = std::min(windows, shape_.tokens / shape_.window_length) * shape_.window_length;
  const std::span<const int32_t> stored = file_.values<int32_t>("tokens").first(size_t(count));
  const auto bad = std::ranges::find_if(stored, [&](int32_t id) { return id < 0 || id >= vocab_size; });
  if (bad != stored.end())
    throw FormatError(path(), file_.offset("tokens") + 4 * (bad - stored.begin()),
                      fmt::format("token id {} is not in the vocabulary of {}", *bad, vocab_size));
  return {stored.begin(), stored.end()};
}

}  // namespace overproof
