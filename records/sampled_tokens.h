#pragma once
// The ids of documents that `overproof sample` wrote: tokens.jsonl, one JSON object a document, {"name", "before", "tokens"}.

#include <cstdint>
#include <vector>

#include "core/file.h"

namespace overproof {

inline constexpr const char* kSampledTokensName = "tokens.jsonl";

struct SampledTokens {
  std::vector<int32_t> before;  ///< the last ids of the prompt, as many as decided a green list; none without a watermark
  std::vector<int32_t> tokens;  ///< the ids drawn
};

/// Throws FormatError naming the line's offset, where a member is missing or an id is outside [0, vocabulary).
std::vector<SampledTokens> read_sampled_tokens(const fs::path& folder, int64_t vocabulary);

}  // namespace overproof
