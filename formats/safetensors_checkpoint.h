#pragma once
// A folder of safetensors as one TensorSource: model.safetensors, or shards listed in model.safetensors.index.json.

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "formats/safetensors.h"

namespace overproof {

inline constexpr const char* kSafetensorsName = "model.safetensors";
inline constexpr const char* kSafetensorsIndexName = "model.safetensors.index.json";

/// Opens and checks every shard. Where both a model.safetensors and an index are there, the single file counts, as in transformers. The index
/// names the files that are shards, all inside the folder, and every tensor in them counts, as in transformers 5.23; where it is wrong about
/// their places there are notes. Throws IoError when there is neither file, FormatError when a shard is missing, or two have a tensor of
/// one name with different values.
class SafetensorsCheckpoint : public TensorSource {
 public:
  explicit SafetensorsCheckpoint(const fs::path& folder);
  const std::vector<TensorInfo>& tensors() const override { return table_.list(); }
  const TensorInfo* find(std::string_view name) const override { return table_.find(name); }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;
  const std::vector<fs::path>& files() const override { return files_; }
  std::optional<RowExtent> extent(std::string_view name) const override;
  void decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                   std::span<float> out) const override;
  std::span<const uint8_t> bytes(std::string_view name) const;  ///< as stored, in the map; throws FormatError when missing
  const std::vector<SafetensorsFile>& shards() const { return shards_; }
  /// Of the tensors that the index lists and no shard has: how many, and one of them. Empty where there are none.
  const std::string& absent() const { return absent_; }
  /// In what else index and shards contradict each other; what was read in spite of it.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  struct Count {
    int64_t number = 0;
    std::string first;
    void add(const std::string& one);
    std::string text() const;  ///< "2 tensors"
  };
  void add_shard(const fs::path& file);
  void open_shards();
  fs::path folder_;
  std::string absent_;
  std::vector<std::string> notes_;
  Count twice_;
  std::set<std::pair<std::string, std::string>> copies_;  // shard and tensor, of tensors that an earlier shard has with the same values
  std::vector<SafetensorsFile> shards_;
  std::vector<fs::path> files_;                  // of shards_
  TensorTable table_;                            // all shards' tensors, one after another
  std::vector<std::span<const uint8_t>> data_;   // in the order of table_.list()
  std::vector<std::pair<int, int64_t>> places_;  // shard and offset in its file, in the order of table_.list()
};

}  // namespace overproof
