#pragma once
// The `export` stage: reads a checkpoint and writes model.gguf for llama.cpp and programs built on it. Weights stream through
// quantize/engine/engine.h.

#include <cstdint>
#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "quantize/gguf_run.h"

namespace overproof {

struct ExportConfig {
  GgmlType type = GgmlType::f16;
  std::string name;
  StringList acknowledge;
  int64_t block_bytes = EngineOptions::kDefaultBlockBytes;

  template <class V>
  void visit(V&& v) {
    v("type", type, enum_of<GgmlType>({{"f16", GgmlType::f16}, {"bf16", GgmlType::bf16}, {"f32", GgmlType::f32}}),
      "type of matrices; routers, norms and biases are always f32");
    v("name", name, any_value(), "general.name of the file; empty: none");
    v("acknowledge", acknowledge, any_value(),
      "comma-separated names of licences and terms that you have reviewed and the policy asks for; recorded in the signed "
      "statement");
    v("block-bytes", block_bytes, in_range(1 << 16, double(int64_t{1} << 26)),
      "bytes read, converted and written at a time; does not change the result");
  }
};

/// Slot "model": anything that open_checkpoint reads, of an architecture in formats/gguf_names.h. Throws UsageError when llama.cpp
/// cannot hold the model or its tokenizer, or naming tensor and row of a value that the type cannot hold; FormatError naming
/// tensor and row of an infinity or NaN. The model is digested while it is read (Slot::streamed); a killed run resumes. Metrics:
/// architecture, type, tensors, skipped, values, bytes_out, notes.
StageReport run_export(const ExportConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
