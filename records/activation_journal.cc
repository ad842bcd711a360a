#include "records/activation_journal.h"

#include <algorithm>
#include <set>

#include "core/checked.h"
#include "core/error.h"
#include "records/activation_statistics.h"

namespace overproof {
namespace {

constexpr char kSpill[] = "activations.spill";

}  // namespace

std::optional<int64_t> ActivationJournal::Group::bytes() const {
  // tokens, range, amax, square, samples, hessian
  const auto sample_bytes = checked_mul(samples, columns);
  const auto square = hessian ? checked_mul(columns, columns) : std::optional<int64_t>(0);
  std::optional<int64_t> sum = 24;
  const auto add = [&](std::optional<int64_t> count, int64_t width) {
    const auto bytes = count ? checked_mul(*count, width) : std::nullopt;
    sum = sum && bytes ? checked_add(*sum, *bytes) : std::nullopt;
  };
  add(checked_mul(columns, int64_t{2}), 4);
  add(sample_bytes, 2);
  add(square, 4);
  return sum;
}

std::optional<ActivationJournal::Group> ActivationJournal::group_of(const Json& json) {
  if (!json.is_array() || json.size() != 4 || !json[0].is_array() || json[0].empty() || !json[3].is_boolean()) return std::nullopt;
  Group group;
  for (const Json& weight : json[0]) {
    if (!weight.is_string()) return std::nullopt;
    group.weights.push_back(weight);
  }
  const auto columns = count_of(json[1]), samples = count_of(json[2]);
  if (!columns || !samples || *columns < 1) return std::nullopt;
  group.columns = *columns;
  group.samples = *samples;
  group.hessian = json[3];
  return group;
}

/// The bytes of the groups that `progress` lists, which become this journal's.
std::optional<int64_t> ActivationJournal::restore(int64_t layers, const Json& progress) {
  groups_.clear();
  if (!progress.contains("experts") || !progress.contains("groups")) return std::nullopt;
  const Json &experts = progress["experts"], &groups = progress["groups"];
  if (!experts.is_array() || experts.size() != 4 || !groups.is_array()) return std::nullopt;
  for (const Json& count : experts)
    if (!count_of(count)) return std::nullopt;
  std::optional<int64_t> spilled = 0;
  std::set<std::string> names;
  for (const Json& json : groups) {
    auto group = group_of(json);
    if (!group) return std::nullopt;
    for (const std::string& weight : group->weights)
      if (!names.insert(weight).second) return std::nullopt;
    const auto bytes = group->bytes();
    spilled = bytes ? checked_add(*spilled, *bytes) : std::nullopt;
    if (!spilled) return std::nullopt;
    groups_.push_back(std::move(*group));
  }
  progress_ = {layers, experts[0], experts[1], experts[2], experts[3]};
  return spilled;
}

ActivationJournal::ActivationJournal(const fs::path& scratch, const Digest& stage_key, const Shape& shape)
    : journal_(scratch, stage_key, kSpill, {shape.layers, checked_mul(shape.tokens, shape.hidden)},
               [this](int64_t layers, const Json& progress) { return restore(layers, progress); }) {
  if (journal_.layers_done() > 0) return;
  groups_.clear();
  progress_ = {};
}

void ActivationJournal::add(const RecordedInput& input) {
  const auto columns = int64_t(input.amax.size()), samples = int64_t(input.samples.size()) / columns;
  OVERPROOF_CHECK(!input.weights.empty() && input.square.size() == input.amax.size() && int64_t(input.samples.size()) == samples * columns &&
                  (input.hessian.empty() || int64_t(input.hessian.size()) == columns * columns));
  groups_.push_back({input.weights, columns, samples, !input.hessian.empty()});
  const int64_t tokens[] = {input.routed, input.forced};
  journal_.append(tokens, sizeof tokens);
  journal_.append(input.amax);
  journal_.append(input.square);
  journal_.append(input.range.data(), sizeof input.range);
  journal_.append(input.hessian);
  journal_.append(input.samples);
}

void ActivationJournal::checkpoint(const LayerProgress& progress, std::span<const float> stream) {
  Json groups = Json::array();
  for (const Group& g : groups_) groups.push_back({g.weights, g.columns, g.samples, g.hessian});
  progress_ = progress;
  journal_.checkpoint(progress.layers_done,
                      {{"experts", {progress.experts, progress.topped_up, progress.below, progress.forced_tokens}},
                       {"groups", std::move(groups)}},
                      stream);
}

void ActivationJournal::finish(OutputFolder& folder, Metadata metadata) {
  struct Part {
    TensorInfo info;
    int64_t offset;
  };
  std::vector<Part> parts;
  Json members = Json::object();
  int64_t offset = 0;
  for (const Group& g : groups_) {
    const std::string& name = g.weights.front();
    for (const std::string& weight : g.weights) members[weight + ".weight"] = name;
    const auto add = [&](const char* part, DType dtype, std::vector<int64_t> shape) {
      parts.push_back({{name + part, dtype, std::move(shape)}, offset});
      offset += parts.back().info.bytes();
    };
    add(".tokens", DType::i64, {2});
    add(".amax", DType::f32, {g.columns});
    add(".square", DType::f32, {g.columns});
    add(".range", DType::f32, {2});
    if (g.hessian) add(".hessian", DType::f32, {g.columns, g.columns});
    add(".samples", DType::f16, {g.samples, g.columns});
  }
  // Widest elements first, so that each tensor is aligned.
  std::ranges::stable_sort(parts, {}, [](const Part& p) { return -dtype_bytes(p.info.dtype); });
  std::vector<TensorInfo> infos;
  for (const Part& p : parts) infos.push_back(p.info);
  metadata["groups"] = members.dump();
  metadata.emplace("format_version", "1");
  SafetensorsWriter writer(folder, kActivationsFile, infos, metadata);
  const MappedFile spilled = journal_.spilled(offset);
  for (const Part& p : parts)
    if (p.info.elements() > 0) writer.append(spilled.bytes().data() + p.offset, size_t(p.info.bytes()));
  writer.close();
  journal_.clear();
}

}  // namespace overproof
