#pragma once
// Text to token ids and back.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"

namespace overproof {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Appends the ids of UTF-8 `text`. Invalid UTF-8 is replaced by U+FFFD, as peers do. No BOS or EOS is added;
  /// added (special) tokens written out in the text become their ids only when `parse_special`.
  virtual void encode(std::string_view text, std::vector<int32_t>& ids, bool parse_special = false) const = 0;
  virtual std::string decode(const std::vector<int32_t>& ids) const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual std::string token_text(int32_t id) const = 0;
  virtual int32_t bos_id() const = 0;  ///< -1 when there is none
  virtual int32_t eos_id() const = 0;  ///< -1 when there is none
  /// SHA-256 over the ids of a fixed probe text and the text of fixed ids: two tokenizers with the same probe are taken
  /// for the same, equal vocabulary sizes are not.
  Digest probe() const;
};

/// Opens tokenizer.json, a SentencePiece .model, a .gguf, or a folder that holds one of them (looked for in that order).
/// Throws FormatError for an unsupported pre-tokeniser or normaliser rather than guessing.
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& path);

}  // namespace overproof
