#include "records/router_counts.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "formats/safetensors.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

namespace overproof {
namespace {

RouterCounts small(std::vector<std::string> sources, int64_t step) {
  RouterCounts c;
  c.sources = std::move(sources);
  c.layers = 2;
  c.experts = 3;
  for (size_t s = 0; s < c.sources.size(); ++s) {
    c.tokens.push_back(int64_t(s + 1) * step);
    for (int64_t i = 0; i < 6; ++i) c.counts.push_back(step * int64_t(10 * s) + i);
  }
  return c;
}

void write_raw(const fs::path& folder, std::vector<int64_t> counts, std::vector<int64_t> shape, std::vector<int64_t> tokens,
               const Metadata& metadata) {
  fs::create_directories(folder);
  OutputFolder out(folder);
  SafetensorsWriter writer(out, kRouterCountsFile,
                           {{"counts", DType::i64, std::move(shape)}, {"tokens", DType::i64, {int64_t(tokens.size())}}},
                           metadata);
  writer.append(counts.data(), counts.size() * 8);
  writer.append(tokens.data(), tokens.size() * 8);
  writer.close();
}

}  // namespace

TEST_CASE("router counts are read as they were written") {
  const TempFolder folder;
  const RouterCounts c = small({"a", "b \"quoted\"", "ü"}, 7);
  OutputFolder out(folder.path());
  CHECK_FALSE(has_router_counts(folder.path()));
  write_router_counts(out, c);
  CHECK(has_router_counts(folder.path()));
  const RouterCounts read = read_router_counts(folder.path());
  CHECK(read.sources == c.sources);
  CHECK(read.counts == c.counts);
  CHECK(read.tokens == c.tokens);
  CHECK(read.at(2, 1, 2) == 7 * 20 + 5);
  CHECK(read.of_expert(1, 2) == 3 * 5 + 7 * 30);
  CHECK(read.of_source(1, 0) == 3 * 70 + 3);
  CHECK(read.mass(2, 0, 0) == Approx(140.0 / 210));
  CHECK(read.find("ü") == 2);
  CHECK_THROWS_WITH(read.find("b quoted"), Catch::Contains("did you mean"));
}

TEST_CASE("counts of two trainings are added by the names of sources") {
  const RouterCounts sum = add_router_counts(small({"a", "c"}, 1), small({"b", "c"}, 100));
  CHECK(sum.sources == std::vector<std::string>{"a", "b", "c"});
  CHECK(sum.tokens == std::vector<int64_t>{1, 100, 202});
  CHECK(sum.at(0, 1, 2) == 5);
  CHECK(sum.at(1, 1, 2) == 5);
  CHECK(sum.at(2, 0, 0) == 1010);
  RouterCounts other = small({"a"}, 1);
  other.experts = 6;
  other.layers = 1;
  CHECK_THROWS_AS(add_router_counts(other, small({"a"}, 1)), MismatchError);
}

TEST_CASE("counts that are not whole are refused") {
  const TempFolder folder;
  const Metadata two = {{"sources", "[\"a\",\"b\"]"}};
  const std::vector<int64_t> good = {1, 2, 3, 4};
  write_raw(folder / "good", good, {2, 1, 2}, {1, 1}, two);
  CHECK(read_router_counts(folder / "good").experts == 2);
  const auto refused = [&](const std::string& name) { CHECK_THROWS_AS(read_router_counts(folder / name), FormatError); };
  write_raw(folder / "shape", good, {1, 2, 2}, {1, 1}, two);
  refused("shape");
  write_raw(folder / "flat", good, {4}, {1, 1}, two);
  refused("flat");
  write_raw(folder / "tokens", good, {2, 1, 2}, {1}, two);
  refused("tokens");
  write_raw(folder / "negative", {1, -2, 3, 4}, {2, 1, 2}, {1, 1}, two);
  refused("negative");
  write_raw(folder / "overflow", {INT64_MAX, 2, 3, 4}, {2, 1, 2}, {1, 1}, two);
  refused("overflow");
  write_raw(folder / "unsorted", good, {2, 1, 2}, {1, 1}, {{"sources", "[\"b\",\"a\"]"}});
  refused("unsorted");
  write_raw(folder / "twice", good, {2, 1, 2}, {1, 1}, {{"sources", "[\"a\",\"a\"]"}});
  refused("twice");
  write_raw(folder / "numbers", good, {2, 1, 2}, {1, 1}, {{"sources", "[1,2]"}});
  refused("numbers");
  write_raw(folder / "none", good, {2, 1, 2}, {1, 1}, {});
  refused("none");
  CHECK_THROWS_AS(read_router_counts(folder / "nowhere"), IoError);
}

}  // namespace overproof
