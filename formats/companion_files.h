#pragma once
// The small files next to a model's weights, which stages copy as they are: what no loader opens must not be signed.

#include <filesystem>

#include "core/json_fwd.h"

namespace overproof {

/// The special tokens that the files of a tokenizer name, in the order in which transformers adds them.
inline constexpr const char* kNamedTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

/// Throws FormatError, with the file and the place, for a file of a tokenizer, of generation or of a processor in the folder `model` that is
/// damaged: no JSON object, a tokenizer.json without a model and its vocabulary, a token that is neither text nor an object with text, an id
/// that is no number. What is well-formed and not supported here passes. Returns tokenizer.json; null where the folder has none, or `model` is
/// a file.
Json check_companion_files(const std::filesystem::path& model);

}  // namespace overproof
