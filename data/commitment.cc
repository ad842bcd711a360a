#include "data/commitment.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"
#include "provenance/merkle.h"

namespace overproof {
namespace {

constexpr const char* kRoots = "commitment.json";
constexpr const char* kTiles = "tiles.safetensors";
constexpr const char* kTreeNames[] = {"documents", "sorted"};
constexpr int64_t kMostRootsBytes = 64 << 10;
constexpr int64_t kPiece = 65536;  // leaves hashed before they are written

std::string level_name(CorpusTree tree, int level) { return fmt::format("{}/{}", kTreeNames[size_t(tree)], level); }

int first_stored(CorpusTree tree) { return tree == CorpusTree::documents ? 0 : 1; }

}  // namespace

void CommitmentWriter::add(const Digest& document, Split split, int64_t tokens, int64_t record) {
  if (!salt_) {
    index_.add(document, split, tokens, record);
    return;
  }
  values_.push_back(corpus_leaf_value(document, salt_->document_salt(document)));
  index_.add(corpus_leaf_value(document, salt_->sorted_salt()), split, tokens, record);
}

Commitment CommitmentWriter::finish(OutputFolder& folder, int64_t table_bytes) {
  index_.write(folder, table_bytes);
  const int64_t n = index_.documents();
  std::vector<TensorInfo> tensors;
  for (const CorpusTree tree : {CorpusTree::documents, CorpusTree::sorted})
    for (int level = first_stored(tree); level < tile_levels(n); ++level)
      tensors.push_back({level_name(tree, level), DType::u8, {tile_level_hashes(n, level), 32}});
  SafetensorsWriter writer(folder, kTiles, tensors, {{"format_version", "1"}, {"documents", std::to_string(n)}});

  Commitment commitment;
  for (const CorpusTree tree : {CorpusTree::documents, CorpusTree::sorted}) {
    TileBuilder builder;
    std::vector<Digest> hashes;
    for (int64_t first = 0; first < n; first += kPiece) {
      hashes.resize(size_t(std::min(kPiece, n - first)));
      parallel_for(int64_t(hashes.size()), 4096, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t at = first + i;
          const bool sorted = tree == CorpusTree::sorted;
          hashes[size_t(i)] = sorted ? index_.key(index_.ordinal(at)) : salt_ ? values_[size_t(at)] : index_.key(at);
        }
        merkle_leaves(std::span(hashes).subspan(size_t(begin), size_t(end - begin)), hashes.data() + begin);
      });
      if (first_stored(tree) == 0) writer.append(hashes.data(), hashes.size() * sizeof(Digest));
      builder.add(hashes);
    }
    for (int level = 1; level < tile_levels(n); ++level) {
      const auto above = builder.level(level);
      writer.append(above.data(), above.size_bytes());
    }
    Commitment::Tree& committed = tree == CorpusTree::documents ? commitment.documents : commitment.sorted;
    committed.size = n;
    committed.root = builder.root();
  }
  writer.close();
  if (salt_) commitment.sorted_salt_digest = sha256(std::span<const uint8_t>(salt_->sorted_salt().bytes));
  folder.write_file(kRoots, commitment.text());
  return commitment;
}

bool CorpusCommitment::is_in(const fs::path& artifact) { return fs::exists(artifact / kRoots); }

Commitment CorpusCommitment::roots_of(const fs::path& artifact) {
  return Commitment::parse(read_file(artifact / kRoots, kMostRootsBytes), artifact / kRoots);
}

CorpusCommitment::CorpusCommitment(const fs::path& artifact, Reads reads)
    : roots_(roots_of(artifact)), index_(artifact, reads), tiles_(artifact / kTiles, reads) {
  const int64_t n = roots_.documents.size;
  if (index_.documents() != n)
    throw FormatError(index_.path(), -1, fmt::format("has {} documents, the commitment {}", index_.documents(), n));
  for (const CorpusTree tree : {CorpusTree::documents, CorpusTree::sorted}) {
    auto& levels = levels_[size_t(tree)];
    levels.resize(size_t(tile_levels(n)));
    for (int level = first_stored(tree); level < tile_levels(n); ++level) {
      const TensorInfo& info = tiles_.info(level_name(tree, level));
      if (info.dtype != DType::u8 || info.shape != std::vector<int64_t>{tile_level_hashes(n, level), 32})
        throw FormatError(tiles_.path(), -1,
                          fmt::format("'{}' must be U8 [{}, 32]", level_name(tree, level), tile_level_hashes(n, level)));
      levels[size_t(level)] = tiles_.bytes(level_name(tree, level));
    }
  }
}

