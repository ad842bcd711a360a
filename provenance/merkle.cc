#include "provenance/merkle.h"

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace overproof {
namespace {

constexpr uint8_t kLeaf = 0, kNode = 1;
static_assert(sizeof(Digest) == 32);

/// The largest power of two below n; n >= 2.
int64_t split_of(int64_t n) { return int64_t(std::bit_floor(uint64_t(n - 1))); }

}  // namespace

Digest merkle_leaf(std::span<const uint8_t> data) {
  Sha256 hash;
  hash.update(&kLeaf, 1);
  hash.update(data.data(), data.size());
  return hash.finish();
}

void merkle_leaves(std::span<const Digest> values, Digest* hashes) {
  sha256_parts(kLeaf, reinterpret_cast<const uint8_t*>(values.data()), sizeof(Digest), values.size(), hashes);
}

void merkle_nodes(std::span<const Digest> children, Digest* parents) {
  OVERPROOF_CHECK(children.size() % 2 == 0);
  sha256_parts(kNode, reinterpret_cast<const uint8_t*>(children.data()), 2 * sizeof(Digest), children.size() / 2, parents);
}

Digest merkle_leaf(const Digest& value) {
  Digest hash;
  merkle_leaves({&value, 1}, &hash);
  return hash;
}

Digest merkle_node(const Digest& left, const Digest& right) {
  const Digest children[2] = {left, right};
  Digest parent;
  merkle_nodes(children, &parent);
  return parent;
}

Digest merkle_empty_root() { return sha256(std::string_view()); }

Digest merkle_root(std::span<const Digest> leaf_hashes) {
  if (leaf_hashes.empty()) return merkle_empty_root();
  if (leaf_hashes.size() == 1) return leaf_hashes[0];
  const size_t k = size_t(split_of(int64_t(leaf_hashes.size())));
  return merkle_node(merkle_root(leaf_hashes.first(k)), merkle_root(leaf_hashes.subspan(k)));
}

std::vector<Digest> inclusion_path(int64_t index, int64_t size, const SubtreeHash& subtree) {
  OVERPROOF_CHECK(index >= 0 && index < size);
  std::vector<Digest> path;
  for (int64_t begin = 0, end = size; end - begin > 1;) {
    const int64_t middle = begin + split_of(end - begin);
    if (index < middle) {
      path.push_back(subtree(middle, end));
      end = middle;
    } else {
      path.push_back(subtree(begin, middle));
      begin = middle;
    }
  }
  std::reverse(path.begin(), path.end());
  return path;
}

bool verify_inclusion(const Digest& leaf_hash, int64_t index, int64_t size, std::span<const Digest> path, const Digest& root) {
  if (index < 0 || index >= size) return false;
  uint64_t fn = uint64_t(index), sn = uint64_t(size) - 1;
  Digest r = leaf_hash;
  for (const Digest& p : path) {
    if (sn == 0) return false;
    if ((fn & 1) || fn == sn) {
      r = merkle_node(p, r);
      while (!(fn & 1) && fn != 0) fn >>= 1, sn >>= 1;
    } else {
      r = merkle_node(r, p);
    }
    fn >>= 1, sn >>= 1;
  }
  return sn == 0 && r == root;
}

std::vector<Digest> consistency_path(int64_t first, int64_t second, const SubtreeHash& subtree) {
  OVERPROOF_CHECK(first >= 1 && first <= second);
  std::vector<Digest> path;
  int64_t begin = 0, end = second, left = first;
  bool known = true;  // whether the subtree reached is the whole first tree, whose root the verifier has
  while (left != end - begin) {
    const int64_t middle = begin + split_of(end - begin);
    if (left <= middle - begin) {
      path.push_back(subtree(middle, end));
      end = middle;
    } else {
      path.push_back(subtree(begin, middle));
      left -= middle - begin;
      begin = middle;
      known = false;
    }
  }
  if (!known) path.push_back(subtree(begin, end));
  std::reverse(path.begin(), path.end());
  return path;
}

bool verify_consistency(int64_t first, int64_t second, const Digest& first_root, const Digest& second_root,
                        std::span<const Digest> path) {
  if (first < 0 || first > second) return false;
  if (first == second) return path.empty() && first_root == second_root;
  if (first == 0) return path.empty() && first_root == merkle_empty_root();
  std::vector<Digest> nodes;
  if (std::has_single_bit(uint64_t(first))) nodes.push_back(first_root);
  nodes.insert(nodes.end(), path.begin(), path.end());
  if (path.empty()) return false;
  uint64_t fn = uint64_t(first) - 1, sn = uint64_t(second) - 1;
  while (fn & 1) fn >>= 1, sn >>= 1;
  Digest fr = nodes[0], sr = nodes[0];
  for (size_t i = 1; i < nodes.size(); ++i) {
    if (sn == 0) return false;
    if ((fn & 1) || fn == sn) {
      fr = merkle_node(nodes[i], fr);
      sr = merkle_node(nodes[i], sr);
      while (!(fn & 1) && fn != 0) fn >>= 1, sn >>= 1;
    } else {
      sr = merkle_node(sr, nodes[i]);
    }
    fn >>= 1, sn >>= 1;
  }
  return sn == 0 && fr == first_root && sr == second_root;
}

}  // namespace overproof
