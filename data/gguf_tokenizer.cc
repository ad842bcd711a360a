// The tokenizer inside a .gguf: keys tokenizer.ggml.*.
// Meaning of the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "data/bpe.h"
#include "data/gguf_pre_tokenizers.h"
#include "formats/gguf.h"

namespace overproof {

namespace {

// token_type of llama.cpp; normal (1) and byte (6) tokens need no treatment of their own.
enum : int64_t { kUnknown = 2, kControl = 3, kUserDefined = 4 };

}  // namespace

BpeDefinition read_gguf_tokenizer(const std::filesystem::path& file) {
  const GgufFile gguf(file);
  const std::string model = gguf.text("tokenizer.ggml.model"), pre = gguf.text("tokenizer.ggml.pre", "gpt-2");
  if (model != "gpt2") {
    throw FormatError(file, -1,
                      fmt::format("its tokenizer is of the kind '{}'; only byte-level BPE ('gpt2') is read from GGUF, "
                                  "so give the model's tokenizer.json or .model file",
                                  model));
  }
  const auto& all = gguf_pre_tokenizers();
  const auto recipe = std::ranges::find(all, pre, &GgufPreTokenizer::name);
  if (recipe == all.end()) {
    std::string known;
    for (const GgufPreTokenizer& each : all) known += (known.empty() ? "" : ", ") + std::string(each.name);
    throw FormatError(file, -1,
                      fmt::format("pre-tokeniser '{}' is not known (known: {}); give the model's tokenizer.json", pre, known));
  }
  BpeDefinition definition;
  definition.from_gguf = true;
  definition.pre_tokenizer = recipe->steps;
  definition.nfc = recipe->nfc;
  definition.ignore_merges = recipe->ignore_merges;
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
  if (gguf.has("tokenizer.chat_templates"))
    for (const std::string& name : gguf.texts("tokenizer.chat_templates"))
      if (const std::string key = "tokenizer.chat_template." + name; gguf.has(key))
        definition.more_templates.emplace_back(name, gguf.text(key));
  return definition;
}

}  // namespace overproof
