#pragma once
// Stage "sample": a teacher writes documents, for a student to be trained on, with a watermark in them if a key is given. The
// artifact is a source for the stage "corpus".
//
//   samples/documents.jsonl      one record a document: name, license, source (which names the teacher, for chats with "chat" at its end),
//                                ids: those of the document, which `corpus` takes; parents: what it was sampled from
//   samples/samples/000000.txt   its text, of a chat with the markers of its turns
//   samples/tokens.jsonl         {"name", "before", "tokens"}: the ids drawn, and those before them that decided the first green
//                                lists; of a chat two records, question and answer
//   samples/tasks.jsonl          with tasks: these, byte for byte. A record of documents.jsonl is then a conversation, or prompt and completion, with "task",
//                                the name of its task; it has neither ids nor a file with its text. A completion that has no token has no record.
//   samples/sampling.json        teacher, its tokenizer, options and, of the watermark, what may be published: parameters and the
//                                key's commitment

#include <string>

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

struct SampleConfig {
  std::string license = "LicenseRef-model-output";
  int64_t count = 100, max_tokens = 256, prompt_tokens = 16, seed = 0;
  double temperature = 1.0, answer_temperature = -1.0, top_p = 1.0;
  double watermark_strength = 2.0;
  int64_t batch_size = 16;
  double chat = 0.0;
  int64_t per_task = 1;
  bool plain_prompts = false;
  std::string system = "You are a helpful AI assistant.";
  template <class V>
  void visit(V&& v) {
    v("count", count, in_range(1, 1e7), "number of documents");
    v("max-tokens", max_tokens, in_range(1, 1 << 20),
      "largest number of tokens of a document; an end-of-text token ends it earlier");
    v("prompt-tokens", prompt_tokens, in_range(1, 1 << 16), "tokens of a prompt");
    v("temperature", temperature, in_range(0, 20), "divides the logits; 0: always the most probable token");
    v("answer-temperature", answer_temperature, in_range(-1, 20),
      "the same for what follows a prompt: the answer of a chat, a completion, and of a text written from nothing what comes after prompt-tokens "
      "ids. Low for documents that begin differently and continue as the teacher most probably would (sequence-level distillation, Kim and Rush "
      "2016). -1: as temperature");
    v("top-p", top_p, in_range(1e-6, 1), "draw from the most probable tokens that together reach this probability");
    v("seed", seed, seed_value(), "seed of the draws");
    v("license", license, any_value(), "licence of the documents, by the teacher's terms");
    v("watermark-strength", watermark_strength, in_range(0, 20), "added to the logits of green tokens");
    v("batch-size", batch_size, in_range(1, 4096), "documents written at a time; changes no document");
    v("chat", chat, in_range(0, 1),
      "share of the documents that are chats in the teacher's own template, for instruction models: it writes the question as well");
    v("per-task", per_task, in_range(1, 1e6), "completions of each task; their number is then not 'count'");
    v("plain-prompts", plain_prompts, any_value(), "prompts of tasks are texts to continue: the model's chat template is not used");
    v("system", system, any_value(), "system turn before which the questions of chats are written; every other chat keeps it. Empty: none");
  }
};

/// Slots: teacher; corpus, optional: the beginnings of its training documents are the prompts of completions, else the token
/// that comes before a text; tasks, optional: a file of tasks (verify/task.h), whose prompts are completed; watermark-key, optional: a key made by `watermark-key`. Document i depends on seed and i only, so a
/// killed run resumes after the last document that was saved, with the same bytes. Throws MismatchError when corpus or
/// teacher give no prompt, chats are asked of a teacher without a chat template or with one whose turns have no markers, or the teacher ends each document at once;
/// DivergenceError when its logits are not finite.
StageReport run_sample(const SampleConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
