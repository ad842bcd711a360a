// tokenizer.json: refused with a FormatError, or a tokenizer that encodes and decodes any text back and is written equal.

#include <algorithm>

#include "core/error.h"
#include "data/bpe.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const BpeDefinition definition = parse_tokenizer_json(text, "tokenizer.json");
    const BpeTokenizer tokenizer(definition, "tokenizer.json");
    const BpeDefinition again = parse_tokenizer_json(write_tokenizer_json(definition), "tokenizer.json");
    fuzz::require(again.tokens == definition.tokens && again.merges == definition.merges && again.nfc == definition.nfc &&
                  again.pre_tokenizer == definition.pre_tokenizer && again.ignore_merges == definition.ignore_merges);
    std::vector<int32_t> ids;
    tokenizer.encode(text.substr(0, 4096), ids, true);
    for (const int32_t id : ids) fuzz::require(id >= 0 && id < tokenizer.vocab_size());
    tokenizer.decode(ids);
    // Words and added tokens of the definition, many times. Patterns of the fuzzer have their bound in regex_fuzz.
    const bool plain = std::ranges::all_of(definition.pre_tokenizer, [](const SplitStep& step) {
      return step.literal || step.pattern.empty() || step.pattern == kGpt2Pattern;
    });
    if (!plain) return 0;
    std::string piece(text.substr(0, 16));
    if (!definition.added.empty()) piece += definition.added.back().text.substr(0, 16);
    fuzz::require_linear([&](size_t copies) {
      std::string many;
      for (size_t i = 0; i < copies; ++i) many += piece;
      ids.clear();
      tokenizer.encode(many, ids, true);
    });
  } catch (const FormatError&) {
  }
  return 0;
}
