#include "records/expert_statistics.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <map>

#include "core/checked.h"
#include "core/config.h"
#include "core/error.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

std::string expert_part(int64_t layer, const char* what) { return fmt::format("layers.{}.{}", layer, what); }

/// The layers of metadata's "dense_layers", fewer than all.
std::vector<int64_t> read_layers(const SafetensorsFile& file, int64_t layers) {
  std::vector<int64_t> found;
  if (!file.metadata().contains("dense_layers")) return found;
  for (const std::string& text : split_list(metadata_text(file, "dense_layers"))) {
    int64_t layer = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
    if (error != std::errc() || end != text.data() + text.size() || layer < 0 || layer >= layers || (!found.empty() && layer <= found.back()))
      throw FormatError(file.path(), -1, fmt::format("dense_layers is no ascending list of some of {} layers", layers));
    found.push_back(layer);
  }
  if (found.empty() || int64_t(found.size()) == layers) throw FormatError(file.path(), -1, "dense_layers has no layer, or every one");
  return found;
}

fs::path experts_file(const fs::path& artifact) { return fs::is_directory(artifact) ? artifact / kExpertStatisticsFile : artifact; }

}  // namespace

void write_expert_statistics(const ExpertStatisticsShape& shape, const std::function<ExpertObservation(int64_t layer)>& observation,
                             OutputFolder& folder) {
  std::vector<TensorInfo> infos;
  for (int64_t l = 0; l < shape.layers; ++l) {
    if (!shape.has_experts(l)) continue;
    infos.push_back({expert_part(l, "mean_output"), DType::f32, {shape.experts, shape.hidden_size}});
    infos.push_back({expert_part(l, "tokens"), DType::i32, {shape.experts}});
    infos.push_back({expert_part(l, "reap"), DType::f32, {shape.experts}});
    infos.push_back({expert_part(l, "largest"), DType::f32, {shape.experts}});
  }
  std::map<std::string, std::string> metadata = {{"format_version", "1"},
                            {"model_root", shape.model_root.hex()},
                            {"corpus_root", shape.corpus_root.hex()},
                            {"tokens", std::to_string(shape.tokens)},
                            {"layers", std::to_string(shape.layers)},
                            {"experts", std::to_string(shape.experts)},
                            {"hidden_size", std::to_string(shape.hidden_size)},
                            {"top_k", std::to_string(shape.top_k)}};
  if (!shape.dense_layers.empty()) metadata["dense_layers"] = fmt::format("{}", fmt::join(shape.dense_layers, ","));
  SafetensorsWriter writer(folder, kExpertStatisticsFile, infos, metadata);
  for (int64_t l = 0; l < shape.layers; ++l) {
    const ExpertObservation seen = observation(l);
    if (!shape.has_experts(l)) continue;
    const auto experts = size_t(shape.experts);
    OVERPROOF_CHECK(int64_t(seen.mean_output.size()) == shape.experts * shape.hidden_size && seen.tokens.size() == experts &&
                    seen.reap.size() == experts && seen.largest.size() == experts);
    writer.append(seen.mean_output.data(), seen.mean_output.size() * sizeof(float));
    writer.append(seen.tokens.data(), seen.tokens.size() * sizeof(int32_t));
    writer.append(seen.reap.data(), seen.reap.size() * sizeof(float));
    writer.append(seen.largest.data(), seen.largest.size() * sizeof(float));
  }
  writer.close();
}

ExpertStatistics::ExpertStatistics(const fs::path& artifact) : file_(experts_file(artifact)) {
  if (const std::string& version = metadata_text(file_, "format_version"); version != "1")
    throw FormatError(file_.path(), -1, fmt::format("format_version is '{}'; only 1 is known", version.substr(0, 20)));
  shape_.model_root = metadata_digest(file_, "model_root");
  shape_.corpus_root = metadata_digest(file_, "corpus_root");
  shape_.tokens = metadata_integer(file_, "tokens", 1);
  shape_.layers = metadata_integer(file_, "layers", 1, INT32_MAX);
  shape_.experts = metadata_integer(file_, "experts", 1, INT32_MAX);
  shape_.hidden_size = metadata_integer(file_, "hidden_size", 1, INT32_MAX);
  shape_.top_k = metadata_integer(file_, "top_k", 1, INT32_MAX);
  shape_.dense_layers = read_layers(file_, shape_.layers);
  if (shape_.layers - int64_t(shape_.dense_layers.size()) > int64_t(file_.tensors().size()) / 4)
    throw FormatError(file_.path(), -1, fmt::format("{} layers, but {} tensors", shape_.layers, file_.tensors().size()));
  for (int64_t l = 0; l < shape_.layers; ++l) {
    if (!shape_.has_experts(l)) continue;
    require_tensor(file_, expert_part(l, "mean_output"), DType::f32, {shape_.experts, shape_.hidden_size});
    require_tensor(file_, expert_part(l, "tokens"), DType::i32, {shape_.experts});
    require_tensor(file_, expert_part(l, "reap"), DType::f32, {shape_.experts});
    require_tensor(file_, expert_part(l, "largest"), DType::f32, {shape_.experts});
  }
}

void ExpertStatistics::require_model(const Digest& root, std::span<const char> present, int64_t experts) const {
  const auto layers = int64_t(present.size());
  if (layers != shape_.layers || experts != shape_.experts)
    throw MismatchError(fmt::format("{}: statistics of {} layers with {} experts, but the model has {} with {}", path().string(),
                                    shape_.layers, shape_.experts, layers, experts));
  for (int64_t l = 0; l < layers; ++l)
    if ((present[size_t(l)] != 0) != shape_.has_experts(l))
      throw MismatchError(fmt::format("{}: statistics of another model: layer {} has {}experts there", path().string(), l, shape_.has_experts(l) ? "" : "no "));
  if (root != shape_.model_root)
    throw MismatchError(fmt::format("{}: statistics of another model, sha256:{}; run observe on this one", path().string(),
                                    shape_.model_root.hex()));
}

std::vector<float> ExpertStatistics::values(const std::string& name, bool may_be_negative) const {
  const std::span<const float> stored = file_.values<float>(name);
  for (size_t i = 0; i < stored.size(); ++i)
    if (!std::isfinite(stored[i]) || (!may_be_negative && stored[i] < 0))
      throw FormatError(path(), file_.offset(name) + int64_t(i) * 4,
                        fmt::format("'{}' has {}", name, std::isfinite(stored[i]) ? "a negative value" : "an infinity or NaN"));
  return {stored.begin(), stored.end()};
}

ExpertObservation ExpertStatistics::read(int64_t layer) const {
  const std::string tokens = expert_part(layer, "tokens");
  const std::span<const int32_t> counts = file_.values<int32_t>(tokens);
  for (size_t e = 0; e < counts.size(); ++e)
    if (counts[e] < 0) throw FormatError(path(), file_.offset(tokens) + int64_t(e) * 4, fmt::format("'{}' has a negative value", tokens));
  return {values(expert_part(layer, "mean_output"), true),
          {counts.begin(), counts.end()},
          values(expert_part(layer, "reap"), false),
          values(expert_part(layer, "largest"), false)};
}

}  // namespace overproof
