// open_checkpoint: finds out what stands at a path. Declared in formats/tensor_source.h.

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "formats/compressed_tensors.h"
#include "formats/gguf_checkpoint.h"
#include "formats/safetensors_checkpoint.h"
#include "formats/tensor_source.h"

namespace overproof {
namespace {

Checkpoint open_gguf(const fs::path& path, const fs::path& file) {
  Checkpoint checkpoint;
  auto tensors = std::make_unique<GgufCheckpoint>(file);
  checkpoint.path = path;
  *checkpoint.config = tensors->config();
  checkpoint.tensors = std::move(tensors);
  return checkpoint;
}

}  // namespace

Checkpoint open_checkpoint(const fs::path& path) {
  if (!fs::exists(path)) throw IoError(path, "there is no checkpoint: neither a folder nor a .gguf file", 0);
  if (!fs::is_directory(path)) {
    if (path.extension() != ".gguf") throw FormatError(path, -1, "is neither a folder nor a .gguf file");
    return open_gguf(path, path);
  }
  if (fs::exists(path / "config.json")) {
    Checkpoint checkpoint;
    checkpoint.path = path;
    *checkpoint.config = read_json(path / "config.json");
    if (!checkpoint.config->is_object()) throw FormatError(path / "config.json", 0, "is not a JSON object");
    if (has_quantization_config(*checkpoint.config)) {
      checkpoint.tensors = std::make_unique<CompressedTensorsCheckpoint>(path, *checkpoint.config);
    } else {
      checkpoint.tensors = std::make_unique<SafetensorsCheckpoint>(path);
    }
    return checkpoint;
  }
  std::vector<fs::path> ggufs;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().extension() == ".gguf") ggufs.push_back(entry.path());
  }
  if (ggufs.size() > 1) throw FormatError(path, -1, fmt::format("has {} .gguf files; name the one to open", ggufs.size()));
  if (ggufs.empty()) throw IoError(path, "has neither config.json nor a .gguf file", 0);
  return open_gguf(path, ggufs[0]);
}

}  // namespace overproof
