#pragma once
// Merkle trees as C2SP tlog-tiles (https://c2sp.org/tlog-tiles): hash i of level l is MTH(D[i 256^l : (i+1) 256^l]), and a tile
// is 256 such hashes in a row, or fewer in the last one. Every proof is computed from a few tiles; nothing else is kept of a
// tree. An artifact stores a level as one run of hashes (tile n is its bytes [8192 n, 8192 n + 8192)): one file a tile would put
// 39,000 files into the signed list of a corpus of 10 million documents. The file layout is written where a tree is published.

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/digest.h"
#include "core/file.h"

namespace overproof {

inline constexpr int64_t kTileWidth = 256;

/// Whole hashes on a level of a tree of `size` leaves: floor(size / 256^level).
int64_t tile_level_hashes(int64_t size, int level);
/// Levels that hold at least one hash; 0 of an empty tree.
int tile_levels(int64_t size);

/// "tile/0/x001/x234/067", of partial tiles "tile/0/000.p/112". 0 <= level <= 63, index >= 0, 1 <= width <= 256.
std::string tile_path(int level, int64_t index, int64_t width = kTileWidth);
/// The bundle of entries below a tile of level 0: "tile/entries/x001/234".
std::string entries_path(int64_t index, int64_t width = kTileWidth);

/// Fills `hashes` with those of a level from `first` on.
using TileSource = std::function<void(int level, int64_t first, std::span<Digest> hashes)>;

/// A tree of `size` leaves whose tiles come from `source`.
class TileTree {
 public:
  TileTree(int64_t size, TileSource source) : size_(size), source_(std::move(source)) {}
  int64_t size() const { return size_; }
  /// MTH(D[begin:end]) of a subtree of this tree: at most 128 hashes are read for each power of 256 in it.
  Digest subtree(int64_t begin, int64_t end) const;
  Digest root() const;
  std::vector<Digest> inclusion(int64_t index) const;
  std::vector<Digest> consistency(int64_t first) const;  ///< of the tree of the first `first` leaves with this one

 private:
  int64_t size_;
  TileSource source_;
};

/// Takes the leaf hashes of a tree in order, in pieces of any size; keeps the levels above and the root.
class TileBuilder {
 public:
  void add(std::span<const Digest> leaf_hashes);
  int64_t size() const { return size_; }
  Digest root() const;
  /// All hashes of a level from 1 on; empty where there are none.
  std::span<const Digest> level(int level) const;

 private:
  void put(size_t level, std::span<const Digest> hashes);
  std::vector<std::vector<Digest>> levels_;  // of level 0 the open tile only
  int64_t size_ = 0;
};

/// A bundle of at most 256 entries: each with its length, U16 big-endian, before it.
std::string entry_bundle(std::span<const Digest> entries);

}  // namespace overproof
