#include "data/order.h"

#include <catch2/catch.hpp>
#include <vector>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

TEST_CASE("the permutation equals the independent golden values") {
  const Json golden = read_json(OVERPROOF_SOURCE_DIR "/tests/golden/order/order.json");
  const Digest root = Digest::from_hex(golden["corpus_root"].get<std::string>());
  const Digest key = order_key(root, golden["seed"].get<int64_t>());
  REQUIRE(key.hex() == golden["key"].get<std::string>());
  CHECK(order_key(root, golden["seed"].get<int64_t>(), golden["beacon"].get<std::string>()).hex() ==
        golden["beacon_key"].get<std::string>());
  for (const Json& c : golden["cases"]) {
    const Permutation permutation(key, c["tweak"].get<uint64_t>(), c["n"].get<int64_t>());
    for (size_t i = 0; i < c["positions"].size(); ++i) {
      CAPTURE(c["n"].get<int64_t>(), c["positions"][i].get<int64_t>());
      CHECK(permutation.forward(c["positions"][i].get<int64_t>()) == c["elements"][i].get<int64_t>());
      CHECK(permutation.inverse(c["elements"][i].get<int64_t>()) == c["positions"][i].get<int64_t>());
    }
  }
}

TEST_CASE("the permutation is a bijection of every small domain, and inverse undoes forward") {
  const Digest key = sha256(std::string_view("key"));
  for (int64_t n = 1; n <= 300; ++n) {
    const Permutation permutation(key, uint64_t(n % 3), n);
    std::vector<int> hits(size_t(n), 0);
    for (int64_t p = 0; p < n; ++p) {
      const int64_t element = permutation.forward(p);
      REQUIRE(element >= 0);
      REQUIRE(element < n);
      ++hits[size_t(element)];
      REQUIRE(permutation.inverse(element) == p);
    }
    for (int h : hits) REQUIRE(h == 1);
  }
}

TEST_CASE("key, tweak and seed each change the order") {
  const Digest root = sha256(std::string_view("root")), other = sha256(std::string_view("other"));
  CHECK(order_key(root, 1) != order_key(root, 2));
  CHECK(order_key(root, 1) != order_key(other, 1));
  const auto list = [](const Permutation& p) {
    std::vector<int64_t> all;
    for (int64_t i = 0; i < 100; ++i) all.push_back(p.forward(i));
    return all;
  };
  CHECK(list({root, 0, 100}) != list({root, 1, 100}));
  CHECK(list({root, 0, 100}) != list({other, 0, 100}));
}

TEST_CASE("a beacon changes the order, and is read as bytes") {
  const Digest root = sha256(std::string_view("root"));
  CHECK(order_key(root, 1, "") == order_key(root, 1));
  CHECK(order_key(root, 1, "00") != order_key(root, 1));
  CHECK(order_key(root, 1, "00") != order_key(root, 1, "0000"));
  CHECK(order_key(root, 1, "ABCD") == order_key(root, 1, "abcd"));
  for (const std::string& bad :
       {std::string("0"), std::string("0x00"), std::string("zz"), std::string("-1"), std::string("+1"), std::string(1026, '0')})
    CHECK_THROWS_AS(order_key(root, 1, bad), UsageError);
}

TEST_CASE("positions spread evenly: no residue of the position survives") {
  // 64 cells of 1024 expected hits each; chi-squared with 63 degrees of freedom exceeds 120 with p < 2e-5.
  const int64_t n = 65536;
  const Permutation permutation(sha256(std::string_view("spread")), 0, n);
  std::vector<double> cells(64, 0);
  for (int64_t p = 0; p < n; ++p) cells[size_t((p % 8) * 8 + permutation.forward(p) * 8 / n)] += 1;
  double chi_squared = 0;
  for (double c : cells) chi_squared += (c - 1024) * (c - 1024) / 1024;
  CHECK(chi_squared < 120);
}

TEST_CASE("the training order visits every taught window once an epoch, and can be asked backwards") {
  const TrainingOrder order(sha256(std::string_view("key")), 500, 200);
  std::vector<int> taught(500, 0);
  for (int64_t block = 0; block < 200; ++block) {
    const int64_t window = order.window_of_block(block);
    ++taught[size_t(window)];
    CHECK(order.block_of_window(window) == block);
  }
  int untaught = 0;
  for (int64_t window = 0; window < 500; ++window) {
    REQUIRE(taught[size_t(window)] <= 1);
    if (order.block_of_window(window) == -1) ++untaught;
  }
  CHECK(untaught == 300);
  std::vector<int64_t> first, second;
  for (int64_t p = 0; p < 400; ++p) {
    const int64_t block = order.block_at(p);
    CHECK(order.position_of(block, p / 200) == p);
    (p < 200 ? first : second).push_back(block);
  }
  CHECK(first != second);
  CHECK_THROWS_AS(TrainingOrder(Digest{}, 10, 11), MismatchError);
  CHECK_THROWS_AS(TrainingOrder(Digest{}, 10, 0), MismatchError);
}

}  // namespace
}  // namespace overproof
