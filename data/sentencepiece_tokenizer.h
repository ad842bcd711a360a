#pragma once
// SentencePiece vocabularies (Kudo and Richardson 2018), through the SentencePiece library.

#include <filesystem>
#include <memory>
#include <string_view>

#include "data/tokenizer.h"

namespace overproof {

/// Opens a .model file (BPE, unigram, word or char). The bytes are checked before the library sees them: see
/// check_sentencepiece_model. Control pieces in the text become ids only with parse_special.
std::unique_ptr<Tokenizer> open_sentencepiece(const std::filesystem::path& file);
std::unique_ptr<Tokenizer> make_sentencepiece(std::string_view model, const std::filesystem::path& file);

/// Throws FormatError unless `model` is a well-formed ModelProto whose pieces are plain (not empty, no NUL, finite scores)
/// and whose normalisation trie stays inside its own bytes: the library follows that trie unchecked.
void check_sentencepiece_model(std::string_view model, const std::filesystem::path& file);

}  // namespace overproof
