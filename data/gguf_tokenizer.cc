// The tokenizer inside a .gguf: keys tokenizer.ggml.*.
// Meaning of the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <tuple>

#include "core/error.h"
#include "core/json.h"
#include "data/bpe.h"
#include "data/gguf_pre_tokenizers.h"
#include "data/gguf_vocabulary.h"
#include "data/sentencepiece_tokenizer.h"
#include "formats/gguf.h"

namespace overproof {

namespace {

// token_type of llama.cpp; normal (1) and byte (6) tokens need no treatment of their own.
using namespace gguf_token;

/// The token types, one for each token; empty where the file has none.
std::vector<int64_t> read_types(const GgufFile& gguf, const std::filesystem::path& file, size_t tokens) {
  if (!gguf.has("tokenizer.ggml.token_type")) return {};
  std::vector<int64_t> types = gguf.integers("tokenizer.ggml.token_type");
  if (types.size() != tokens) throw FormatError(file, -1, fmt::format("{} tokens but {} token types", tokens, types.size()));
  return types;
}

/// Ids of special tokens, and chat templates; `definition` has its tokens.
void read_specials(const GgufFile& gguf, const std::filesystem::path& file, BpeDefinition& definition) {
  const auto id_of = [&](const char* key) {
    const int64_t id = gguf.integer(fmt::format("tokenizer.ggml.{}_token_id", key), -1);
    if (id < -1 || id >= int64_t(definition.tokens.size()))
      throw FormatError(file, -1, fmt::format("{}_token_id {} is outside the vocabulary", key, id));
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
}

/// One message of protocol buffers: https://protobuf.dev/programming-guides/encoding
class ProtoWriter {
 public:
  void number(uint32_t field, uint64_t value) {
    varint(field << 3);
    varint(value);
  }
  void text(uint32_t field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    bytes += value;
  }
  void real(uint32_t field, float value) {
    varint(field << 3 | 5);
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int i = 0; i < 4; ++i) bytes += char(bits >> (8 * i) & 0xff);
  }
  std::string bytes;

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes += char((value & 0x7f) | 0x80);
    bytes += char(value);
  }
};

}  // namespace

std::optional<GgufSentencePiece> read_gguf_sentencepiece(const std::filesystem::path& file) {
  const GgufFile gguf(file);
  if (gguf.text("tokenizer.ggml.model", "") != "llama") return std::nullopt;
  BpeDefinition names;  // tokens, special ids and templates alone
  names.tokens = gguf.texts("tokenizer.ggml.tokens");
  read_specials(gguf, file, names);
  const std::vector<int64_t> types = read_types(gguf, file, names.tokens.size());
  const std::vector<double> scores = gguf.numbers("tokenizer.ggml.scores");
  if (scores.size() != names.tokens.size())
    throw FormatError(file, -1, fmt::format("{} tokens but {} scores", names.tokens.size(), scores.size()));
  const bool prefix = gguf.boolean("tokenizer.ggml.add_space_prefix", true);
  // SentencePiece has one unknown piece; where the file names none it is the first, as in llama.cpp.
  const size_t unknown = names.unknown >= 0 ? size_t(names.unknown) : 0;

  ProtoWriter model, trainer, normalizer;  // field numbers: sentencepiece_model.proto
  for (size_t id = 0; id < names.tokens.size(); ++id) {
    int64_t type = types.empty() ? kNormal : types[id];
    if (id == unknown) type = kUnknown;
    else if (type == kUnknown) type = kControl;
    std::string text = names.tokens[id];
    if (type == kUserDefined)  // stored with the spaces of the text, which SentencePiece sees as U+2581
      for (size_t at = 0; (at = text.find(' ', at)) != std::string::npos; at += 3) text.replace(at, 1, "\u2581");
    ProtoWriter piece;
    piece.text(1, text);
    piece.real(2, float(scores[id]));
    piece.number(3, type >= 1 && type <= 6 ? uint64_t(type) : kNormal);
    model.text(1, piece.bytes);
  }
  trainer.number(3, uint64_t(SentencePieceVocabulary::Kind::bpe));
  trainer.number(35, 1);  // byte fallback
  for (const auto& [id_field, text_field, id] : {std::tuple(40, 45, int32_t(unknown)), {41, 46, names.bos}, {42, 47, names.eos}, {43, 48, names.padding}}) {
    trainer.number(uint32_t(id_field), uint64_t(int64_t(id)));  // -1: none
    if (id >= 0 && size_t(id) < names.tokens.size()) trainer.text(uint32_t(text_field), names.tokens[size_t(id)]);
  }
  normalizer.text(1, "identity");
  normalizer.number(3, prefix);
  normalizer.number(4, 0);  // repeated spaces stay
  normalizer.number(5, 1);
  model.text(2, trainer.bytes);
  model.text(3, normalizer.bytes);

  Json config = parse_json(write_tokenizer_config_json(names), file);
  config["tokenizer_class"] = "LlamaTokenizer";
  config["legacy"] = false;
  config["add_prefix_space"] = prefix;
  for (const auto& [key, name, otherwise] : {std::tuple("tokenizer.ggml.add_bos_token", "add_bos_token", true), {"tokenizer.ggml.add_eos_token", "add_eos_token", false}})
    config[name] = gguf.boolean(key, otherwise);
  return GgufSentencePiece{std::move(model.bytes), config.dump(1, ' ') + "\n"};
}

bool has_gguf_tokenizer(const std::filesystem::path& file) {
  const std::string kind = GgufFile(file).text("tokenizer.ggml.model", "none");
  return kind != "none" && kind != "no_vocab";
}

BpeDefinition read_gguf_tokenizer(const std::filesystem::path& file) {
  const GgufFile gguf(file);
  const std::string model = gguf.text("tokenizer.ggml.model"), pre = gguf.text("tokenizer.ggml.pre", "gpt-2");
  if (model != "gpt2") {
    throw FormatError(file, -1,
                      fmt::format("its tokenizer is of the kind '{}'; only byte-level BPE ('gpt2') and "
                                  "SentencePiece BPE ('llama') are read from GGUF, so give the model's tokenizer.json or .model file",
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
  const std::vector<int64_t> types = read_types(gguf, file, definition.tokens.size());
  for (size_t id = 0; id < types.size(); ++id) {
    if (types[id] != kUnknown && types[id] != kControl && types[id] != kUserDefined) continue;
    definition.added.push_back({.id = int32_t(id), .text = definition.tokens[id], .special = types[id] != kUserDefined});
  }
  for (const std::string& merge : gguf.texts("tokenizer.ggml.merges")) {
    // The printable alphabet has no space, so the first one after a character parts the pair.
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos || space + 1 == merge.size()) {
      throw FormatError(file, -1, fmt::format("merge {} is not a pair: '{}'", definition.merges.size(), merge));
    }
    definition.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  read_specials(gguf, file, definition);
  return definition;
}

}  // namespace overproof
