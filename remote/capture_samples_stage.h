#pragma once
// Stage "capture-samples": asks a teacher behind a URL that gives text only, and stores its answers as samples with a lineage, which
// `corpus --samples` takes.
//
//   samples/documents.jsonl   {"messages": [...], "name", "license", "source", "parents"}: the prompt's messages and the answer
//   samples/sampling.json     teacher, how it was asked, and how many documents
//   checkpoints/answers-<root>.ledger   next to the artifact: as of `capture`, whose answers count to the same budget

#include <optional>
#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "remote/caller.h"
#include "remote/capture_plan.h"

namespace overproof {

enum class LengthField { max_tokens, max_completion_tokens };

struct CaptureSamplesConfig {
  int64_t count = 0, per_prompt = 1, max_tokens = 1024, prompt_bytes = 400, seed = 0;
  std::optional<double> temperature = 1.0, top_p;
  std::string system, instruction = "Continue this text: {text}", license = "LicenseRef-model-output";
  LengthField length_field = LengthField::max_tokens;
  bool keep_cut = false;
  CallOptions call;
  template <class V>
  void visit(V&& v) {
    v("count", count, at_least(0), "prompts to ask, from the first on; 0: all");
    v("per-prompt", per_prompt, in_range(1, 1000), "answers to each prompt, each with a seed of its own");
    v("max-tokens", max_tokens, in_range(1, 1 << 20), "most tokens of an answer");
    v("length-field", length_field,
      enum_of<LengthField>({{"max_tokens", LengthField::max_tokens}, {"max_completion_tokens", LengthField::max_completion_tokens}}),
      "the member of a request that has max-tokens: newer APIs of OpenAI take only the second");
    v("temperature", temperature, or_word("default", in_range(0, 20)), "of the server's draws; default: not sent, as some APIs require");
    v("top-p", top_p, or_word("default", in_range(0.01, 1)), "mass of the ids that the server draws from; default: not sent");
    v("seed", seed, in_range(0, 1 << 30), "answer k to a prompt is asked for with seed + k; also the order of a corpus's documents");
    v("system", system, any_value(), "a system message before prompts that have none");
    v("instruction", instruction, any_value(), "with a corpus: what is asked; {text} is the beginning of a document");
    v("prompt-bytes", prompt_bytes, in_range(1, 1 << 20), "with a corpus: most bytes of a document's beginning");
    v("keep-cut", keep_cut, any_value(), "keep answers that end at max-tokens or at the server's filter; else they are counted and left out");
    v("license", license, any_value(), "licence of the answers, by the teacher's terms");
    call.visit(v);
  }
};

/// What would be asked for, without asking. `kept`: the folder of the ledger. Throws as run_capture_samples does before its first request.
CaptureCount count_capture_samples(const CaptureSamplesConfig& config, const Inputs& inputs, const fs::path& kept);

/// Slots: teacher, an artifact of `connect`; and one of prompts, JSON Lines of {"prompt": "..."} or {"messages": [...]} that end with what is
/// to be answered, and corpus, the beginnings of whose training documents are the prompts. Prompts that are the same are asked once for each
/// seed. Throws FormatError naming the line at fault, UsageError, MismatchError when the server answers as another model or no answer
/// can be kept; otherwise as Caller::call.
StageReport run_capture_samples(const CaptureSamplesConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
