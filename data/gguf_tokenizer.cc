// The tokenizer inside a .gguf: keys tokenizer.ggml.*.
// Meaning of the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer

#include <fmt/format.h>

#include <map>

#include "core/error.h"
#include "data/bpe.h"
#include "formats/gguf.h"

namespace overproof {

namespace {

// token_type of llama.cpp; normal (1) and byte (6) tokens need no treatment of their own.
enum : int64_t { kUnknown = 2, kControl = 3, kUserDefined = 4 };

constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// How the tokenizer.json of the models behind each name cuts and normalises. GGUF stores only the name.
struct Recipe {
  std::vector<SplitStep> steps;
  bool nfc = false;
  bool ignore_merges = false;
};

const std::map<std::string, Recipe>& recipes() {
  static const std::map<std::string, Recipe> all = [] {
    const SplitStep gpt2{kGpt2Pattern}, digits{R"(\p{N})"};
    const Recipe digits_gpt2{{digits, gpt2}}, llama3{{{kLlama3Pattern}}, false, true};
    return std::map<std::string, Recipe>{
        {"gpt-2", {{gpt2}}},       {"gpt2", {{gpt2}}},         {"phi-2", {{gpt2}}},       {"smollm", digits_gpt2},
        {"starcoder", digits_gpt2}, {"refact", digits_gpt2},   {"command-r", digits_gpt2}, {"codeshell", digits_gpt2},
        {"llama-bpe", llama3},     {"llama3", llama3},         {"llama-v3", llama3},
        {"smaug-bpe", {{{kLlama3Pattern}}}}, {"dbrx", {{{kLlama3Pattern}}}},
        {"qwen2", {{{kQwen2Pattern}}, true}}, {"deepseek-r1-qwen", {{{kQwen2Pattern}}, true}},
        {"tekken", {{{kTekkenPattern}}, false, true}}};
  }();
  return all;
}

}  // namespace

BpeDefinition read_gguf_tokenizer(const std::filesystem::path& file) {
  const GgufFile gguf(file);
  const std::string model = gguf.text("tokenizer.ggml.model"), pre = gguf.text("tokenizer.ggml.pre", "gpt-2");
  if (model != "gpt2") {
    throw FormatError(file, -1, fmt::format("its tokenizer is of the kind '{}'; only byte-level BPE ('gpt2') is read from GGUF, "
                                            "so give the model's tokenizer.json or .model file", model));
  }
  const auto recipe = recipes().find(pre);
  if (recipe == recipes().end()) {
    std::string known;
    for (const auto& [name, unused] : recipes()) known += (known.empty() ? "" : ", ") + name;
    throw FormatError(file, -1, fmt::format("pre-tokeniser '{}' is not known (known: {}); give the model's tokenizer.json", pre, known));
  }
  BpeDefinition definition;
  definition.pre_tokenizer = recipe->second.steps;
  definition.nfc = recipe->second.nfc;
  definition.ignore_merges = recipe->second.ignore_merges;
  definition.tokens = gguf.texts("tokenizer.ggml.tokens");
  const int64_t count = int64_t(definition.tokens.size());

  if (gguf.has("tokenizer.ggml.token_type")) {
    const std::vector<int64_t> types = gguf.integers("tokenizer.ggml.token_type");
    if (int64_t(types.size()) != count) {
      throw FormatError(file, -1, fmt::format("{} tokens but {} token types", count, types.size()));
    }
    for (int64_t id = 0; id < count; ++id) {
      const int64_t type = types[size_t(id)];
      if (type != kUnknown && type != kControl && type != kUserDefined) continue;
      definition.added.push_back({.id = int32_t(id), .text = definition.tokens[size_t(id)], .special = type != kUserDefined});
    }
  }
  for (const std::string& merge : gguf.texts("tokenizer.ggml.merges")) {
    // The printable alphabet has no space, so the first one after a character parts the pair.
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos || space + 1 == merge.size()) {
      throw FormatError(file, -1, fmt::format("merge {} is not a pair: '{}'", definition.merges.size(), merge));
    }
    definition.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  const auto id_of = [&](const char* key) {
    const int64_t id = gguf.integer(fmt::format("tokenizer.ggml.{}_token_id", key), -1);
    if (id < -1 || id >= count) throw FormatError(file, -1, fmt::format("{}_token_id {} is outside the vocabulary", key, id));
    return int32_t(id);
  };
  definition.bos = id_of("bos");
  definition.eos = id_of("eos");
  definition.unknown = id_of("unknown");
  definition.padding = id_of("padding");
  definition.chat_template = gguf.text("tokenizer.chat_template", "");
  return definition;
}

}  // namespace overproof
