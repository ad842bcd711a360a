#include "formats/inspect.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "core/digest.h"
#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "core/real_path.h"
#include "formats/architecture.h"
#include "formats/gguf.h"
#include "formats/quantization_config.h"
#include "formats/safetensors_checkpoint.h"

namespace overproof {
namespace {

constexpr int64_t kLongArray = 16;

Json value_json(const GgufFile& file, const std::string& key, const GgufValue& v) {
  if (v.is_array) {
    if (v.count > kLongArray) return fmt::format("[{} values]", v.count);
    if (v.type == GgufType::string) return file.texts(key);
    if (v.type == GgufType::f32 || v.type == GgufType::f64) return file.numbers(key);
    if (v.type == GgufType::boolean) return fmt::format("[{} flags]", v.count);
    if (v.type == GgufType::u64) return fmt::format("[{} values]", v.count);
    return file.integers(key);
  }
  if (v.type == GgufType::string) return file.text(key);
  if (v.type == GgufType::boolean) return file.boolean(key);
  if (v.type == GgufType::f32 || v.type == GgufType::f64) return file.number(key);
  if (v.type == GgufType::u64) {  // may not fit into an integer of ours: a hash, for instance
    uint64_t n;
    std::memcpy(&n, v.bytes.data(), sizeof n);
    return n;
  }
  return file.integer(key);
}

Json tensor_json(const std::string& name, std::string_view dtype, const std::vector<int64_t>& shape, int64_t bytes) {
  return {{"name", name}, {"dtype", dtype}, {"shape", shape}, {"bytes", bytes}};
}

Json inspect_gguf(const fs::path& path) {
  const GgufFile file(path);
  Json metadata = Json::object(), tensors = Json::array();
  for (const auto& [key, v] : file.metadata()) metadata[key] = value_json(file, key, v);
  for (const GgufTensor& t : file.tensors())
    tensors.push_back(tensor_json(t.name, ggml_layout(t.type).name, t.shape, int64_t(t.data.size())));
  return {{"file", path.filename().string()},
          {"format", fmt::format("GGUF {}", file.version())},
          {"metadata", metadata},
          {"tensors", tensors}};
}

Json inspect_safetensors(const fs::path& path) {
  const SafetensorsFile file(path);
  Json tensors = Json::array();
  for (const TensorInfo& t : file.tensors()) tensors.push_back(tensor_json(t.name, dtype_name(t.dtype), t.shape, t.bytes()));
  return {{"file", path.filename().string()}, {"format", "safetensors"}, {"metadata", file.metadata()}, {"tensors", tensors}};
}

/// A JSON header behind its length, in a file of any name: a blob of a cache.
bool looks_like_safetensors(const fs::path& path) {
  const MappedFile file(path);
  return file.size() > 9 && file.bytes()[8] == '{';
}

std::vector<fs::path> tensor_files(const fs::path& path) {
  if (!fs::exists(path)) throw IoError(path, "is not there", 0);
  if (!fs::is_directory(path)) return {path};
  std::set<fs::path> files;
  if (fs::exists(path / kSafetensorsIndexName)) {  // whose shards may be in folders of their own
    const SafetensorsCheckpoint checked(path);
    files.insert(checked.files().begin(), checked.files().end());
  }
  for (const auto& entry : fs::directory_iterator(path)) {
    const fs::path extension = entry.path().extension();
    if (extension == ".safetensors" || extension == ".gguf" || is_gguf(entry.path())) files.insert(entry.path());
  }
  if (files.empty()) throw IoError(path, "has no .safetensors or .gguf file", 0);
  return {files.begin(), files.end()};
}

std::string text_of(const Json& report) {
  std::string out;
  // Strings of a GGUF file may hold bytes that are not UTF-8.
  const auto text = [](const Json& v) { return dump_text(v); };
  for (const Json& file : report["files"]) {
    out += fmt::format("{} ({})\n", printable(file["file"].get<std::string>()), file["format"].get<std::string>());
    for (const auto& [key, value] : file["metadata"].items()) {
      std::string line = text(value);
      if (line.size() > 80) line = fmt::format("{}… ({} bytes)", line.substr(0, 72), line.size());
      out += fmt::format("  {} = {}\n", printable(key), printable(line));
    }
    for (const Json& t : file["tensors"]) {
      out += fmt::format("  {:<8} {:>12}  {}  [{}]\n", t["dtype"].get<std::string>(), t["bytes"].get<int64_t>(),
                         printable(t["name"].get<std::string>()), fmt::join(t["shape"].get<std::vector<int64_t>>(), ", "));
    }
  }
  return out + fmt::format("{} tensors, {} elements, {} bytes\n", report["tensors"].get<int64_t>(),
                           report["elements"].get<int64_t>(), report["bytes"].get<int64_t>());
}

constexpr int64_t kDigestBlock = int64_t{1} << 20;  // elements read at a time

std::string values_digest(const TensorSource& source, const TensorInfo& t) {
  const int64_t rows = t.shape.empty() ? 1 : t.shape[0], columns = t.row_elements();
  const int64_t block = std::max<int64_t>(1, kDigestBlock / std::max<int64_t>(1, columns));
  Sha256 hash;
  std::vector<float> values;
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t n = std::min(block, rows - first);
    values.resize(size_t(n * columns));
    source.read_f32(t.name, first, n, values);
    hash.update(values.data(), values.size() * sizeof(float));
  }
  return hash.finish().hex();
}

}  // namespace

