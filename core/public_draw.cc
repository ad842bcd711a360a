#include "core/public_draw.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/rng.h"

namespace overproof {
namespace {

constexpr size_t kMostDigits = 1024, kFewestDigits = 8;

bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

}  // namespace

std::vector<int64_t> draw_publicly(std::string_view domain, std::string_view stream, int64_t total, int64_t count,
                                   std::string_view seed, const Digest& root) {
  if (seed.empty())
    throw UsageError("option 'seed' is missing: take it from public randomness, drawn after the run was published");
  if (seed.size() > kMostDigits || !std::ranges::all_of(seed, is_hex))
    throw UsageError(fmt::format("option 'seed': '{}' is not hex digits", seed.substr(0, 80)));
  Sha256 hash;
  hash.update(domain);
  for (char c : seed) {
    if (c >= 'A' && c <= 'F') c = char(c - 'A' + 'a');
    hash.update(&c, 1);
  }
  hash.update(root.bytes.data(), root.bytes.size());
  const Digest key = hash.finish();
  uint64_t word = 0;
  for (int i = 7; i >= 0; --i) word = word << 8 | key.bytes[size_t(i)];
  Rng rng(word, stream);
  // Floyd's sampling: each set of that size is equally likely, and nothing as long as the list is needed.
  std::set<int64_t> drawn;
  for (int64_t j = total - std::min(count, total); j < total; ++j)
    if (const int64_t pick = int64_t(rng.below(uint64_t(j) + 1)); !drawn.insert(pick).second) drawn.insert(j);
  return {drawn.begin(), drawn.end()};
}

bool is_public_seed(std::string_view seed) {
  return seed.size() >= kFewestDigits && std::ranges::all_of(seed, is_hex) &&
         std::ranges::any_of(seed, [&](char c) { return c != seed.front(); });
}

}  // namespace overproof
