#pragma once
// Merkle trees of RFC 9162, section 2.1 (the same hashes as RFC 6962): SHA-256, 0x00 before a leaf's data, 0x01 before the two
// hashes of a node. A tree over n leaves is split at the largest power of two below n.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/digest.h"

namespace overproof {

/// SHA-256(0x00 || data).
Digest merkle_leaf(std::span<const uint8_t> data);
/// The leaf hash of 32 bytes of data: what the trees of a corpus hold.
Digest merkle_leaf(const Digest& value);
/// The same of many, which the processor hashes several at a time. `hashes` may be where the values are.
void merkle_leaves(std::span<const Digest> values, Digest* hashes);
/// SHA-256(0x01 || left || right).
Digest merkle_node(const Digest& left, const Digest& right);
/// Of each two that follow each other. `parents` may be where the children are.
void merkle_nodes(std::span<const Digest> children, Digest* parents);
/// SHA-256 of nothing: the root of a tree without leaves.
Digest merkle_empty_root();

/// MTH of leaf hashes in memory (section 2.1.1).
Digest merkle_root(std::span<const Digest> leaf_hashes);

/// MTH(D[begin:end]) of some tree; the ranges asked for are subtrees of it.
using SubtreeHash = std::function<Digest(int64_t begin, int64_t end)>;

/// PATH(index, D_size), section 2.1.3.1, from the leaf's sibling to the root's child. 0 <= index < size.
std::vector<Digest> inclusion_path(int64_t index, int64_t size, const SubtreeHash& subtree);
/// Section 2.1.3.2. Takes any numbers; false unless the leaf hash is at `index` of the tree with that size and root.
bool verify_inclusion(const Digest& leaf_hash, int64_t index, int64_t size, std::span<const Digest> path, const Digest& root);

/// PROOF(first, D_second), section 2.1.4.1. 1 <= first <= second; empty when they are equal.
std::vector<Digest> consistency_path(int64_t first, int64_t second, const SubtreeHash& subtree);
/// Section 2.1.4.2. Takes any numbers; false unless the tree of size `second` begins with the one of size `first`. Equal sizes
/// need equal roots and no path; every tree begins with the empty one.
bool verify_consistency(int64_t first, int64_t second, const Digest& first_root, const Digest& second_root,
                        std::span<const Digest> path);

}  // namespace overproof