std::span<const uint8_t> CorpusCommitment::stored_level(CorpusTree which, int level) const {
  OVERPROOF_CHECK(level >= first_stored(which) && size_t(level) < levels_[size_t(which)].size());
  return levels_[size_t(which)][size_t(level)];
}

/// Requests all tiles on a leaf's path to the root at once, so that the reads do not wait for the disk one after another.
void CorpusCommitment::expect_path(CorpusTree which, int64_t index) const {
  for (int level = first_stored(which); size_t(level) < levels_[size_t(which)].size(); ++level) {
    const auto stored = stored_level(which, level);
    const size_t tile = kTileWidth * sizeof(Digest), begin = size_t(index >> (8 * level)) / kTileWidth * tile;
    if (begin < stored.size()) expect_read(stored.data() + begin, std::min(stored.size() - begin, tile));
  }
}

void CorpusCommitment::fill(CorpusTree which, int level, int64_t first, std::span<Digest> hashes) const {
  if (level < first_stored(which)) {
    for (size_t i = 0; i < hashes.size(); ++i) hashes[i] = index_.key(first + int64_t(i));
    merkle_leaves(hashes, hashes.data());
    return;
  }
  const auto stored = stored_level(which, level);
  OVERPROOF_CHECK(first >= 0 && size_t(first) + hashes.size() <= stored.size() / 32);
  std::copy_n(stored.begin() + ptrdiff_t(first) * 32, hashes.size() * 32, reinterpret_cast<uint8_t*>(hashes.data()));
}

TileTree CorpusCommitment::tree(CorpusTree which) const {
  return TileTree(roots_.documents.size,
                  [this, which](int level, int64_t first, std::span<Digest> hashes) { fill(which, level, first, hashes); });
}

std::vector<Digest> CorpusCommitment::document_values(int64_t first, int64_t count) const {
  OVERPROOF_CHECK(!roots_.is_private());
  std::vector<Digest> values;
  for (int64_t i = first; i < first + count; ++i) values.push_back(index_.key(index_.rank(i)));
  return values;
}

CorpusProof CorpusCommitment::prove(const Digest& document, CorpusTree tree, const CorpusSalt* salt) const {
  std::optional<Digest> sorted_salt;
  if (roots_.is_private()) {
    if (!salt) throw UsageError("the corpus is private: give its secret with --salt");
    sorted_salt = salt->sorted_salt();
    if (sha256(std::span<const uint8_t>(sorted_salt->bytes)) != *roots_.sorted_salt_digest)
      throw MismatchError("the secret given with --salt is not the one that this corpus was made with");
  }
  const Digest key = corpus_leaf_value(document, sorted_salt);
  const int64_t n = index_.documents(), rank = index_.lower_bound(key);
  CorpusProof proof;
  proof.document = document;
  proof.present = rank < n && index_.key(rank) == key;
  proof.tree = proof.present ? tree : CorpusTree::sorted;
  if (roots_.is_private()) proof.salt = salt->salt(proof.tree, document);
  const TileTree tiles = this->tree(proof.tree);
  if (proof.present) {
    const int64_t index = tree == CorpusTree::sorted ? rank : index_.ordinal(rank);
    expect_path(tree, index);
    proof.leaves.push_back({index, {}, tiles.inclusion(index)});
  } else {
    if (n > 0) expect_path(CorpusTree::sorted, std::min(rank, n - 1));
    for (const int64_t index : {rank - 1, rank})
      if (index >= 0 && index < n) proof.leaves.push_back({index, index_.key(index), tiles.inclusion(index)});
  }
  return proof;
}

}  // namespace overproof
