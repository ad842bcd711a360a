#include "records/layer_journal.h"

#include <fmt/format.h>

#include <cstring>

#include "core/error.h"

namespace overproof {
namespace {

std::string stream_name(int64_t layers) { return fmt::format("stream-{}.f32", layers); }

}  // namespace

std::optional<int64_t> count_of(const Json& json) {
  if (!json.is_number_unsigned() || json.get<uint64_t>() > uint64_t(INT64_MAX)) return std::nullopt;
  return json.get<int64_t>();
}

/// The number of finished layers.
std::optional<int64_t> LayerJournal::sound(const ResumePoint& point, const Expect& expect) const {
  if (!point.progress.contains("layers") || point.files.size() != 2) return std::nullopt;
  const auto layers = count_of(point.progress["layers"]);
  if (!layers || *layers < 1 || *layers > shape_.layers) return std::nullopt;
  const auto bytes = expect(*layers, point.progress);
  const FileRecord &spill = point.files[0], &stream = point.files[1];
  if (!bytes || spill.name != spill_name_ || spill.bytes != *bytes || !shape_.stream_elements ||
      stream.name != stream_name(*layers) || stream.bytes % 4 != 0 || stream.bytes / 4 != *shape_.stream_elements)
    return std::nullopt;
  return layers;
}

LayerJournal::LayerJournal(const fs::path& scratch, const Digest& stage_key, std::string spill, const Shape& shape,
                           const Expect& expect)
    : scratch_(scratch),
      spill_name_(std::move(spill)),
      shape_(shape),
      resume_(scratch, stage_key),
      folder_(scratch, Unfinished::kept) {
  fs::create_directories(scratch);
  const auto point = resume_.read(&folder_);
  if (const auto layers = point ? sound(*point, expect) : std::nullopt) {
    layers_done_ = *layers;
    progress_ = point->progress;
    stream_ = point->files[1];
  } else {
    resume_.clear();
    folder_ = OutputFolder(scratch, Unfinished::kept);
  }
  spill_.emplace(folder_.open(spill_name_));
  spill_->skip(spill_->kept_bytes_left());
}

void LayerJournal::read_stream(std::span<float> out) const {
  OVERPROOF_CHECK(stream_ && int64_t(out.size_bytes()) == stream_->bytes);
  const MappedFile file(scratch_ / stream_->name);
  if (file.size() < stream_->bytes) throw FormatError(file.path(), file.size(), "was cut while the command was running");
  std::memcpy(out.data(), file.bytes().data(), out.size_bytes());
}

void LayerJournal::checkpoint(int64_t layers_done, Json progress, std::span<const float> stream) {
  OVERPROOF_CHECK(shape_.stream_elements && int64_t(stream.size()) == *shape_.stream_elements);
  OutputFolder folder(scratch_);
  OutputFile file = folder.open(stream_name(layers_done));
  file.write(stream.data(), stream.size_bytes());
  folder.finish(std::move(file));
  fsync_folder(scratch_);
  progress["layers"] = layers_done;
  layers_done_ = layers_done;
  progress_ = std::move(progress);
  stream_ = folder.records().at(0);
  resume_.write({{spill_->sync(), *stream_}, progress_});
}

MappedFile LayerJournal::spilled(int64_t bytes) {
  if (spill_) spill_->close();
  spill_.reset();
  MappedFile file(scratch_ / spill_name_);
  if (file.size() < bytes) throw FormatError(file.path(), file.size(), "was cut while the command was running");
  return file;
}

void LayerJournal::clear() {
  spill_.reset();
  resume_.clear();
  std::error_code ignored;
  fs::remove(scratch_ / spill_name_, ignored);
}

}  // namespace overproof
