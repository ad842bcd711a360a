#include "records/row_encoding.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>

#include "core/error.h"
#include "core/rng.h"

namespace overproof {
namespace {

std::vector<float> some_logits(int64_t n, double spread) {
  std::vector<float> logits(static_cast<size_t>(n));
  Rng rng(3, "logits");
  for (float& x : logits) x = float(spread * rng.normal());
  return logits;
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double total = 0;
  for (const float x : logits) p.push_back(std::exp(double(x) / temperature)), total += p.back();
  for (double& x : p) x /= total;
  return p;
}

struct Row {
  std::vector<DecodedEntry> entries;
  std::vector<uint8_t> bytes;
};

Row encode(const std::vector<float>& logits, const RowEncoding& encoding, int64_t position = 0, const Digest& document = {}) {
  Row row;
  std::vector<float> scratch;
  const int64_t n = encode_row(logits, encoding, document, position, scratch, row.bytes);
  REQUIRE(int64_t(row.bytes.size()) == n * encoding.entry_bytes());
  for (int64_t i = 0; i < n; ++i) row.entries.push_back(decode_entry(row.bytes.data() + i * encoding.entry_bytes(), encoding));
  for (size_t i = 1; i < row.entries.size(); ++i) REQUIRE(row.entries[i - 1].id < row.entries[i].id);
  return row;
}

}  // namespace

TEST_CASE("draws are an unbiased estimate of the teacher's distribution") {
  const double temperature = GENERATE(1.0, 2.0);
  const std::vector<float> logits = some_logits(150, 2.0);  // no multiple of the block of the cumulative sum
  const std::vector<double> p = softmax(logits, temperature);
  RowEncoding encoding;
  encoding.temperature = temperature;
  constexpr int kRows = 4000;
  std::vector<double> mean(p.size());
  for (int row = 0; row < kRows; ++row) {
    int64_t draws = 0;
    for (const DecodedEntry& e : encode(logits, encoding, row).entries) {
      mean[size_t(e.id)] += double(e.probability) / kRows;
      draws += e.draws;
    }
    REQUIRE(draws == encoding.count);
  }
  const double n = double(kRows) * double(encoding.count);
  for (size_t i = 0; i < p.size(); ++i) {
    INFO("id " << i << " of probability " << p[i]);
    CHECK(std::abs(mean[i] - p[i]) <= 5 * std::sqrt(p[i] * (1 - p[i]) / n) + 1e-9);  // five standard deviations
  }
}

TEST_CASE("a row depends on logits and key alone") {
  const std::vector<float> logits = some_logits(1000, 1.0);
  RowEncoding encoding;
  const Row row = encode(logits, encoding, 5);
  CHECK(encode(logits, encoding, 5).bytes == row.bytes);
  CHECK(encode(logits, encoding, 6).bytes != row.bytes);
  CHECK(encode(logits, encoding, 5, sha256("another document")).bytes != row.bytes);
  encoding.seed = 1;
  CHECK(encode(logits, encoding, 5).bytes != row.bytes);
}

TEST_CASE("all draws can fall on one id, the last one too") {
  std::vector<float> logits(size_t(1) << 18, -1000.0f);
  const size_t likely = GENERATE(size_t(0), size_t(64), (size_t(1) << 18) - 1);
  logits[likely] = 1000.0f;
  RowEncoding encoding;
  encoding.count = 63;
  const Row row = encode(logits, encoding);
  REQUIRE(row.entries.size() == 1);
  CHECK(row.entries[0].id == int32_t(likely));
  CHECK(row.entries[0].draws == 63);
  CHECK(row.entries[0].probability == 1.0f);
}

TEST_CASE("top-k keeps the most probable ids, ties by the lower id") {
  std::vector<float> logits = some_logits(300, 2.0);
  logits[10] = logits[20] = logits[30] = 9.0f;
  RowEncoding encoding;
  encoding.kind = RowEncoding::Kind::top_k;
  encoding.temperature = 1.5;
  encoding.count = 2;
  CHECK(encode(logits, encoding).entries[1].id == 20);
  encoding.count = 40;
  const std::vector<double> p = softmax(logits, encoding.temperature);
  const Row row = encode(logits, encoding);
  REQUIRE(row.entries.size() == 40);
  std::map<int32_t, double> kept;
  for (const DecodedEntry& e : row.entries) {
    kept[e.id] = p[size_t(e.id)];
    CHECK(double(e.probability) == Approx(p[size_t(e.id)]).epsilon(0.005));  // log-probabilities are f16
  }
  double least = 1;
  for (const auto& [id, probability] : kept) least = std::min(least, probability);
  for (size_t i = 0; i < p.size(); ++i)
    if (!kept.contains(int32_t(i))) CHECK(p[i] <= least);
}

TEST_CASE("logits that are not finite are refused") {
  std::vector<float> logits = some_logits(100, 1.0);
  logits[50] = GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  RowEncoding encoding;
  encoding.kind = GENERATE(RowEncoding::Kind::sample, RowEncoding::Kind::top_k);
  std::vector<float> scratch;
  std::vector<uint8_t> bytes;
  CHECK_THROWS_AS(encode_row(logits, encoding, {}, 0, scratch, bytes), DivergenceError);
}

}  // namespace overproof
