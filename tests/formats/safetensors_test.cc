#include <catch2/catch.hpp>

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <map>
#include <tuple>

#include "core/error.h"
#include "core/float_bits.h"
#include "formats/metadata.h"
#include "formats/safetensors_checkpoint.h"
#include "tests/support.h"

using namespace overproof;

namespace {

/// A file with this header and `data` zero bytes behind it.
std::string file_of(const std::string& header, size_t data) {
  const uint64_t length = header.size();
  std::string s(8, '\0');
  std::memcpy(s.data(), &length, 8);
  return s + header + std::string(data, '\0');
}

void check_refused(const std::string& content, const std::string& cause) {
  const TempFolder t;
  CAPTURE(content.substr(0, 200));
  CHECK_THROWS_AS(SafetensorsFile(write_text(t.path() / "x.safetensors", content)), FormatError);
  CHECK_THROWS_WITH(SafetensorsFile(write_text(t.path() / "x.safetensors", content)),
                    Catch::Contains(cause) && Catch::Contains("x.safetensors"));
}

}  // namespace

TEST_CASE("what the safetensors writer wrote the reader reads, in the declared order") {
  const TempFolder t;
  OutputFolder folder(t.path());
  const std::vector<TensorInfo> tensors = {{"z", DType::f32, {2, 3}},
                                           {"empty", DType::i64, {0, 4}},
                                           {"a", DType::bf16, {4}},
                                           {"h", DType::f16, {1}},
                                           {"s", DType::u8, {}}};
  SafetensorsWriter writer(folder, "m.safetensors", tensors, {{"format", "pt"}});
  writer.append_f32(std::vector<float>{1, 2, 3, 4});
  writer.append_f32(std::vector<float>{5, 6});
  writer.append_f32(std::vector<float>{0.1f, -1, 1e30f, 3.00390625f});
  const uint16_t one = f32_to_f16(1.0f);
  const uint8_t rest[3] = {uint8_t(one), uint8_t(one >> 8), 7};
  writer.append(rest, 3);  // crosses from one tensor into the next
  writer.close();

  const SafetensorsFile file(t.path() / "m.safetensors");
  CHECK(file.metadata() == Metadata{{"format", "pt"}});
  REQUIRE(file.tensors().size() == 5);
  CHECK(file.info("z") == tensors[0]);
  CHECK(file.info("empty").elements() == 0);
  const auto z = file.values<float>("z");
  CHECK(std::vector<float>(z.begin(), z.end()) == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(reinterpret_cast<uintptr_t>(z.data()) % 64 == 0);
  CHECK(file.values<uint16_t>("a")[3] == 0x4040);  // a tie, rounded to even
  CHECK(file.values<uint16_t>("h")[0] == 0x3c00);
  CHECK(file.values<uint8_t>("s")[0] == 7);
  CHECK_THROWS_AS(file.values<uint16_t>("z"), FormatError);
  CHECK_THROWS_AS(file.values<float>("missing"), FormatError);
  CHECK(folder.records().at(0).digest == sha256_file(t.path() / "m.safetensors"));
}

TEST_CASE("the safetensors writer refuses too few and too many bytes") {
  const TempFolder t;
  OutputFolder folder(t.path());
  SafetensorsWriter writer(folder, "m.safetensors", {{"a", DType::f32, {2}}});
  writer.append_f32(std::vector<float>{1});
  CHECK_THROWS_AS(writer.close(), std::logic_error);
  CHECK_THROWS_AS(writer.append_f32(std::vector<float>{1, 2}), std::logic_error);
}

TEST_CASE("a safetensors file cut at any byte is refused") {
  const TempFolder t;
  OutputFolder folder(t.path());
  SafetensorsWriter writer(folder, "m.safetensors", {{"a", DType::f32, {2}}, {"b", DType::u8, {3}}});
  writer.append("01234567012", 11);
  writer.close();
  const std::string whole = read_file(t.path() / "m.safetensors");
  for (size_t n = 0; n < whole.size(); ++n) {
    CAPTURE(n);
    CHECK_THROWS_AS(SafetensorsFile(write_text(t.path() / "cut", whole.substr(0, n))), FormatError);
  }
  CHECK_THROWS_AS(SafetensorsFile(write_text(t.path() / "long", whole + "x")), FormatError);
}

TEST_CASE("the header of 46,000 tensors is read in time that grows with its length") {
  // Each tensor's object used to be compared with all before it: this many took half a minute.
  const TempFolder t;
  const auto make = [&](size_t tensors) {
    std::string header = "{";
    for (size_t i = 0; i < tensors; ++i)
      header +=
          fmt::format(R"({}"model.layers.{}.mlp.experts.{}.up_proj.weight":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}})",
                      i ? "," : "", i / 256, i % 256, i, i + 1);
    return write_text(t.path() / fmt::format("{}.safetensors", tensors), file_of(header + "}", tensors));
  };
  const auto read = [](const fs::path& file) { CHECK(SafetensorsFile(file).tensors().size() >= 2875); };
  CHECK(growth_of_time(make, read, 2'875, 46'000) < 64);
}

TEST_CASE("hostile safetensors headers are refused by name") {
  check_refused(
      file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
              8),
      "twice");
  check_refused(
      file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
              6),
      "overlapping");
  check_refused(
      file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
              12),
      "gap");
  check_refused(file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8), "gap");
  check_refused(file_of(R"({"w":{"shape":[4,4]}})", 0), "needs dtype");
  check_refused(file_of(R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"more":1}})", 16), "unknown key");
  check_refused(file_of(R"({"w":{"dtype":"F33","shape":[4],"data_offsets":[0,16]}})", 16), "not known");
  check_refused(file_of(R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}})", 16), "need 12 bytes");
  check_refused(file_of(R"({"w":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}})", 16), "not a size");
  check_refused(file_of(R"({"w":{"dtype":"F32","shape":[4.0],"data_offsets":[0,16]}})", 16), "not a size");
  check_refused(file_of(R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}})", 16), "end before");
  check_refused(file_of(R"({"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0), "63 bits");
  check_refused(file_of(R"({"w":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]}})", 0), "63 bits");
  check_refused(file_of(R"({"w":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}})", 0),
                "not a size");
  check_refused(file_of(R"({"w":{"dtype":"U8","shape":[99],"data_offsets":[0,99]}})", 16), "ends at byte 99");
  check_refused(file_of(R"({"__metadata__":{"a":1}})", 0), "not a string");
  check_refused(file_of(R"({"w":[]})", 0), "not an object");
  check_refused(file_of(R"([])", 0), "'{'");
  check_refused(file_of(R"( {})", 0), "'{'");
  check_refused(file_of(R"({)", 0), "JSON");
  check_refused(file_of(R"({"a":)" + std::string(1000, '['), 0), "deep");
  check_refused(std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10), "limit");
  check_refused("", "length");
}

