#include "data/gguf_pre_tokenizers.h"

#include <algorithm>

namespace overproof {
namespace {

constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekkenPattern = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
                                       R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
                                       R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepSeekPattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

/// A file may hold line ends in a pattern as they are or as escapes: the same expression.
std::string canonical(std::string_view pattern) {
  std::string out;
  for (const char c : pattern) {
    if (c == '\r') out += "\\r";
    else if (c == '\n') out += "\\n";
    else out += c;
  }
  return out;
}

bool same_steps(const std::vector<SplitStep>& a, const std::vector<SplitStep>& b) {
  return std::ranges::equal(a, b, [](SplitStep x, SplitStep y) {
    if (!x.literal && !y.literal) {
      x.pattern = canonical(x.pattern);
      y.pattern = canonical(y.pattern);
    }
    return x == y;
  });
}

}  // namespace

const std::vector<GgufPreTokenizer>& gguf_pre_tokenizers() {
  static const std::vector<GgufPreTokenizer> all = [] {
    const SplitStep gpt2{kGpt2Pattern}, digits{R"(\p{N})"};
    const std::vector<SplitStep> only_gpt2{gpt2}, digits_gpt2{digits, gpt2}, llama3{{kLlama3Pattern}}, qwen2{{kQwen2Pattern}};
    const std::vector<SplitStep> deepseek{{R"(\p{N}{1,3})"}, {"[一-龥\xe3\x81\x80-ゟ゠-ヿ]+"}, {kDeepSeekPattern}};
    return std::vector<GgufPreTokenizer>{
        {"gpt-2", only_gpt2},
        {"gpt2", only_gpt2},
        {"phi-2", only_gpt2},
        {"smollm", digits_gpt2},
        {"starcoder", digits_gpt2},
        {"refact", digits_gpt2},
        {"command-r", digits_gpt2},
        {"codeshell", digits_gpt2},
        {"llama-bpe", llama3, false, true},
        {"llama3", llama3, false, true},
        {"llama-v3", llama3, false, true},
        {"glm4", llama3, false, true},
        {"smaug-bpe", llama3},
        {"dbrx", llama3},
        {"chatglm-bpe", llama3},
        {"qwen2", qwen2, true},
        {"deepseek-r1-qwen", qwen2, true},
        {"stablelm2", qwen2},
        {"deepseek-v3", deepseek},
        {"tekken",
         {{kTekkenPattern}},
         false,
         true,
         "llama.cpp distinguishes capital and small letters in ASCII only: other words may be split elsewhere"}};
  }();
  return all;
}

const GgufPreTokenizer* find_gguf_pre_tokenizer(const BpeDefinition& definition) {
  // The GLM family shares Llama 3's way of cutting, but llama.cpp takes a default BOS from the name.
  const bool glm = std::ranges::count(definition.tokens, "[gMASK]") > 0;
  const GgufPreTokenizer* best = nullptr;
  for (const GgufPreTokenizer& known : gguf_pre_tokenizers()) {
    if (known.ignore_merges != definition.ignore_merges || !same_steps(known.steps, definition.pre_tokenizer)) continue;
    if (glm && known.name == "glm4") return &known;
    if (!best || (best->nfc != definition.nfc && known.nfc == definition.nfc)) best = &known;
  }
  return best;
}

}  // namespace overproof
