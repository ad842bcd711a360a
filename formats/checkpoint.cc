// open_checkpoint: detects the format of a path. Declared in formats/tensor_source.h.

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "core/real_path.h"
#include "formats/gguf_checkpoint.h"
#include "formats/quantized_checkpoint.h"
#include "formats/split_experts.h"
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

Checkpoint open_folder(const fs::path& path) {
  Checkpoint checkpoint;
  checkpoint.path = path;
  Json& config = *checkpoint.config;
  config = read_json(path / "config.json");
  if (!config.is_object()) throw FormatError(path / "config.json", 0, "is not a JSON object");

  const SafetensorsCheckpoint* stored = nullptr;
  if (has_quantization_config(config)) {
    checkpoint.quantization = std::make_unique<QuantizationConfig>(path / "config.json", config["quantization_config"]);
    auto tensors = std::make_unique<QuantizedCheckpoint>(path, *checkpoint.quantization);
    stored = &tensors->stored();
    checkpoint.tensors = std::move(tensors);
  } else {
    auto tensors = std::make_unique<SafetensorsCheckpoint>(path);
    refuse_quantized_parts(*tensors, path);
    stored = tensors.get();
    checkpoint.tensors = std::move(tensors);
  }
  const Architecture architecture(config);
  if (SplitExperts::needed(*checkpoint.tensors, architecture, path)) {
    auto tensors = std::make_unique<SplitExperts>(std::move(checkpoint.tensors), *stored, architecture, path);
    for (const std::string& module : tensors->split_modules()) {
      if (checkpoint.quantization) checkpoint.quantization->add_plain(module);
    }
    checkpoint.tensors = std::move(tensors);
  }
  return checkpoint;
}

}  // namespace

Checkpoint open_checkpoint(const fs::path& path) {
  if (!fs::exists(path)) throw IoError(path, "no checkpoint here: neither a folder nor a .gguf file", 0);
  if (!fs::is_directory(path)) {
    if (!is_gguf(path) && path.extension() != ".gguf") throw FormatError(path, -1, "is neither a folder nor a GGUF file");
    return open_gguf(path, path);
  }
  if (fs::exists(path / "config.json")) {
    return open_folder(path);
  }
  std::vector<fs::path> ggufs;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().extension() == ".gguf" || is_gguf(entry.path())) ggufs.push_back(entry.path());
  }
  if (ggufs.size() > 1) throw FormatError(path, -1, fmt::format("has {} .gguf files; name the one to open", ggufs.size()));
  if (ggufs.empty()) throw IoError(path, "has neither config.json nor a .gguf file", 0);
  return open_gguf(path, ggufs[0]);
}

}  // namespace overproof