Answer inspect_model(const InspectConfig& config, const fs::path& path) {
  const Checkpoint checkpoint = open_checkpoint(path);
  const Architecture architecture(*checkpoint.config);
  Json tensors = Json::array();
  for (const TensorInfo& t : checkpoint.tensors->tensors()) {
    Json entry = {
        {"name", t.name}, {"dtype", dtype_name(t.dtype)}, {"shape", t.shape}, {"role", role_name(architecture.role(t))}};
    const std::string_view name = t.name;
    const QuantGroup* group = checkpoint.quantization && name.ends_with(".weight")
                                  ? checkpoint.quantization->group_for(name.substr(0, name.rfind('.')))
                                  : nullptr;
    entry["quantized_by"] = group ? Json(group->name) : Json();
    if (config.digests && has_values(t.dtype)) entry["sha256"] = values_digest(*checkpoint.tensors, t);
    tensors.push_back(std::move(entry));
  }
  Answer answer;
  if (!architecture.assumption().empty()) answer.text = printable(architecture.assumption()) + "\n";
  for (const Json& t : tensors) {
    const std::string shape = fmt::format("[{}]", fmt::join(t["shape"].get<std::vector<int64_t>>(), ", "));
    answer.text += fmt::format(
        "  {:<8} {:<14} {}  {}{}{}\n", t["dtype"].get<std::string>(), t["role"].get<std::string>(),
        printable(t["name"].get<std::string>()), shape,
        t["quantized_by"].is_null() ? "" : fmt::format("  from 8 bits ({})", printable(t["quantized_by"].get<std::string>())),
        t.contains("sha256") ? "  " + t["sha256"].get<std::string>() : "");
  }
  answer.text += fmt::format("{} tensors\n", tensors.size());
  answer.json = {{"path", path.filename().string()},
                 {"model_type", architecture.model_type()},
                 {"assumption", architecture.assumption()},
                 {"tensors", std::move(tensors)}};
  return answer;
}

Answer inspect(const fs::path& path) {
  Json report = {{"path", path.filename().string()}, {"files", Json::array()}};
  int64_t tensors = 0, elements = 0, bytes = 0;
  for (const fs::path& file : tensor_files(path)) {
    const bool gguf = is_gguf(file) || file.extension() == ".gguf";
    if (!gguf && file.extension() != ".safetensors" && !looks_like_safetensors(file))
      throw FormatError(file, -1, "is neither a safetensors nor a GGUF file");
    report["files"].push_back(gguf ? inspect_gguf(file) : inspect_safetensors(file));
    for (const Json& t : report["files"].back()["tensors"]) {
      int64_t n = 1;
      for (const Json& d : t["shape"]) n *= d.get<int64_t>();
      elements += n;
      bytes += t["bytes"].get<int64_t>();
      ++tensors;
    }
  }
  report["tensors"] = tensors;
  report["elements"] = elements;
  report["bytes"] = bytes;
  std::string text = text_of(report);
  return {std::move(report), std::move(text)};
}

}  // namespace overproof
