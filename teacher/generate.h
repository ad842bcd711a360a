#pragma once
// Text from any checkpoint that can be read, token by token with a key-value cache.

#include <iosfwd>
#include <string>

#include "core/config.h"
#include "core/file.h"

namespace overproof {

struct GenerateConfig {
  std::string prompt;
  int64_t max_tokens = 128, seed = 0;
  double temperature = 0.0, top_p = 1.0;
  std::string watermark_key;
  double watermark_strength = 2.0;
  bool chat = false;
  template <class V>
  void visit(V&& v) {
    v("prompt", prompt, any_value(), "text to go on from");
    v("max-tokens", max_tokens, in_range(1, 1 << 20), "tokens to write at most; an end-of-text token ends earlier");
    v("temperature", temperature, in_range(0, 20), "0: always the most probable token; 1: as the model says");
    v("top-p", top_p, in_range(1e-6, 1), "draw from the most probable tokens that together reach this probability");
    v("seed", seed, any_value(), "of the draws");
    v("watermark-key", watermark_key, any_value(),
      "plant the watermark of this key (a file that `sample` makes); its holder can find it again");
    v("watermark-strength", watermark_strength, in_range(0, 20), "what is added to the logits of green tokens");
    v("chat", chat, any_value(), "put the prompt into a ChatML turn (<|im_start|>user ...), for instruction models that know it");
  }
};

/// Streams text to `out` as it comes, or, with `json`, writes one JSON object at the end. Returns 0.
int run_generate(const GenerateConfig& config, const fs::path& model, bool json, std::ostream& out);

}  // namespace overproof
