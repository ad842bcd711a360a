#pragma once
// Draws by public randomness: what an auditor looks at must not be known to the maker when he makes it, and must follow from
// published numbers, so that a third party can repeat the draw.

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/digest.h"

namespace overproof {

/// `count` of the numbers [0, total), without replacement, ascending; all where `count` is larger. Drawn by the generator
/// `stream`, keyed with the first 8 bytes of SHA-256(domain | digits of `seed` in lower case | root). Throws UsageError when the
/// seed is empty, longer than 1024 digits or no hex.
std::vector<int64_t> draw_publicly(std::string_view domain, std::string_view stream, int64_t total, int64_t count,
                                   std::string_view seed, const Digest& root);

/// Whether the seed has at least 32 bits: a maker could have tried shorter ones beforehand.
bool is_public_seed(std::string_view seed);

}  // namespace overproof
