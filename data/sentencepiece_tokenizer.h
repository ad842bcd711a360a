#pragma once
// SentencePiece vocabularies (Kudo and Richardson 2018), through the SentencePiece library.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace overproof {

/// What the files next to a model change.
struct SentencePieceAdditions {
  /// Which stretches of text between added tokens get a space in front: none; the one that a text begins with; all; each of these two only
  /// where none is there. `unconditional`: all, also where one is there, as SentencePiece itself does it.
  enum class Prefix { never, first, always, unconditional };
  /// All tokens that are found before the model sees the text, in place of its control pieces. Those that are no pieces have the ids after
  /// them. Empty: the model as it is.
  std::vector<AddedToken> tokens;
  Prefix prefix = Prefix::unconditional;
  int32_t bos = -1, eos = -1;  ///< -1: the model's own
};

/// Opens a .model file (BPE, unigram, word or char), with what the files next to it add: tokenizer.json, tokenizer_config.json,
/// added_tokens.json and special_tokens_map.json, as transformers 5.23 reads them. Throws FormatError where they add tokens in a way that
/// is not known. The bytes are checked before the library sees them: see check_sentencepiece_model. Control pieces in the text become ids
/// only with parse_special.
std::unique_ptr<Tokenizer> open_sentencepiece(const std::filesystem::path& file);
/// `from_gguf`: Tokenizer::from_gguf().
std::unique_ptr<Tokenizer> make_sentencepiece(std::string_view model, const std::filesystem::path& file, bool from_gguf = false,
                                              SentencePieceAdditions additions = {});

/// Throws FormatError unless `model` is a well-formed ModelProto whose pieces are plain (not empty, no NUL, finite scores)
/// and whose normalisation trie stays inside its own bytes: the library follows that trie unchecked.
void check_sentencepiece_model(std::string_view model, const std::filesystem::path& file);

/// The content of a .model, for writing it in another format.
struct SentencePieceVocabulary {
  enum class Kind : int64_t { unigram = 1, bpe = 2, word = 3, character = 4 };
  struct Piece {
    std::string text;
    float score = 0;
    int32_t type = 1;  ///< 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  };
  Kind kind = Kind::unigram;
  std::vector<Piece> pieces;
  int32_t unknown = 0, bos = 1, eos = 2, padding = -1;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true;
  bool normalises = false;  ///< it has normalisation rules of its own
};

/// Checks `model` as check_sentencepiece_model does and takes it apart. Source: sentencepiece_model.proto.
SentencePieceVocabulary read_sentencepiece_vocabulary(std::string_view model, const std::filesystem::path& file);

/// The tokenizer of a .gguf of the kind "llama", as files that give the same ids.
struct GgufSentencePiece {
  std::string model;   ///< tokenizer.model: BPE by the scores, with byte fallback and without normalisation, as llama.cpp reads the keys
  std::string config;  ///< tokenizer_config.json
};
/// Nothing where the file's tokenizer is of another kind, or it has none. Throws FormatError where tokens, types and scores disagree; the
/// model itself is checked when it is opened.
std::optional<GgufSentencePiece> read_gguf_sentencepiece(const std::filesystem::path& file);

}  // namespace overproof