TEST_CASE("metadata that is not what it must be is refused by name") {
  const TempFolder t;
  OutputFolder out(t.path());
  SafetensorsWriter writer(
      out, "m.safetensors", {},
      {{"n", "5"}, {"x", "0.5"}, {"nan", "nan"}, {"word", "five"}, {"digest", std::string(64, 'a')}, {"short", "aa"}});
  writer.close();
  const SafetensorsFile file(t.path() / "m.safetensors");
  CHECK(metadata_integer(file, "n", 0) == 5);
  CHECK(metadata_number(file, "x", 0, 1) == 0.5);
  CHECK(metadata_digest(file, "digest").hex() == std::string(64, 'a'));
  CHECK_THROWS_AS(metadata_integer(file, "n", 6), FormatError);
  CHECK_THROWS_AS(metadata_integer(file, "n", 0, 4), FormatError);
  CHECK_THROWS_AS(metadata_integer(file, "x", 0), FormatError);
  CHECK_THROWS_AS(metadata_integer(file, "word", 0), FormatError);
  CHECK_THROWS_AS(metadata_number(file, "nan", 0, 1), FormatError);
  CHECK_THROWS_AS(metadata_digest(file, "short"), FormatError);
  CHECK_THROWS_WITH(metadata_text(file, "none"), Catch::Contains("m.safetensors") && Catch::Contains("'none' is missing"));
}

