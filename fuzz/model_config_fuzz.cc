// config.json of a decoder: refused with an error of ours, or a shape that is written as it was read and whose sizes are sizes. The same
// bytes as generation_config.json: refused, or a file with the penalty that was put into it.

#include "core/error.h"
#include "core/json.h"
#include "formats/generation_config.h"
#include "formats/model_config.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const std::string made = with_repetition_penalty(std::string(text), 1.25, "generation_config.json");
    fuzz::require(parse_json(made, "again")["repetition_penalty"] == 1.25);
  } catch (const FormatError&) {
  }
  try {
    const ModelConfig config = ModelConfig::from_json(parse_json(text, "config.json"), "config.json");
    for (const int64_t n : {config.vocab_size, config.hidden_size, config.layers, config.heads, config.kv_heads, config.head_dim})
      fuzz::require(n > 0 && n <= INT32_MAX);
    const Json written = config.to_json();
    fuzz::require(ModelConfig::from_json(parse_json(written.dump(), "again"), "again").to_json() == written);
    fuzz::require(config.active_parameters() > 0 && config.active_parameters() <= config.parameters());
    fuzz::require(config.ffn_activation() > 0 && config.ffn_activation() <= 1);
  } catch (const FormatError&) {
  }
  return 0;
}
