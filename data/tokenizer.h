#pragma once
// Text to token ids and back.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "data/added_tokens.h"
#include "formats/tokenizer_identity.h"

namespace overproof {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Appends the ids of UTF-8 `text`. Invalid UTF-8 is replaced by U+FFFD, as peers do. No BOS or EOS is added;
  /// added (special) tokens written out in the text become their ids only when `parse_special`.
  virtual void encode(std::string_view text, std::vector<int32_t>& ids, bool parse_special = false) const = 0;
  /// encode() without special tokens, of a text that follows a token: some tokenizers put a space before the first word only.
  virtual void encode_after_token(std::string_view text, std::vector<int32_t>& ids) const { encode(text, ids); }
  virtual std::string decode(const std::vector<int32_t>& ids) const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual std::string token_text(int32_t id) const = 0;
  /// The tokens that encode() finds only when `parse_special`.
  virtual std::vector<AddedToken> special_tokens() const = 0;
  virtual int32_t bos_id() const = 0;  ///< -1 when there is none
  virtual int32_t eos_id() const = 0;  ///< -1 when there is none
  /// SHA-256 over everything that decides the ids: the whole vocabulary, merges, pre-tokenizer, normaliser and added tokens.
  /// Special ids (BOS, EOS) and chat template are not part of it.
  virtual Digest definition_digest() const = 0;
  /// Whether it was read from a GGUF file, which names its pre-tokenizer instead of defining it: the same tokenizer then has
  /// another definition than in tokenizer.json.
  virtual bool from_gguf() const { return false; }
  /// SHA-256 over the ids of a fixed probe text and the text of 257 fixed ids: a comparison across formats. Tokenizers that
  /// differ in a few tokens only can have the same probe.
  Digest probe() const;
  TokenizerIdentity identity() const;
};

/// Throws MismatchError unless the tokenizer in the folder or file `model` matches the one that made `what` ("the corpus").
void require_tokenizer(const std::filesystem::path& model, const TokenizerIdentity& made_by, const std::string& what);

/// Opens tokenizer.json, a SentencePiece .model, a .gguf, or a folder that holds one of them (looked for in that order).
/// Throws FormatError for an unsupported pre-tokeniser or normaliser rather than guessing.
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& path);

}  // namespace overproof
