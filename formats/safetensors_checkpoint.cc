#include "formats/safetensors_checkpoint.h"

#include <fmt/format.h>

#include <set>

#include "core/error.h"
#include "core/json.h"

namespace overproof {

SafetensorsCheckpoint::SafetensorsCheckpoint(const fs::path& folder) : folder_(folder) {
  const fs::path index_file = folder / kSafetensorsIndexName;
  if (!fs::exists(index_file)) {
    if (!fs::exists(folder / kSafetensorsName)) {
      throw IoError(folder, fmt::format("has neither {} nor {}", kSafetensorsName, kSafetensorsIndexName), 0);
    }
    add_shard(folder / kSafetensorsName);
    return;
  }
  const Json index = read_json(index_file);
  const auto refuse = [&](const std::string& cause) { throw FormatError(index_file, -1, cause); };
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) refuse("has no weight_map");
  const Json& map = index["weight_map"];
  std::set<std::string> files;
  for (const auto& [name, file] : map.items()) {
    if (!file.is_string()) refuse(fmt::format("weight_map of '{}' is not a file name", name));
    const std::string& shard = file.get_ref<const std::string&>();
    if (!is_safe_relative_name(shard)) refuse(fmt::format("weight_map of '{}' leaves the folder: '{}'", name, shard));
    // Signatures leave out .git and its like, and imports leave out every hidden file: weights in one could be changed unseen.
    if (shard.starts_with('.') || shard.find("/.") != std::string::npos)
      refuse(fmt::format("weight_map of '{}' names a hidden file, which no signature covers: '{}'", name, shard));
    files.insert(file.get<std::string>());
  }
  for (const std::string& file : files) {
    if (!fs::is_regular_file(folder / file)) refuse(fmt::format("names the shard '{}', which is missing", file));
    add_shard(folder / file);
    for (const TensorInfo& t : shards_.back().tensors()) {
      if (!map.contains(t.name)) refuse(fmt::format("does not list the tensor '{}' of '{}'", t.name, file));
      if (map[t.name] != file)
        refuse(fmt::format("places the tensor '{}' in '{}'; it is in '{}'", t.name, map[t.name].get<std::string>(), file));
    }
  }
  for (const auto& [name, file] : map.items()) {
    if (!table_.find(name))
      refuse(fmt::format("places the tensor '{}' in '{}', which does not have it", name, file.get<std::string>()));
  }
}

void SafetensorsCheckpoint::add_shard(const fs::path& file) {
  shards_.emplace_back(file);
  for (const TensorInfo& t : shards_.back().tensors()) {
    if (!table_.add(t)) throw FormatError(file, -1, fmt::format("the tensor '{}' is in another shard, too", t.name));
    data_.push_back(shards_.back().bytes(t.name));
    places_.emplace_back(int(files_.size()), shards_.back().offset(t.name));
  }
  files_.push_back(file);
}

void SafetensorsCheckpoint::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const size_t i = table_.row_range(folder_, name, first_row, rows, out);
  const TensorInfo& t = table_.list()[i];
  elements_to_f32(t.dtype, data_[i].data() + first_row * t.row_elements() * dtype_bytes(t.dtype), out);
}

std::optional<RowExtent> SafetensorsCheckpoint::extent(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  if (!t) return std::nullopt;
  const auto& [file, offset] = places_[table_.index_of(*t)];
  return RowExtent{file, offset, t->row_elements() * dtype_bytes(t->dtype), 1};
}

void SafetensorsCheckpoint::decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                                        std::span<float> out) const {
  const TensorInfo& t = table_.list()[table_.row_range(folder_, name, first_row, rows, out)];
  OVERPROOF_CHECK(int64_t(stored.size()) == rows * t.row_elements() * dtype_bytes(t.dtype));
  elements_to_f32(t.dtype, stored.data(), out);
}

std::span<const uint8_t> SafetensorsCheckpoint::bytes(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  if (!t) throw FormatError(folder_, -1, fmt::format("has no tensor '{}'", name));
  return data_[table_.index_of(*t)];
}

}  // namespace overproof
