#pragma once
// How the models behind llama.cpp's pre-tokeniser names ("smollm", "llama-bpe") cut and normalise. GGUF stores only the name.

#include <string>
#include <string_view>
#include <vector>

#include "data/bpe.h"
#include "data/pre_tokenizer.h"

namespace overproof {

struct GgufPreTokenizer {
  std::string_view name;
  std::vector<SplitStep> steps;
  bool nfc = false;  ///< the models' tokenizers normalise first; llama.cpp does not
  bool ignore_merges = false;
  std::string_view differs;  ///< where llama.cpp, whose expressions know fewer classes, cuts elsewhere; "" for nowhere seen
};

/// Known names; where several mean the same, the one to write comes first.
const std::vector<GgufPreTokenizer>& gguf_pre_tokenizers();

/// The name under which llama.cpp cuts as `definition` does; nullptr when there is none.
const GgufPreTokenizer* find_gguf_pre_tokenizer(const BpeDefinition& definition);

}  // namespace overproof
