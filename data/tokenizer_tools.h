#pragma once
// The work behind `overproof tokenizer encode` and `overproof tokenizer train`.

#include <string>

#include "core/config.h"

namespace overproof {

struct TokenizerEncodeConfig {
  std::string tokenizer, text, out;
  bool parse_special = false;
  template <class V>
  void visit(V&& v) {
    v("tokenizer", tokenizer, any_value(), "tokenizer.json, SentencePiece .model, .gguf, or a folder with one of them");
    v("text", text, any_value(), "the UTF-8 file to encode");
    v("out", out, any_value(), "the safetensors file to write: tensor \"ids\", I32 [tokens]");
    v("parse-special", parse_special, any_value(), "control tokens written out in the text become their ids");
  }
};

/// Encodes the whole file as one text. Metadata of the output: vocab_size, text_sha256 and the tokenizer (formats/tokenizer_identity.h).
/// Returns the number of tokens. Throws UsageError when a path is missing, IoError, FormatError.
int64_t run_tokenizer_encode(const TokenizerEncodeConfig& config);

struct TokenizerRenderConfig {
  std::string tokenizer, chat_template, conversations, out;
  template <class V>
  void visit(V&& v) {
    v("tokenizer", tokenizer, any_value(), "a model's folder or .gguf file: its chat template and its special tokens");
    v("chat-template", chat_template, any_value(), "a Jinja file, instead of the model's template or without a model");
    v("conversations", conversations, any_value(),
      "JSON Lines: in each the variables of the template, messages among them, as apply_chat_template of transformers takes them");
    v("out", out, any_value(), "JSON Lines to write: text, and quoted, the stretches of it that are from the conversation, or error");
  }
};

/// Renders conversations by a chat template (data/chat_template.h). Returns how many. A conversation that the template refuses is a line
/// with its message. Throws UsageError when a path is missing, IoError, FormatError.
int64_t run_tokenizer_render(const TokenizerRenderConfig& config);

struct TokenizerTrainConfig {
  std::string input, out;
  std::string model = "unigram";
  int64_t vocab_size = 8000;
  double character_coverage = 0.9995;
  bool byte_fallback = true;
  std::string normalization = "identity";
  int64_t max_sentence_bytes = 16384;
  template <class V>
  void visit(V&& v) {
    v("input", input, any_value(), "a corpus artifact, a folder of .txt files, or one text file");
    v("out", out, any_value(), "the .model file to write");
    v("model", model, one_of({"unigram", "bpe"}), "how pieces are chosen");
    v("vocab-size", vocab_size, in_range(260, 1 << 20), "pieces, with bytes and control pieces");
    v("character-coverage", character_coverage, in_range(0.9, 1), "fraction of characters that get pieces of their own");
    v("byte-fallback", byte_fallback, any_value(), "spell unknown characters as bytes");
    v("normalization", normalization, one_of({"identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"}),
      "normalisation rules put into the model");
    v("max-sentence-bytes", max_sentence_bytes, in_range(64, 1 << 20), "longer lines are cut at a character boundary");
  }
};

/// Trains a SentencePiece vocabulary on the lines of the input (of a corpus artifact: its training split only). The same
/// input and options give the same model, byte for byte. Returns the number of pieces.
int64_t run_tokenizer_train(const TokenizerTrainConfig& config);

}  // namespace overproof
