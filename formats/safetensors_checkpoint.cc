#include "formats/safetensors_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "formats/folder_contents.h"

namespace overproof {

SafetensorsCheckpoint::SafetensorsCheckpoint(const fs::path& folder) : folder_(folder) {
  const bool single = fs::exists(folder / kSafetensorsName), index = fs::exists(folder / kSafetensorsIndexName);
  if (!single && !index)
    throw IoError(folder,
                  fmt::format("has neither {} nor {}{}", kSafetensorsName, kSafetensorsIndexName, what_else_is_in(folder)), 0);
  if (single) add_shard(folder / kSafetensorsName);
  else open_shards();
}

void SafetensorsCheckpoint::open_shards() {
  const fs::path index_file = folder_ / kSafetensorsIndexName;
  const Json index = read_json(index_file);
  const auto refuse = [&](const std::string& cause) { throw FormatError(index_file, -1, cause); };
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) refuse("has no weight_map");
  std::map<std::string, std::string> map;  // file by tensor
  std::set<std::string> files;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) refuse(fmt::format("weight_map of '{}' is not a file name", name));
    const std::string plain = fs::path(file.get<std::string>()).lexically_normal().generic_string();  // "./x" is x
    if (!is_safe_relative_name(plain))
      refuse(fmt::format("weight_map of '{}' leaves the folder: '{}'", name, file.get_ref<const std::string&>()));
    // Signatures leave out .git and its like, and imports leave out every hidden file: weights in one could be changed unseen.
    if (plain.starts_with('.') || plain.find("/.") != std::string::npos)
      refuse(fmt::format("weight_map of '{}' names a hidden file, which no signature covers: '{}'", name, plain));
    map[name] = plain;
    files.insert(plain);
  }
  for (const std::string& file : files) {
    if (!fs::is_regular_file(folder_ / file))
      refuse(fmt::format("names the shard '{}', which is missing; is the download complete?", file));
    add_shard(folder_ / file);
  }
  // As transformers, which opens the files that the map names and takes all that is in them, wherever the map places it.
  Count unlisted, misplaced;
  for (const TensorInfo& t : table_.list()) {
    const std::string file = files_[size_t(places_[table_.index_of(t)].first)].lexically_relative(folder_).generic_string();
    const auto place = map.find(t.name);
    if (place == map.end()) unlisted.add(fmt::format("'{}' of '{}'", t.name, file));
    else if (place->second != file && !copies_.contains({place->second, t.name}))
      misplaced.add(fmt::format("'{}' in '{}', which is in '{}'", t.name, place->second, file));
  }
  if (unlisted.number > 0)
    notes_.push_back(fmt::format("{} does not list {} that its shards have, the first {}: read, as in transformers; is the index of another "
                                 "version of the model?",
                                 kSafetensorsIndexName, unlisted.text(), unlisted.first));
  if (misplaced.number > 0)
    notes_.push_back(fmt::format("{} places {} in shards that do not have them, the first {}: read where they are, as in transformers",
                                 kSafetensorsIndexName, misplaced.text(), misplaced.first));
  if (twice_.number > 0)
    notes_.push_back(fmt::format("{} in two shards with the same values, the first {}", twice_.text(), twice_.first));
  Count absent;
  for (const auto& [name, file] : map)
    if (!table_.find(name)) absent.add(fmt::format("'{}' in '{}'", name, file));
  if (absent.number > 0)
    absent_ = fmt::format("{} lists {} that its shards do not have, the first {}", kSafetensorsIndexName, absent.text(), absent.first);
}

void SafetensorsCheckpoint::Count::add(const std::string& one) {
  if (number++ == 0) first = one;
}

std::string SafetensorsCheckpoint::Count::text() const { return fmt::format("{} tensor{}", number, number == 1 ? "" : "s"); }

void SafetensorsCheckpoint::add_shard(const fs::path& file) {
  shards_.emplace_back(file);
  for (const TensorInfo& t : shards_.back().tensors()) {
    const std::span<const uint8_t> bytes = shards_.back().bytes(t.name);
    if (table_.add(t)) {
      data_.push_back(bytes);
      places_.emplace_back(int(files_.size()), shards_.back().offset(t.name));
      continue;
    }
    const size_t before = table_.index_of(*table_.find(t.name));
    const TensorInfo& other = table_.list()[before];
    const fs::path& other_file = files_[size_t(places_[before].first)];
    if (other.dtype != t.dtype || other.shape != t.shape || !std::ranges::equal(data_[before], bytes))
      throw FormatError(file, -1,
                        fmt::format("the tensor '{}' is in '{}', too, with other values; keep one of them (transformers would take that of the "
                                    "file whose name sorts last)",
                                    t.name, other_file.lexically_relative(folder_).generic_string()));
    const std::string name = file.lexically_relative(folder_).generic_string();
    twice_.add(fmt::format("'{}', in '{}' and '{}'", t.name, other_file.lexically_relative(folder_).generic_string(), name));
    copies_.insert({name, t.name});
  }
  files_.push_back(file);
}

void SafetensorsCheckpoint::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const size_t i = table_.row_range(folder_, name, first_row, rows, out);
  const TensorInfo& t = table_.list()[i];
  const uint8_t* stored = data_[i].data() + first_row * t.row_elements() * dtype_bytes(t.dtype);
  elements_to_f32(t.dtype, stored, out);
  done_reading(stored, out.size() * size_t(dtype_bytes(t.dtype)));
}

std::optional<RowExtent> SafetensorsCheckpoint::extent(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  if (!t) return std::nullopt;
  const auto& [file, offset] = places_[table_.index_of(*t)];
  if (t->row_elements() * dtype_bits(t->dtype) % 8 != 0) return std::nullopt;  // rows end within a byte
  return RowExtent{file, offset, t->row_bytes(), 1};
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
