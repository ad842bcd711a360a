#pragma once
// Token ids against the rows of an embedding, from the files of any tokenizer, readable here or not.

#include <cstdint>
#include <filesystem>

#include "core/json_fwd.h"

namespace overproof {

/// Throws FormatError when the tokenizer's files in `folder` (tokenizer.json, or added_tokens.json and tokenizer_config.json) have a
/// token with an id of `rows` or more: a text that holds it has no row of the embedding. Nothing for a path without such files.
/// `tokenizer`: tokenizer.json, null where there is none (formats/companion_files.h).
void check_token_ids(const std::filesystem::path& folder, const Json& tokenizer, int64_t rows);

}  // namespace overproof