TEST_CASE("every dtype that safetensors writes is read with torch's values") {
  const fs::path golden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/formats_dtypes";
  const SafetensorsFile file(golden / "model.safetensors"), expected(golden / "expected.safetensors");
  REQUIRE(file.tensors().size() == 19);  // all of DType but those below a byte
  for (const TensorInfo& t : file.tensors()) {
    CAPTURE(t.name);
    CHECK(dtype_name(t.dtype) == t.name);
    if (!has_values(t.dtype)) continue;
    std::vector<float> got(size_t(t.elements()));
    elements_to_f32(t.dtype, file.bytes(t.name).data(), got);
    const auto want = expected.values<float>(t.name);
    REQUIRE(want.size() == got.size());
    size_t different = 0;
    for (size_t i = 0; i < got.size(); ++i)
      different += f32_bits(got[i]) != f32_bits(want[i]) && !(std::isnan(got[i]) && std::isnan(want[i]));
    CHECK(different == 0);
  }
  const SafetensorsCheckpoint checkpoint(golden);
  CHECK_THROWS_WITH(checkpoint.read_all_f32("C64"), Catch::Contains("'C64' is C64"));
}

TEST_CASE("types below a byte are listed with their bytes, and not read as numbers") {
  const fs::path golden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/formats_dtypes/packed.safetensors";
  const SafetensorsFile file(golden);
  REQUIRE(file.tensors().size() == 3);
  const std::map<std::string, std::pair<DType, std::vector<int64_t>>> want = {
      {"F4", {DType::f4, {4, 6}}}, {"F6_E2M3", {DType::f6_e2m3, {4, 4}}}, {"F6_E3M2", {DType::f6_e3m2, {8}}}};
  uint8_t code = 0;
  for (const TensorInfo& t : file.tensors()) {
    CAPTURE(t.name);
    CHECK(std::pair(t.dtype, t.shape) == want.at(t.name));
    CHECK(dtype_name(t.dtype) == t.name);
    CHECK(!has_values(t.dtype));
    CHECK(int64_t(file.bytes(t.name).size()) == t.bytes());
    for (const uint8_t byte : file.bytes(t.name)) CHECK(byte == code++);
    CHECK_THROWS_AS(file.values<float>(t.name), FormatError);
  }
  CHECK(code == 30);
  const TempFolder folder;
  fs::copy_file(golden, folder / "model.safetensors");
  const SafetensorsCheckpoint checkpoint(folder.path());
  CHECK_THROWS_WITH(checkpoint.read_all_f32("F4"), Catch::Contains("'F4' is F4") && Catch::Contains("not read as numbers"));
  CHECK(checkpoint.extent("F4")->row_bytes == 3);
  CHECK(checkpoint.extent("F6_E2M3")->row_bytes == 3);
  CHECK(!checkpoint.extent("F6_E3M2"));  // rows of one element
  for (const auto& [dtype, elements, bytes] : std::vector<std::tuple<const char*, int, int>>{{"F4", 3, 1}, {"F4", 3, 2}, {"F6_E2M3", 2, 1}, {"F6_E3M2", 6, 4}}) {
    check_refused(file_of(fmt::format(R"({{"w":{{"dtype":"{}","shape":[{}],"data_offsets":[0,{}]}}}})", dtype, elements, bytes), size_t(bytes)),
                  "no whole number of bytes");
  }
}
