#include "records/activation_journal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "core/checked.h"
#include "core/error.h"
#include "records/activation_statistics.h"

namespace overproof {
namespace {

constexpr char kSpill[] = "activations.spill";

std::optional<int64_t> count_of(const Json& json) {
  if (!json.is_number_unsigned() || json.get<uint64_t>() > uint64_t(INT64_MAX)) return std::nullopt;
  return json.get<int64_t>();
}

std::string stream_name(int64_t layers) { return fmt::format("stream-{}.f32", layers); }

}  // namespace

std::optional<int64_t> ActivationJournal::Group::bytes() const {
  // tokens, range, amax, samples, hessian
  const auto sample_bytes = checked_mul(samples, columns);
  const auto square = hessian ? checked_mul(columns, columns) : std::optional<int64_t>(0);
  std::optional<int64_t> sum = 24;
  const auto add = [&](std::optional<int64_t> count, int64_t width) {
    const auto bytes = count ? checked_mul(*count, width) : std::nullopt;
    sum = sum && bytes ? checked_add(*sum, *bytes) : std::nullopt;
  };
  add(columns, 4);
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

bool ActivationJournal::restore(const ResumePoint& point) {
  const Json& p = point.progress;
  if (!p.contains("layers") || !p.contains("experts") || !p.contains("groups")) return false;
  const auto layers = count_of(p["layers"]);
  if (!layers || *layers < 1 || *layers > shape_.layers) return false;
  const Json &experts = p["experts"], &groups = p["groups"];
  if (!experts.is_array() || experts.size() != 4 || !groups.is_array()) return false;
  for (const Json& count : experts)
    if (!count_of(count)) return false;
  progress_ = {*layers, experts[0], experts[1], experts[2], experts[3]};
  std::optional<int64_t> spilled = 0;
  std::set<std::string> names;
  for (const Json& json : groups) {
    auto group = group_of(json);
    if (!group) return false;
    for (const std::string& weight : group->weights)
      if (!names.insert(weight).second) return false;
    const auto bytes = group->bytes();
    spilled = bytes ? checked_add(*spilled, *bytes) : std::nullopt;
    if (!spilled) return false;
    groups_.push_back(std::move(*group));
  }
  const auto stream_elements = checked_mul(shape_.tokens, shape_.hidden);
  if (point.files.size() != 2 || !stream_elements) return false;
  const FileRecord &spill = point.files[0], &stream = point.files[1];
  if (spill.name != kSpill || spill.bytes != *spilled || stream.name != stream_name(*layers) ||
      stream.bytes % 4 != 0 || stream.bytes / 4 != *stream_elements)
    return false;
  stream_ = stream;
  return true;
}

ActivationJournal::ActivationJournal(const fs::path& scratch, const Digest& stage_key, const Shape& shape)
    : shape_(shape), scratch_(scratch), resume_(scratch, stage_key), folder_(scratch, Unfinished::kept) {
  fs::create_directories(scratch);
  const auto point = resume_.read(&folder_);
  if (!point || !restore(*point)) {
    groups_.clear();
    progress_ = {};
    stream_.reset();
    resume_.clear();
    folder_ = OutputFolder(scratch, Unfinished::kept);
  }
  spill_.emplace(folder_.open(kSpill));
  spill_->skip(spill_->kept_bytes_left());
}

void ActivationJournal::read_stream(std::span<float> out) const {
  OVERPROOF_CHECK(stream_ && int64_t(out.size_bytes()) == stream_->bytes);
  const MappedFile file(scratch_ / stream_->name);
  if (file.size() < stream_->bytes) throw FormatError(file.path(), file.size(), "was cut while the command was running");
  std::memcpy(out.data(), file.bytes().data(), out.size_bytes());
}

void ActivationJournal::add(const RecordedInput& input) {
  const auto columns = int64_t(input.amax.size()), samples = int64_t(input.samples.size()) / columns;
  OVERPROOF_CHECK(!input.weights.empty() && int64_t(input.samples.size()) == samples * columns &&
                  (input.hessian.empty() || int64_t(input.hessian.size()) == columns * columns));
  groups_.push_back({input.weights, columns, samples, !input.hessian.empty()});
  const int64_t tokens[] = {input.routed, input.forced};
  spill_->write(tokens, sizeof tokens);
  spill_->write(input.amax.data(), input.amax.size_bytes());
  spill_->write(input.range.data(), sizeof input.range);
  spill_->write(input.hessian.data(), input.hessian.size_bytes());
  spill_->write(input.samples.data(), input.samples.size_bytes());
}

void ActivationJournal::checkpoint(const LayerProgress& progress, std::span<const float> stream) {
  OVERPROOF_CHECK(int64_t(stream.size()) == shape_.tokens * shape_.hidden);
  OutputFolder folder(scratch_);
  OutputFile file = folder.open(stream_name(progress.layers_done));
  file.write(stream.data(), stream.size_bytes());
  folder.finish(std::move(file));
  fsync_folder(scratch_);
  Json groups = Json::array();
  for (const Group& g : groups_) groups.push_back({g.weights, g.columns, g.samples, g.hessian});
  progress_ = progress;
  stream_ = folder.records().at(0);
  resume_.write({{spill_->sync(), *stream_},
                 {{"layers", progress.layers_done},
                  {"experts", {progress.experts, progress.topped_up, progress.below, progress.forced_tokens}},
                  {"groups", std::move(groups)}}});
}

void ActivationJournal::finish(OutputFolder& folder, Metadata metadata) {
  spill_->close();
  spill_.reset();
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
  const MappedFile spilled(scratch_ / kSpill);
  if (spilled.size() < offset) throw FormatError(spilled.path(), spilled.size(), "was cut while the command was running");
  for (const Part& p : parts)
    if (p.info.elements() > 0) writer.append(spilled.bytes().data() + p.offset, size_t(p.info.bytes()));
  writer.close();
  resume_.clear();
  std::error_code ignored;
  fs::remove(scratch_ / kSpill, ignored);
}

}  // namespace overproof
