#include "core/public_draw.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"

using namespace overproof;

TEST_CASE("a public draw follows from domain, seed and root, and has each number at most once") {
  const Digest root = sha256(std::string_view("root"));
  const auto draw = [&](int64_t total, int64_t count, const char* seed, const char* domain = "d") {
    return draw_publicly(domain, "s", total, count, seed, root);
  };
  CHECK(draw(1000, 59, "abcd") == draw(1000, 59, "ABCD"));
  CHECK(draw(1000, 59, "abcd") != draw(1000, 59, "abce"));
  CHECK(draw(1000, 59, "abcd") != draw(1000, 59, "abcd", "e"));
  CHECK(draw(1000, 59, "abcd") != draw_publicly("d", "s", 1000, 59, "abcd", Digest{}));
  const std::vector<int64_t> drawn = draw(100, 59, "5f");
  CHECK(drawn.size() == 59);
  for (size_t i = 1; i < drawn.size(); ++i) CHECK(drawn[i - 1] < drawn[i]);
  CHECK(draw(7, 9, "5f") == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6});
  for (const char* bad : {"", "xyz", "0x5f"}) CHECK_THROWS_AS(draw(10, 1, bad), UsageError);
  CHECK_THROWS_AS(draw(10, 1, std::string(1025, 'a').c_str()), UsageError);
}

TEST_CASE("a seed that a maker could have tried is not public randomness") {
  for (const char* weak : {"", "0", "5f2c", "00000000000000000000", "ffffffff", "20261124x"}) CHECK_FALSE(is_public_seed(weak));
  CHECK(is_public_seed("5f2c9a41"));
  CHECK(is_public_seed("5F2C9A4100000000"));
}

TEST_CASE("JSON for a terminal has the same value without control characters") {
  const std::string name = "a\xc2\x9b" "31mred \xe2\x80\xae" "b\x7f\n\xc3\xa9";
  const Json value = {{"name", name}, {"list", {1, "\x1b["}}};
  const std::string raw = value.dump(1), shown = printable_json(raw);
  CHECK(raw != shown);
  CHECK(Json::parse(shown) == value);
  CHECK(printable_lines(shown) == shown);
  CHECK(printable_json(shown) == shown);
}
