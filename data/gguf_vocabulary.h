#pragma once
// A checkpoint's tokenizer as the keys tokenizer.ggml.* of GGUF, such that llama.cpp gives the same ids.
// Meaning of the keys: llama_vocab::impl::load in src/llama-vocab.cpp of llama.cpp.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "formats/gguf_writer.h"

namespace overproof {

/// tokenizer.ggml.token_type (llama.cpp, llama_token_type).
namespace gguf_token {
enum : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
}

/// `checkpoint` is a .gguf or a folder with one (its keys are copied), or a folder with tokenizer.json (byte-level BPE) or
/// tokenizer.model (SentencePiece BPE with byte fallback). Ids from the last token up to `vocabulary`, the rows of the
/// embedding, become unused tokens. Returns where llama.cpp's ids may differ. A folder without a tokenizer gives a model that
/// takes ids only. Throws UsageError for a tokenizer that llama.cpp has not got, FormatError for one with more tokens
/// than rows.
std::vector<std::string> add_gguf_vocabulary(const std::filesystem::path& checkpoint, int64_t vocabulary, GgufMetadata& out);

/// Whether the tokenizer of a checkpoint puts the beginning-of-text token before a text, as transformers and llama.cpp do with these files.
bool adds_begin_token(const std::filesystem::path& checkpoint, const Tokenizer& tokenizer);

}  // namespace overproof
