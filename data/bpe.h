#pragma once
// Byte-level byte-pair encoding (Sennrich et al. 2016; bytes as symbols: Radford et al. 2019), equal id for id to Hugging
// Face `tokenizers`.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/json_fwd.h"
#include "data/added_tokens.h"
#include "data/pre_tokenizer.h"
#include "data/tokenizer.h"

namespace overproof {

/// Everything that decides the ids, in plain form: filled from tokenizer.json or from GGUF metadata, written back as
/// tokenizer.json.
struct BpeDefinition {
  std::vector<std::string> tokens;  ///< by id, in GPT-2's printable spelling of bytes ("Ġthe"); "" where an id is unused
  std::vector<std::pair<std::string, std::string>> merges;  ///< by rank
  std::vector<SplitStep> pre_tokenizer;                     ///< ends in bytes: the ByteLevel mapping always follows
  std::vector<AddedToken> added;
  bool nfc = false;             ///< text is normalised to NFC first
  bool ignore_merges = false;   ///< a piece that is a token is taken whole, whatever its merges
  bool fuse_unknown = false;    ///< neighbouring unknown symbols become one
  int32_t unknown_symbol = -1;  ///< for a byte that has no token; -1 drops it, as peers do
  int32_t bos = -1, eos = -1, unknown = -1, padding = -1;
  std::string chat_template;  ///< carried along for tokenizer_config.json; may be empty
  std::vector<std::pair<std::string, std::string>> more_templates;  ///< for other uses, by name
  bool from_gguf = false;
  int64_t vocabulary = 0;  ///< of tokenizer.json: how many tokens its model has, added ones left out
  std::vector<std::string> notes;  ///< for the user: what its files name and do not have

  /// SHA-256 over what decides the ids: all but the special ids, the chat template and where it was read from.
  Digest digest() const;
};

/// Opens tokenizer.json, with what the files next to it add (data/added_token_files.h); special ids from them and config.json.
BpeDefinition read_tokenizer_json(const std::filesystem::path& file);
/// The same from memory; `file` is for messages.
BpeDefinition parse_tokenizer_json(std::string_view text, const std::filesystem::path& file);

/// tokenizer.json, such that Hugging Face gives the same ids.
std::string write_tokenizer_json(const BpeDefinition& definition);
/// tokenizer_config.json for transformers' PreTrainedTokenizerFast: bos, eos, unk and pad tokens, chat template.
std::string write_tokenizer_config_json(const BpeDefinition& definition);

/// Whether a .gguf file has a tokenizer of any kind; our own export writes the kind "none".
bool has_gguf_tokenizer(const std::filesystem::path& file);
/// Reads the keys tokenizer.ggml.* of a .gguf file.
BpeDefinition read_gguf_tokenizer(const std::filesystem::path& file);

/// GPT-2's bijection between bytes and printable characters: the character of `byte`, and a token's bytes.
/// Nothing when a character is outside the alphabet (then the token is plain text, such as an added one).
char32_t byte_level_char(uint8_t byte);
std::optional<std::string> byte_level_bytes(std::string_view token);

class BpeTokenizer final : public Tokenizer {
 public:
  /// Throws FormatError (naming `file`) when merges and tokens disagree or a pattern is refused.
  BpeTokenizer(BpeDefinition definition, const std::filesystem::path& file);
  ~BpeTokenizer() override;
  void encode(std::string_view text, std::vector<int32_t>& ids, bool parse_special = false) const override;
  std::string decode(const std::vector<int32_t>& ids) const override;
  int64_t vocab_size() const override;
  std::string token_text(int32_t id) const override;
  std::vector<AddedToken> special_tokens() const override;
  int32_t bos_id() const override;
  int32_t eos_id() const override;
  const BpeDefinition& definition() const;
  Digest definition_digest() const override { return definition().digest(); }
  bool from_gguf() const override { return definition().from_gguf; }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace overproof
