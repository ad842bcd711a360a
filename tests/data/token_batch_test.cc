#include "data/token_batch.h"

#include <catch2/catch.hpp>
#include <cstring>

namespace overproof {
namespace {

TokenBatch two_sequences() {
  TokenBatch b;
  b.batch = 2;
  b.length = 3;
  b.numbers = {7, 70000000000};
  b.ids = {1, 2, 3, 4, 5, 65536, 7, 8};
  b.weight.assign(6, 1.0f);
  b.segment.assign(6, 0);
  b.source.assign(6, 0);
  return b;
}

template <class T>
void append(std::string& bytes, const T& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

TEST_CASE("the batch root is as specified in the header, byte by byte") {
  TokenBatch b = two_sequences();
  const std::vector<Digest> taught = {sha256("a"), Digest{}};
  const bool plain = GENERATE(true, false);
  if (!plain) {
    b.weight[4] = 0.25f;
    b.segment[5] = 1;
  }
  std::string text = plain ? "overproof batch v1" : "overproof batch v2";
  for (size_t s = 0; s < 2; ++s) {
    std::string ids, weights, segments;
    for (size_t i = 0; i < 4; ++i) append(ids, int32_t(b.ids[4 * s + i]));
    for (size_t i = 0; i < 3; ++i) append(weights, b.weight[3 * s + i]);
    for (size_t i = 0; i < 3; ++i) append(segments, b.segment[3 * s + i]);
    append(text, b.numbers[s]);
    append(text, sha256(ids).bytes);
    if (!plain) {
      append(text, sha256(weights).bytes);
      append(text, sha256(segments).bytes);
    }
    append(text, taught[s].bytes);
  }
  CHECK(b.root(taught) == sha256(text));
}

TEST_CASE("whatever decides a step changes the batch root") {
  const std::vector<Digest> taught = {sha256("a"), sha256("b")};
  const Digest root = two_sequences().root(taught);
  std::vector<TokenBatch> others(4, two_sequences());
  others[0].ids[2] = 9;
  others[1].numbers[1] = 8;
  others[2].weight[0] = 0;
  others[3].segment[5] = 1;
  for (const TokenBatch& other : others) CHECK(other.root(taught) != root);
  CHECK(two_sequences().root({{sha256("b"), sha256("a")}}) != root);
  CHECK(two_sequences().total_weight() == 6);
  CHECK(others[2].total_weight() == 5);
}

TEST_CASE("a permutation of windows is repeated when it ends") {
  const WindowSequence order = order_of(Permutation(sha256("key"), 3, 5), 5);
  std::vector<int64_t> first;
  for (int64_t p = 0; p < 5; ++p) first.push_back(order(p));
  for (int64_t p = 0; p < 12; ++p) CHECK(order(p) == first[size_t(p % 5)]);
  std::sort(first.begin(), first.end());
  CHECK(first == std::vector<int64_t>{0, 1, 2, 3, 4});
}

}  // namespace overproof
