#pragma once
// `overproof sample`: lets a teacher write documents of its own, for a student to be trained on, and plants a watermark in them.
// The folder that it writes is a source for the corpus stage.
//
//   documents.jsonl      one record a document: name, license, source (which names the teacher), parents: what it was sampled
//   from samples/000000.txt   its text tokens.jsonl         {"name", "before", "tokens"}: the ids drawn, and those of the prompt
//   that decided the first green lists sampling.json        teacher, options, and of the watermark what may be published:
//   parameters and the key's commitment

#include <iosfwd>
#include <string>

#include "core/config.h"
#include "core/file.h"

namespace overproof {

struct SampleConfig {
  std::string out, corpus, license = "LicenseRef-model-output", watermark_key;
  int64_t count = 100, max_tokens = 256, prompt_tokens = 16, seed = 0;
  double temperature = 1.0, top_p = 1.0;
  double watermark_strength = 2.0, green_fraction = 0.25;
  int64_t watermark_context = 2;
  template <class V>
  void visit(V&& v) {
    v("out", out, any_value(), "new folder of documents, a source for the corpus stage");
    v("count", count, in_range(1, 1e7), "documents to write");
    v("max-tokens", max_tokens, in_range(1, 1 << 20), "tokens of a document at most; an end-of-text token ends it earlier");
    v("corpus", corpus, any_value(),
      "corpus artifact whose documents' beginnings are the prompts; empty: the model's token to begin with");
    v("prompt-tokens", prompt_tokens, in_range(1, 1 << 16), "tokens of a prompt");
    v("temperature", temperature, in_range(0, 20), "0: always the most probable token; 1: as the model says");
    v("top-p", top_p, in_range(1e-6, 1), "draw from the most probable tokens that together reach this probability");
    v("seed", seed, any_value(), "of the draws");
    v("license", license, any_value(), "licence of the documents, as the teacher's terms have it");
    v("watermark-key", watermark_key, any_value(),
      "plant the watermark of this key; the file is made at first use and is to be kept secret");
    v("watermark-strength", watermark_strength, in_range(0, 20), "what is added to the logits of green tokens");
    v("green-fraction", green_fraction, in_range(0.01, 0.99), "of a new key: part of the vocabulary that is green");
    v("watermark-context", watermark_context, in_range(1, 16), "of a new key: tokens that decide which others are green");
  }
};

/// Prints a summary (with `json` one object) and returns 0. The folder appears only when it is whole. Throws UsageError when
/// `out` is there already.
int run_sample(const SampleConfig& config, const fs::path& teacher, bool json, std::ostream& out);

}  // namespace overproof
