#pragma once
// Writes a checkpoint into a GGUF file with the streaming engine, for `export` and the GGUF schemes of `quantize`.

#include <memory>
#include <string>
#include <vector>

#include "core/stage.h"
#include "formats/gguf_parts.h"
#include "quantize/engine/engine.h"

namespace overproof {

inline constexpr char kGgufName[] = "model.gguf";

/// The items of the plan are the parts of the file, in its order. Points into the model it was made from.
struct GgufRun {
  GgufPlan gguf;
  Checkpoint view;  ///< the model, with the parts as its tensors
  const GgufParts* parts = nullptr;
  Plan plan;
  std::vector<std::string> notes;  ///< for the user: what was not written, what the tokenizer lacks

  /// Writes model.gguf and notes the digests of the files that were read for slot "model".
  EngineResult write(Outputs& outputs, const EngineOptions& options) const;
};

/// `choice` gives the type of each matrix; `blocks` makes those of type Q8_0, and may be null when there are none. `name`, unless
/// empty, becomes general.name. Kept values must be finite. Throws as plan_gguf and add_gguf_vocabulary.
std::unique_ptr<GgufRun> plan_gguf_run(const Checkpoint& model, const GgufChoice& choice, std::unique_ptr<Scheme> blocks,
                                       std::string_view name = {});

}  // namespace overproof
