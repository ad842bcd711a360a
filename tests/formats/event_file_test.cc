#include "formats/event_file.h"

#include <catch2/catch.hpp>
#include <numeric>

#include "core/file.h"

namespace overproof {
namespace {

uint32_t crc_of(const std::vector<uint8_t>& bytes) { return crc32c(bytes); }

}  // namespace

TEST_CASE("CRC-32C has the values of RFC 3720") {
  std::vector<uint8_t> ascending(32), descending(32);
  std::iota(ascending.begin(), ascending.end(), uint8_t{0});
  std::iota(descending.rbegin(), descending.rend(), uint8_t{0});
  CHECK(crc_of(std::vector<uint8_t>(32, 0)) == 0x8a9136aa);
  CHECK(crc_of(std::vector<uint8_t>(32, 255)) == 0x62a8ab43);
  CHECK(crc_of(ascending) == 0x46dd794e);
  CHECK(crc_of(descending) == 0x113fdb5c);
  CHECK(crc_of({}) == 0);
}

TEST_CASE("an event file has the bytes that TensorBoard writes") {
  constexpr double kStart = 1764169200.25;
  std::string made = event_file_start(kStart);
  for (const int64_t step : {int64_t{0}, int64_t{1}, int64_t{127}, int64_t{128}, int64_t{300}, int64_t{1} << 40}) {
    const double s = double(step);
    made += scalar_record(kStart + s, step,
                          {{"loss", 2.5 + s}, {"terms/forward-kl", 0.1 + s}, {"lr", 0.0 + s}, {"balance", 1.0e-30 + s}});
  }
  CHECK(made == read_file(fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/event_file/events.out.tfevents.golden"));
}

}  // namespace overproof
