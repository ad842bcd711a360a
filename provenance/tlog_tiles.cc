#include "provenance/tlog_tiles.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <charconv>

#include "core/error.h"
#include "core/parallel.h"
#include "provenance/merkle.h"

namespace overproof {
namespace {

constexpr int kTileBits = 8;

std::string with_index(std::string path, int64_t index, int64_t width) {
  OVERPROOF_CHECK(index >= 0 && width >= 1 && width <= kTileWidth);
  std::string digits = std::to_string(index);
  digits.insert(0, (3 - digits.size() % 3) % 3, '0');
  for (size_t at = 0; at < digits.size(); at += 3) {
    path += at + 3 < digits.size() ? "/x" : "/";
    path.append(digits, at, 3);
  }
  if (width < kTileWidth) path += fmt::format(".p/{}", width);
  return path;
}

/// Pairs up hashes until one is left; as many as a power of two.
Digest fold(std::span<Digest> hashes) {
  for (size_t n = hashes.size(); n > 1; n /= 2) merkle_nodes(hashes.first(n), hashes.data());
  return hashes[0];
}

Digest fold_tile(std::span<const Digest> tile) {
  std::array<Digest, kTileWidth> copy;
  std::copy(tile.begin(), tile.end(), copy.begin());
  return fold(std::span(copy).first(tile.size()));
}

}  // namespace

int64_t tile_level_hashes(int64_t size, int level) { return level >= 8 ? 0 : size >> (kTileBits * level); }

int tile_levels(int64_t size) {
  int levels = 0;
  while (tile_level_hashes(size, levels) > 0) ++levels;
  return levels;
}

std::string tile_path(int level, int64_t index, int64_t width) {
  OVERPROOF_CHECK(level >= 0 && level <= 63);
  return with_index(fmt::format("tile/{}", level), index, width);
}

std::string entries_path(int64_t index, int64_t width) { return with_index("tile/entries", index, width); }

Digest TileTree::subtree(int64_t begin, int64_t end) const {
  OVERPROOF_CHECK(begin >= 0 && begin < end && end <= size_);
  const int64_t leaves = end - begin;
  if (std::has_single_bit(uint64_t(leaves)) && begin % leaves == 0) {
    const int log = std::countr_zero(uint64_t(leaves)), level = log / kTileBits;
    std::array<Digest, kTileWidth / 2> hashes;
    const std::span<Digest> part = std::span(hashes).first(size_t{1} << (log % kTileBits));
    source_(level, begin >> (kTileBits * level), part);
    return fold(part);
  }
  const int64_t middle = begin + int64_t(std::bit_floor(uint64_t(leaves - 1)));
  return merkle_node(subtree(begin, middle), subtree(middle, end));
}

Digest TileTree::root() const { return size_ == 0 ? merkle_empty_root() : subtree(0, size_); }

std::vector<Digest> TileTree::inclusion(int64_t index) const {
  return inclusion_path(index, size_, [this](int64_t begin, int64_t end) { return subtree(begin, end); });
}

std::vector<Digest> TileTree::consistency(int64_t first) const {
  return consistency_path(first, size_, [this](int64_t begin, int64_t end) { return subtree(begin, end); });
}

void TileBuilder::add(std::span<const Digest> leaf_hashes) {
  size_ += int64_t(leaf_hashes.size());
  put(0, leaf_hashes);
}

void TileBuilder::put(size_t level, std::span<const Digest> hashes) {
  if (levels_.size() <= level) levels_.resize(level + 1);
  const size_t open = levels_[level].size() % kTileWidth;
  std::vector<Digest> joined;
  std::span<const Digest> run = hashes;
  if (open > 0) {
    joined.assign(levels_[level].end() - ptrdiff_t(open), levels_[level].end());
    joined.insert(joined.end(), hashes.begin(), hashes.end());
    run = joined;
  }
  std::vector<Digest> above(run.size() / kTileWidth);
  parallel_for(int64_t(above.size()), 64, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) above[size_t(i)] = fold_tile(run.subspan(size_t(i) * kTileWidth, kTileWidth));
  });
  if (level == 0) levels_[0].assign(run.begin() + ptrdiff_t(above.size() * kTileWidth), run.end());
  else levels_[level].insert(levels_[level].end(), hashes.begin(), hashes.end());
  if (!above.empty()) put(level + 1, above);
}

Digest TileBuilder::root() const {
  // The perfect subtrees that size_ is the sum of, from the smallest on the right to the largest on the left.
  Digest root = merkle_empty_root();
  bool any = false;
  for (const std::vector<Digest>& hashes : levels_) {
    const size_t open = hashes.size() % kTileWidth;
    const auto tile = std::span(hashes).last(open);
    for (int bit = 0; bit < kTileBits; ++bit) {
      if (!(open >> bit & 1)) continue;
      const Digest part = fold_tile(tile.subspan(open >> (bit + 1) << (bit + 1), size_t{1} << bit));
      root = any ? merkle_node(part, root) : part;
      any = true;
    }
  }
  return root;
}

std::span<const Digest> TileBuilder::level(int level) const {
  OVERPROOF_CHECK(level >= 1);
  return size_t(level) < levels_.size() ? std::span<const Digest>(levels_[size_t(level)]) : std::span<const Digest>();
}

std::string entry_bundle(std::span<const Digest> entries) {
  OVERPROOF_CHECK(int64_t(entries.size()) <= kTileWidth);
  std::string bundle;
  for (const Digest& entry : entries) {
    bundle += {'\0', char(entry.bytes.size())};
    bundle.append(reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size());
  }
  return bundle;
}

}  // namespace overproof
