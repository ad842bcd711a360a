#include "data/watermark.h"
#include "provenance/hmac.h"

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "data/sampler.h"
#include "records/sampled_tokens.h"
#include "tests/support.h"

namespace overproof {
namespace {

std::vector<uint8_t> from_hex(const std::string& hex) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes.push_back(uint8_t(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

const Json& golden() {
  static const Json json = read_json(OVERPROOF_SOURCE_DIR "/tests/golden/watermark/watermark.json");
  return json;
}

}  // namespace

TEST_CASE("green lists, commitments and HMAC equal an independent implementation") {
  for (const Json& c : golden()["lists"]) {
    const auto context = c["context"].get<std::vector<int32_t>>();
    const WatermarkKey key(Digest::from_hex(c["secret"].get<std::string>()).bytes, c["green_fraction"].get<double>(),
                           int64_t(context.size()));
    std::vector<int32_t> green, longer{9, 9};
    longer.insert(longer.end(), context.begin(), context.end());
    const WatermarkKey::GreenList list = key.after(longer);
    for (int32_t t = 0; t < 300; ++t)
      if (list.green(t)) green.push_back(t);
    CHECK(green == c["green"].get<std::vector<int32_t>>());
    CHECK(key.commitment().hex() == c["commitment"].get<std::string>());
  }
  for (const Json& c : golden()["hmac"])
    CHECK(hmac_sha256(from_hex(c[0].get<std::string>()), from_hex(c[1].get<std::string>())).hex() == c[2].get<std::string>());
}

TEST_CASE("a watermark key is made once, is private, and its meaning does not change") {
  const TempFolder folder;
  const fs::path file = folder.path() / "deep" / "key.json";
  const WatermarkKey made = WatermarkKey::create(file, 0.25, 2);
  CHECK((fs::status(file).permissions() & fs::perms::all) == (fs::perms::owner_read | fs::perms::owner_write));
  CHECK(WatermarkKey::read(file).commitment() == made.commitment());
  CHECK(WatermarkKey::read(file).context() == 2);
  CHECK_THROWS_AS(WatermarkKey::create(file, 0.25, 2), UsageError);
  CHECK(WatermarkKey::read(file).commitment() == made.commitment());
  CHECK_THROWS_AS(WatermarkKey::create(folder.path() / "new.json", 1.5, 2), UsageError);
  CHECK_THROWS_AS(WatermarkKey::create(folder.path() / "new.json", 0.25, 17), UsageError);
  CHECK(!fs::exists(folder.path() / "new.json"));
  CHECK_THROWS_AS(WatermarkKey::read(folder.path() / "missing.json"), IoError);
  fs::permissions(file, fs::perms::group_read, fs::perm_options::add);
  CHECK_THROWS_AS(WatermarkKey::read(file), ProvenanceError);
  fs::permissions(file, fs::perms::group_read, fs::perm_options::remove);
  const Json good = read_json(file);
  const fs::path copy = folder.path() / "bad.json";
  for (const auto& [member, value] : {std::pair<const char*, Json>{"format", "other"},
                                      {"secret", "12"},
                                      {"secret", 5},
                                      {"green_fraction", 2.0},
                                      {"green_fraction", "a"},
                                      {"context", 0},
                                      {"context", 1e30},
                                      {"context", 17}}) {
    Json bad = good;
    bad[member] = value;
    write_file_atomically(copy, bad.dump());
    fs::permissions(copy, fs::perms::owner_read | fs::perms::owner_write);
    CAPTURE(bad.dump());
    CHECK_THROWS_AS(WatermarkKey::read(copy), FormatError);
  }
}

TEST_CASE("a watermark raises green tokens and leaves sampling without it as it was") {
  const WatermarkKey key(sha256("k").bytes, 0.25, 1);
  std::vector<float> logits(400);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = float(std::sin(double(i)));
  int64_t green[2] = {0, 0};
  for (int marked = 0; marked < 2; ++marked)
    for (int32_t c = 0; c < 2000; ++c) {
      Rng rng(1, "test/sampler", uint64_t(c));
      const std::vector<int32_t> before{c % 300};
      const int32_t id = sample_token(logits, before, {1.0, 1.0, 2.0}, marked ? &key : nullptr, rng);
      green[marked] += key.after(before).green(id);
    }
  CHECK(std::abs(double(green[0]) / 2000 - 0.25) < 0.05);
  CHECK(std::abs(double(green[1]) / 2000 - 0.25 * std::exp(2.0) / (0.25 * std::exp(2.0) + 0.75)) < 0.05);
  Rng rng(1, "test/sampler");
  const std::vector<int32_t> none;
  CHECK(sample_token(logits, none, {0.0, 1.0, 2.0}, &key, rng) ==
        int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin()));
}

TEST_CASE("hostile lists of sampled tokens are refused") {
  const TempFolder folder;
  const auto write = [&](const std::string& text) { write_file_atomically(folder.path() / "tokens.jsonl", text); };
  write("{\"name\":\"a\",\"before\":[1],\"tokens\":[2,3]}\n{\"name\":\"b\",\"before\":[],\"tokens\":[]}\n");
  const std::vector<SampledTokens> read = read_sampled_tokens(folder.path(), 4);
  REQUIRE(read.size() == 2);
  CHECK(read[0].tokens == std::vector<int32_t>{2, 3});
  for (const char* bad : {"", "[1]\n", "{}\n", "{\"before\":[1],\"tokens\":[4]}\n", "{\"before\":[-1],\"tokens\":[1]}\n",
                          "{\"before\":[1],\"tokens\":[1.5]}\n", "{\"before\":[1],\"tokens\":[99999999999999999999]}\n",
                          "{\"before\":[1],\"tokens\":\n"}) {
    write(bad);
    CAPTURE(bad);
    CHECK_THROWS_AS(read_sampled_tokens(folder.path(), 4), FormatError);
  }
}

}  // namespace overproof
