#pragma once
// How the metadata of a safetensors file names the tokenizer that made its ids: tokenizer_probe, tokenizer_definition (not in
// files of version 0.1) and tokenizer_format ("gguf", or left out).

#include <filesystem>
#include <optional>

#include "core/digest.h"
#include "formats/safetensors.h"

namespace overproof {

struct TokenizerIdentity {
  Digest probe;                      ///< Tokenizer::probe
  std::optional<Digest> definition;  ///< Tokenizer::definition_digest
  bool from_gguf = false;  ///< GGUF names a pre-tokenizer instead of defining it, so the definition differs from others'

  /// Throws FormatError naming `file`.
  static TokenizerIdentity from_metadata(const Metadata& metadata, const std::filesystem::path& file);
  void put_into(Metadata& metadata) const;
  /// Whether both give the same ids: by definition; by probe when one of the two has none, or just one comes from GGUF.
  bool matches(const TokenizerIdentity& other) const;
};

}  // namespace overproof
