#pragma once
// The `export` stage: a checkpoint in, model.gguf out, for llama.cpp and what is built on it. Weights stream through
// quantize/engine.h.

#include <cstdint>
#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "quantize/gguf_run.h"

namespace overproof {

struct ExportConfig {
  std::string type = "f16";
  std::string name;
  std::string acknowledge;
  int64_t block_bytes = EngineOptions::kDefaultBlockBytes;

  template <class V>
  void visit(V&& v) {
    v("type", type, one_of({"f16", "bf16", "f32"}), "what matrices are written as; routers, norms and biases are f32 always");
    v("name", name, any_value(), "what the model is called in the file (general.name); empty leaves it out");
    v("acknowledge", acknowledge, any_value(),
      "licences and terms that somebody has looked at, by name, apart by commas; the policy asks for them, and they are signed");
    v("block-bytes", block_bytes, in_range(1 << 16, double(int64_t{1} << 26)),
      "bytes read, worked on and written at a time; changes no result");
  }
};

/// Slot "model": what open_checkpoint reads, of an architecture of formats/gguf_names.h. Throws UsageError where llama.cpp has no
/// place for the model or its tokenizer, or naming tensor and row of a value that the type cannot hold; FormatError naming those
/// of an infinity or NaN. The model is digested while it is read (Slot::streamed); a killed run goes on where it was. Metrics:
/// architecture, type, tensors, skipped, values, bytes_out, notes.
StageReport run_export(const ExportConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
