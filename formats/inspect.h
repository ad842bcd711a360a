#pragma once
// The content of a tensor file or of a folder of them, as text and as JSON.

#include <filesystem>

#include "core/answer.h"
#include "core/config.h"

namespace overproof {

/// Lists tensors (name, dtype, shape, bytes), metadata and totals of a .safetensors or .gguf file, or of all those in a folder,
/// as they are stored. JSON: {path, files: [{file, format, metadata, tensors}], tensors, elements, bytes}.
/// Long metadata arrays are given by their length only. Throws IoError or FormatError.
Answer inspect(const std::filesystem::path& path);

struct InspectConfig {
  bool as_model = false;
  bool digests = false;

  template <class V>
  void visit(V&& v) {
    v("as-model", as_model, any_value(),
      "lists the tensors as every stage sees them: 8-bit weights dequantised, experts one by one, each with its role");
    v("digests", digests, any_value(), "with --as-model: SHA-256 of each tensor's values as little-endian f32, row by row");
  }
};

/// The tensors of a checkpoint as open_checkpoint() presents them. JSON: {path, model_type, assumption, tensors: [{name, dtype, shape, role,
/// quantized_by, sha256}]}; quantized_by is the name of the group of quantization_config, or null. Throws as open_checkpoint
/// does.
Answer inspect_model(const InspectConfig& config, const std::filesystem::path& path);

}  // namespace overproof
