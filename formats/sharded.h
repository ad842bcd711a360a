#pragma once
// Writes a checkpoint of any size as model.safetensors, or as shards with an index, streaming.

#include <optional>

#include "formats/safetensors.h"
#include "formats/tensor_sink.h"

namespace overproof {

inline constexpr int64_t kDefaultShardBytes = int64_t{5} << 30;

/// All tensors are declared first, their bytes are written in that order. They are cut into as few shards as fit into
/// `max_shard_bytes` in order; a tensor is never split, so a larger one has a shard of its own. One shard is called
/// model.safetensors, more are model-00001-of-00002.safetensors, ... and model.safetensors.index.json. Throws IoError.
class ShardedWriter final : public TensorSink {
 public:
  ShardedWriter(OutputFolder& folder, std::vector<TensorInfo> tensors, const Metadata& metadata = {{"format", "pt"}},
                int64_t max_shard_bytes = kDefaultShardBytes);
  void append(std::span<const uint8_t> bytes) override;
  void append(const void* data, size_t bytes) { append({static_cast<const uint8_t*>(data), bytes}); }
  /// f32 values in the dtype of the current tensor (f32, f16, bf16).
  void append_f32(std::span<const float> values);
  /// The tensor that the next bytes belong to; nullptr when all are written.
  const TensorInfo* current() const { return current_ < tensors_.size() ? &tensors_[current_] : nullptr; }
  void skip(int64_t bytes) override;
  std::vector<FileRecord> sync() override;
  /// All declared bytes must have been written. Finishes the last shard and writes the index.
  void close() override;

 private:
  std::string shard_name(size_t shard) const;
  void open_next_shard();
  void count(int64_t bytes);
  OutputFolder& folder_;
  std::vector<TensorInfo> tensors_;
  Metadata metadata_;
  std::vector<size_t> first_;  // of each shard, and one past the last tensor
  size_t shard_ = 0;           // the next to open
  size_t current_ = 0;
  int64_t left_ = 0;
  std::optional<SafetensorsWriter> writer_;
};

}  // namespace overproof
