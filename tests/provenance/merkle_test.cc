#include "provenance/merkle.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"
#include "provenance/tlog_tiles.h"
#include "tests/support.h"

using namespace overproof;

namespace {

Json golden() { return read_json(fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/merkle/merkle.json"); }

std::vector<Digest> leaf_hashes(int64_t n) {
  std::vector<Digest> hashes;
  for (int64_t i = 0; i < n; ++i) hashes.push_back(merkle_leaf(sha256(std::to_string(i))));
  return hashes;
}

std::vector<Digest> digests(const Json& list) {
  std::vector<Digest> all;
  for (const Json& hex : list) all.push_back(Digest::from_hex(hex.get<std::string>()));
  return all;
}

/// Tiles of a tree, made by TileBuilder in pieces of `piece` leaves.
struct Tiles {
  std::vector<Digest> leaves;
  TileBuilder builder;
  Tiles(std::vector<Digest> hashes, size_t piece) : leaves(std::move(hashes)) {
    for (size_t at = 0; at < leaves.size(); at += piece)
      builder.add(std::span(leaves).subspan(at, std::min(piece, leaves.size() - at)));
  }
  TileTree tree() const {
    return TileTree(int64_t(leaves.size()), [this](int level, int64_t first, std::span<Digest> hashes) {
      const std::span<const Digest> from = level == 0 ? std::span<const Digest>(leaves) : builder.level(level);
      REQUIRE(size_t(first) + hashes.size() <= from.size());
      std::copy_n(from.begin() + ptrdiff_t(first), hashes.size(), hashes.begin());
    });
  }
};

}  // namespace

TEST_CASE("the vectors of RFC 6962's implementations give their roots") {
  const Json vectors = golden()["rfc6962"];
  std::vector<Digest> hashes;
  for (const Json& hex : vectors["leaves"]) {
    const auto text = hex.get<std::string>();
    std::vector<uint8_t> data;
    for (size_t i = 0; i < text.size(); i += 2) data.push_back(uint8_t(std::stoi(text.substr(i, 2), nullptr, 16)));
    hashes.push_back(merkle_leaf(data));
  }
  for (const Json& tree : vectors["trees"])
    CHECK(merkle_root(std::span(hashes).first(tree["size"].get<size_t>())).hex() == tree["root"]);
}

TEST_CASE("roots are those of pymerkle, in memory and from tiles, however the leaves come") {
  const std::vector<Digest> all = leaf_hashes(70000);
  const Json vectors = golden();
  for (const Json& tree : vectors["trees"]) {
    const size_t size = tree["size"];
    INFO("size " << size);
    const std::span<const Digest> leaves = std::span(all).first(size);
    CHECK(merkle_root(leaves).hex() == tree["root"]);
    for (const size_t piece : {size_t(100), size_t(4096), size_t(70000)}) {
      const Tiles tiles({leaves.begin(), leaves.end()}, piece);
      CHECK(tiles.builder.root().hex() == tree["root"]);
      CHECK(tiles.tree().root().hex() == tree["root"]);
      for (int level = 1; level <= 4; ++level)
        CHECK(int64_t(tiles.builder.level(level).size()) == tile_level_hashes(int64_t(size), level));
    }
  }
}

TEST_CASE("inclusion and consistency paths are those of independent implementations, and verify") {
  const Json data = golden();
  std::map<int64_t, Digest> roots;
  for (const Json& tree : data["trees"]) roots[tree["size"]] = Digest::from_hex(tree["root"].get<std::string>());
  const Tiles all(leaf_hashes(70000), 70000);
  const auto tree_of = [&](int64_t size) {
    return TileTree(size, [&](int level, int64_t first, std::span<Digest> hashes) {
      const std::span<const Digest> from = level == 0 ? std::span<const Digest>(all.leaves) : all.builder.level(level);
      std::copy_n(from.begin() + ptrdiff_t(first), hashes.size(), hashes.begin());
    });
  };
  for (const Json& proof : data["inclusions"]) {
    const int64_t size = proof["size"], index = proof["index"];
    INFO(index << " of " << size);
    const auto path = digests(proof["path"]);
    CHECK(tree_of(size).inclusion(index) == path);
    const Digest& leaf = all.leaves[size_t(index)];
    CHECK(verify_inclusion(leaf, index, size, path, roots[size]));
    CHECK_FALSE(verify_inclusion(leaf, index + 1, size, path, roots[size]));
    CHECK_FALSE(verify_inclusion(leaf, -1, size, path, roots[size]));
    CHECK_FALSE(verify_inclusion(leaf, size, size, path, roots[size]));
    CHECK_FALSE(verify_inclusion(merkle_leaf(leaf), index, size, path, roots[size]));
    CHECK_FALSE(verify_inclusion(leaf, index, size, path, sha256("another root")));
    if (!path.empty()) CHECK_FALSE(verify_inclusion(leaf, index, size, std::span(path).first(path.size() - 1), roots[size]));
    auto longer = path;
    longer.push_back(leaf);
    CHECK_FALSE(verify_inclusion(leaf, index, size, longer, roots[size]));
  }
  std::map<int64_t, Digest> firsts;
  for (const Json& proof : data["consistencies"]) {
    const int64_t first = proof["first"], second = proof["second"];
    INFO(first << " in " << second);
    const auto path = digests(proof["path"]);
    CHECK(tree_of(second).consistency(first) == path);
    if (!firsts.contains(first)) firsts[first] = merkle_root(std::span(all.leaves).first(size_t(first)));
    CHECK(verify_consistency(first, second, firsts[first], roots[second], path));
    CHECK_FALSE(verify_consistency(first, second, sha256("another root"), roots[second], path));
    CHECK_FALSE(verify_consistency(first, second, firsts[first], sha256("another root"), path));
    auto longer = path;
    longer.push_back(roots[second]);
    CHECK_FALSE(verify_consistency(first, second, firsts[first], roots[second], longer));
    if (!path.empty()) {
      CHECK_FALSE(verify_consistency(first, second, firsts[first], roots[second], std::span(path).first(path.size() - 1)));
      longer = path;
      longer[0].bytes[0] ^= 1;
      CHECK_FALSE(verify_consistency(first, second, firsts[first], roots[second], longer));
    }
  }
}

TEST_CASE("every leaf of every small tree is proved, and every tree begins with all smaller ones") {
  const std::vector<Digest> all = leaf_hashes(40);
  for (int64_t size = 0; size <= 40; ++size) {
    const Tiles tiles({all.begin(), all.begin() + size}, 7);
    const TileTree tree = tiles.tree();
    const Digest root = tree.root();
    CHECK(root == merkle_root(tiles.leaves));
    for (int64_t index = 0; index < size; ++index) {
      const auto path = tree.inclusion(index);
      CHECK(verify_inclusion(all[size_t(index)], index, size, path, root));
      for (int64_t other = 0; other < size; ++other)
        if (other != index) CHECK_FALSE(verify_inclusion(all[size_t(index)], other, size, path, root));
    }
    for (int64_t first = 1; first <= size; ++first)
      CHECK(verify_consistency(first, size, merkle_root(std::span(all).first(size_t(first))), root, tree.consistency(first)));
    CHECK(verify_consistency(0, size, merkle_empty_root(), root, {}));
    CHECK_FALSE(verify_consistency(size + 1, size, root, root, {}));
  }
}

TEST_CASE("tiles have the names of the specification") {
  CHECK(tile_path(0, 1234067) == "tile/0/x001/x234/067");
  CHECK(tile_path(0, 0) == "tile/0/000");
  CHECK(tile_path(1, 999, 17) == "tile/1/999.p/17");
  CHECK(tile_path(63, 1000) == "tile/63/x001/000");
  CHECK(entries_path(273, 112) == "tile/entries/273.p/112");
  // "a tree of size 70,000 will be represented by 273 full level 0 tiles, one partial level 0 tile of width 112, one full level 1
  // tile, one partial level 1 tile of width 17, and one partial level 2 tile of width 1"
  CHECK(tile_level_hashes(70000, 0) == 273 * 256 + 112);
  CHECK(tile_level_hashes(70000, 1) == 256 + 17);
  CHECK(tile_level_hashes(70000, 2) == 1);
  CHECK(tile_levels(70000) == 3);
  CHECK(tile_levels(256) == 2);
  CHECK(tile_levels(255) == 1);
  CHECK(tile_levels(0) == 0);
}

TEST_CASE("a bundle of entries has their lengths before them") {
  const std::vector<Digest> entries = {sha256("a"), sha256("b")};
  const std::string bundle = entry_bundle(entries);
  REQUIRE(bundle.size() == 68);
  CHECK(bundle.substr(0, 2) == std::string("\0\x20", 2));
  CHECK(bundle.substr(36) == std::string(entries[1].bytes.begin(), entries[1].bytes.end()));
}
