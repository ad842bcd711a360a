#pragma once
// Ids of the documents that `sample` wrote: the input of watermark detection.
//
//   tokens.jsonl   one JSON object per document: {"name": "samples/000000.txt", "before": [1, 2], "tokens": [3, 4, 5]}
//     before       last ids of the prompt: as many as decide the first green lists; none without a watermark
//     tokens       the drawn ids

#include <cstdint>
#include <string>
#include <vector>

#include "core/file.h"

namespace overproof {

inline constexpr const char* kSampledTokensName = "tokens.jsonl";

struct SampledTokens {
  std::vector<int32_t> before, tokens;
};

/// The line of a document, with its line end.
std::string sampled_tokens_line(const std::string& name, const SampledTokens& document);

/// Reads `<folder>/tokens.jsonl`. Throws FormatError with the line's offset when a member is missing or an id is outside
/// [0, vocabulary).
std::vector<SampledTokens> read_sampled_tokens(const fs::path& folder, int64_t vocabulary);

}  // namespace overproof
