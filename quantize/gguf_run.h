#pragma once
// A checkpoint on its way into a GGUF file through the streaming engine: the one way in which GGUF is written.

#include <memory>
#include <string>
#include <vector>

#include "core/stage.h"
#include "formats/gguf_parts.h"
#include "quantize/engine.h"

namespace overproof {

inline constexpr char kGgufName[] = "model.gguf";

/// The plan's items are the parts of the file, in its order. It points into the model that it was made of.
struct GgufRun {
  GgufPlan gguf;
  Checkpoint view;  ///< the model's, with the parts for tensors
  const GgufParts* parts = nullptr;
  Plan plan;
  std::vector<std::string> notes;  ///< what a user should know of the file: what was left out, what the tokenizer lacks

  /// Writes model.gguf, and notes the digests of what was read for slot "model".
  EngineResult write(const Inputs& inputs, Outputs& outputs, const EngineOptions& options) const;
};

/// `choice` says what each matrix shall be; `blocks` makes Q8_0 of those for which it says so, and may be null when there are
/// none. `name`, unless empty, is general.name. Values that are kept must be finite. Throws as plan_gguf and add_gguf_vocabulary.
std::unique_ptr<GgufRun> plan_gguf_run(const Checkpoint& model, const GgufChoice& choice, std::unique_ptr<Scheme> blocks,
                                       std::string_view name = {});

}  // namespace overproof
