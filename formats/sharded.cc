#include "formats/sharded.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "formats/safetensors_checkpoint.h"

namespace overproof {

ShardedWriter::ShardedWriter(OutputFolder& folder, std::vector<TensorInfo> tensors, const Metadata& metadata,
                             int64_t max_shard_bytes)
    : folder_(folder), tensors_(std::move(tensors)), metadata_(metadata), first_{0} {
  int64_t bytes = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (i > first_.back() && bytes + tensors_[i].bytes() > max_shard_bytes) {
      first_.push_back(i);
      bytes = 0;
    }
    bytes += tensors_[i].bytes();
  }
  first_.push_back(tensors_.size());
  open_next_shard();
  left_ = tensors_.empty() ? 0 : tensors_[0].bytes();
  count(0);
}

std::string ShardedWriter::shard_name(size_t shard) const {
  const size_t shards = first_.size() - 1;
  if (shards == 1) return kSafetensorsName;
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
}

void ShardedWriter::open_next_shard() {
  if (writer_) writer_->close();
  writer_.emplace(
      folder_, shard_name(shard_),
      std::vector<TensorInfo>(tensors_.begin() + int64_t(first_[shard_]), tensors_.begin() + int64_t(first_[shard_ + 1])),
      metadata_);
  ++shard_;
}

/// Books bytes of the current tensor and moves on over every tensor that is complete.
void ShardedWriter::count(int64_t bytes) {
  left_ -= bytes;
  while (left_ == 0 && current_ < tensors_.size()) {
    ++current_;
    if (current_ == tensors_.size()) break;
    if (current_ == first_[shard_]) open_next_shard();
    left_ = tensors_[current_].bytes();
  }
}

void ShardedWriter::append(std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    OVERPROOF_CHECK(left_ > 0);  // more bytes than declared
    const size_t part = std::min(bytes.size(), size_t(left_));
    writer_->append(bytes.data(), part);
    count(int64_t(part));
    bytes = bytes.subspan(part);
  }
}

void ShardedWriter::skip(int64_t bytes) {
  while (bytes > 0) {
    OVERPROOF_CHECK(left_ > 0);
    const int64_t part = std::min(bytes, left_);
    writer_->skip(part);
    count(part);
    bytes -= part;
  }
}

std::vector<FileRecord> ShardedWriter::sync() {
  std::vector<FileRecord> files = folder_.records();
  files.push_back(writer_->sync());
  return files;
}

void ShardedWriter::append_f32(std::span<const float> values) {
  if (values.empty()) return;
  OVERPROOF_CHECK(current_ < tensors_.size());
  const int64_t bytes = int64_t(values.size()) * dtype_bytes(tensors_[current_].dtype);
  OVERPROOF_CHECK(bytes <= left_);
  writer_->append_f32(values);
  count(bytes);
}

void ShardedWriter::close() {
  OVERPROOF_CHECK(current_ == tensors_.size());
  writer_->close();
  if (first_.size() == 2) return;
  Json map = Json::object();
  int64_t total = 0;
  for (size_t shard = 0; shard + 1 < first_.size(); ++shard) {
    for (size_t i = first_[shard]; i < first_[shard + 1]; ++i) {
      map[tensors_[i].name] = shard_name(shard);
      total += tensors_[i].bytes();
    }
  }
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  folder_.write_file(kSafetensorsIndexName, index.dump(2) + "\n");
}

}  // namespace overproof
