// open_checkpoint: detects the format of a path. Declared in formats/tensor_source.h.

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "core/python_json.h"
#include "core/real_path.h"
#include "formats/architecture.h"
#include "formats/folder_contents.h"
#include "formats/gguf_checkpoint.h"
#include "formats/quantized_checkpoint.h"
#include "formats/split_experts.h"
#include "formats/tensor_source.h"

namespace overproof {
namespace {

constexpr std::string_view kEmbedding = "model.embed_tokens.weight", kHead = "lm_head.weight";

Checkpoint open_gguf(const fs::path& path, const fs::path& file) {
  Checkpoint checkpoint;
  auto tensors = std::make_unique<GgufCheckpoint>(file);
  if (path == file && tensors->files().size() > 1)
    throw FormatError(path, -1,
                      fmt::format("is one of {} parts of a model; put them all in a folder of their own and give that folder",
                                  tensors->files().size()));
  checkpoint.path = path;
  *checkpoint.config = tensors->config();
  checkpoint.tensors = std::move(tensors);
  return checkpoint;
}

bool same_values(const TensorSource& source, const TensorInfo& a, const TensorInfo& b) {
  if (a.shape != b.shape) return false;
  constexpr int64_t kElements = 1 << 20;  // read at once
  const int64_t width = std::max<int64_t>(1, a.row_elements()), rows = a.shape.empty() ? 1 : a.shape[0];
  const int64_t block = std::max<int64_t>(1, kElements / width);
  std::vector<float> left, right;
  for (int64_t row = 0; row < rows; row += block) {
    const int64_t n = std::min(block, rows - row);
    left.resize(size_t(n * a.row_elements()));
    right.resize(left.size());
    source.read_f32(a.name, row, n, left);
    source.read_f32(b.name, row, n, right);
    if (left != right) return false;
  }
  return true;
}

/// transformers ties head and embedding only where their values are equal, whatever config.json states (noted by formats/model_check).
void untie_other_head(Checkpoint& checkpoint) {
  Json& config = *checkpoint.config;
  if (const ModelKind* kind = find_model_kind(Architecture(config).model_type()); kind && kind->computed.tied && !config.contains("tie_word_embeddings"))
    config["tie_word_embeddings"] = true;  // what leaving it out means there
  const auto tie = config.find("tie_word_embeddings");
  const TensorSource& source = *checkpoint.tensors;
  const TensorInfo *embedding = source.find(kEmbedding), *head = source.find(kHead);
  if (tie == config.end() || *tie != true || !embedding || !head || !has_values(embedding->dtype) || !has_values(head->dtype) ||
      same_values(source, *embedding, *head))
    return;
  config["tie_word_embeddings"] = false;
}

Checkpoint open_folder(const fs::path& path) {
  Checkpoint checkpoint;
  checkpoint.path = path;
  Json& config = *checkpoint.config;
  config = read_python_json(path / "config.json");
  if (!config.is_object()) throw FormatError(path / "config.json", 0, "is not a JSON object");

  const SafetensorsCheckpoint* stored = nullptr;
  if (has_quantization_config(config)) {
    checkpoint.quantization = std::make_unique<QuantizationConfig>(path / "config.json", config["quantization_config"]);
    auto tensors = std::make_unique<QuantizedCheckpoint>(path, *checkpoint.quantization);
    stored = &tensors->stored();
    checkpoint.tensors = std::move(tensors);
  } else {
    auto tensors = std::make_unique<SafetensorsCheckpoint>(path);
    refuse_quantized_parts(*tensors, path, config);
    stored = tensors.get();
    checkpoint.tensors = std::move(tensors);
  }
  const Architecture architecture(config);
  // Of a model type that is known, formats/model_check finds what the model needs.
  if (!architecture.known() && !stored->absent().empty())
    throw FormatError(path, -1, stored->absent() + "; is the download complete?");
  if (SplitExperts::needed(*checkpoint.tensors, architecture, path)) {
    auto tensors = std::make_unique<SplitExperts>(std::move(checkpoint.tensors), *stored, architecture, path);
    for (const std::string& module : tensors->split_modules()) {
      if (checkpoint.quantization) checkpoint.quantization->add_plain(module);
    }
    checkpoint.tensors = std::move(tensors);
  }
  untie_other_head(checkpoint);
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
  if (fs::exists(path / "server.json"))
    throw FormatError(path, -1, "is a teacher behind a URL and has no weights; `overproof capture` takes its outputs");
  const std::optional<fs::path> gguf = gguf_in_folder(path);
  if (!gguf) throw IoError(path, "has neither config.json nor a .gguf file" + what_else_is_in(path), 0);
  return open_gguf(path, *gguf);
}

}  // namespace overproof
