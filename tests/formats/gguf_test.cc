#include <catch2/catch.hpp>

#include "core/error.h"
#include "formats/gguf.h"
#include "tests/formats/gguf_builder.h"
#include "tests/support.h"

using namespace overproof;
using namespace overproof::test;

namespace {

GgufBuilder every_type() {
  GgufBuilder b;
  b.key("u8", GgufType::u8, raw(uint8_t(200)))
      .key("i8", GgufType::i8, raw(int8_t(-3)))
      .key("u16", GgufType::u16, raw(uint16_t(60000)));
  b.key("i16", GgufType::i16, raw(int16_t(-300))).integer("u32", 4000000000u).key("i32", GgufType::i32, raw(int32_t(-5)));
  b.key("u64", GgufType::u64, raw(uint64_t(1) << 40)).key("i64", GgufType::i64, raw(int64_t(-7))).number("f32", 0.5f);
  b.key("f64", GgufType::f64, raw(0.1)).key("bool", GgufType::boolean, raw(uint8_t(1))).text("string", "h\xc3\xa9");
  b.array("strings", GgufType::string, 2, gguf_string("a") + gguf_string("")).array("ints", GgufType::i32, 2, raw(1) + raw(-1));
  b.array("floats", GgufType::f32, 1, raw(2.5f)).array("none", GgufType::f64, 0, "");
  b.f32("w", {3, 2}, {1, 2, 3, 4, 5, 6}).f32("v", {1}, {7});
  return b;
}

void check_refused(const GgufBuilder& b, const std::string& cause) {
  const TempFolder t;
  const fs::path file = write_text(t.path() / "x.gguf", b.bytes());
  CHECK_THROWS_AS(GgufFile(file), FormatError);
  CHECK_THROWS_WITH(GgufFile(file), Catch::Contains(cause) && Catch::Contains("x.gguf: byte "));
}

GgufBuilder with_tensor(std::vector<uint64_t> ne, uint32_t type, std::string data) {
  GgufBuilder b;
  b.tensors.push_back({"w", std::move(ne), type, std::move(data)});
  return b;
}

}  // namespace

TEST_CASE("a GGUF file gives its metadata and tensors") {
  const TempFolder t;
  for (const uint32_t version : {2u, 3u}) {
    GgufBuilder b = every_type();
    b.version = version;
    const GgufFile file(write_text(t.path() / "x.gguf", b.bytes()));
    CHECK(file.version() == version);
    CHECK(file.metadata().size() == 16);
    CHECK(file.integer("u8") == 200);
    CHECK(file.integer("i8") == -3);
    CHECK(file.integer("u16") == 60000);
    CHECK(file.integer("i16") == -300);
    CHECK(file.integer("u32") == 4000000000);
    CHECK(file.integer("i32") == -5);
    CHECK(file.integer("u64") == int64_t(1) << 40);
    CHECK(file.integer("i64") == -7);
    CHECK(file.number("f32") == 0.5);
    CHECK(file.number("f64") == 0.1);
    CHECK(file.number("i16") == -300);
    CHECK(file.boolean("bool"));
    CHECK(file.text("string") == "h\xc3\xa9");
    CHECK(file.texts("strings") == std::vector<std::string>{"a", ""});
    CHECK(file.integers("ints") == std::vector<int64_t>{1, -1});
    CHECK(file.numbers("floats") == std::vector<double>{2.5});
    CHECK(file.numbers("none").empty());
    CHECK(file.integer("absent", 9) == 9);
    CHECK_THROWS_WITH(file.integer("absent"), Catch::Contains("no key 'absent'"));
    CHECK_THROWS_AS(file.integer("string"), FormatError);
    CHECK_THROWS_AS(file.integer("ints"), FormatError);
    CHECK_THROWS_AS(file.texts("ints"), FormatError);
    CHECK_THROWS_AS(file.integers("strings"), FormatError);
    CHECK_THROWS_AS(file.boolean("u8", false), FormatError);
    REQUIRE(file.find("w"));
    CHECK(file.find("w")->shape == std::vector<int64_t>{2, 3});
    CHECK(file.find("v")->elements() == 1);
    CHECK(file.find("v")->data[3] == 0x40);
    CHECK_FALSE(file.find("x"));
    CHECK(same_content(file, GgufFile(write_text(t.path() / "y.gguf", re_encode(file).bytes()))));
  }
}

TEST_CASE("a GGUF file cut at any byte is refused") {
  const TempFolder t;
  const std::string whole = every_type().bytes();
  for (size_t n = 0; n < whole.size(); ++n) {
    CAPTURE(n);
    CHECK_THROWS_AS(GgufFile(write_text(t.path() / "cut", whole.substr(0, n))), FormatError);
  }
  // The last tensor's padding may be there or not; more than that hides something.
  CHECK_NOTHROW(GgufFile(write_text(t.path() / "padded", whole + std::string(28, '\0'))));
  CHECK_THROWS_AS(GgufFile(write_text(t.path() / "cut", whole + std::string(27, '\0'))), FormatError);
  CHECK_THROWS_AS(GgufFile(write_text(t.path() / "long", whole + std::string(29, '\0'))), FormatError);
}

TEST_CASE("hostile GGUF files are refused with file and offset") {
  GgufBuilder b;
  b.version = 1;
  check_refused(b, "version 1");
  b.version = 3u << 24;
  check_refused(b, "big-endian");
  b.version = 3;
  b.tensor_count = uint64_t(1) << 60;
  check_refused(b, "more than the file can contain");
  b.tensor_count.reset();
  b.key_count = 1;
  check_refused(b, "more than the file can contain");

  check_refused(GgufBuilder().integer("k", 1).integer("k", 2), "duplicate");
  check_refused(GgufBuilder().f32("w", {1}, {1}).f32("w", {1}, {1}), "duplicate");
  check_refused(GgufBuilder().key("k", GgufType(13), "12345678"), "not a GGUF type");
  check_refused(GgufBuilder().key("k", GgufType::boolean, "\2"), "bool of value 2");
  check_refused(GgufBuilder().array("k", GgufType::array, 1, raw(uint32_t(0)) + raw(uint64_t(0))), "array of arrays");
  check_refused(GgufBuilder().array("k", GgufType::u8, UINT64_MAX, "x"), "more than the file can contain");
  check_refused(GgufBuilder().array("k", GgufType::string, 1, raw(UINT64_MAX)), "more than the file can contain");
  check_refused(GgufBuilder().key("k", GgufType::string, raw(uint64_t(9)) + "12345678"), "more than the file can contain");
  check_refused(GgufBuilder().integer("", 1), "a key has 0 bytes");
  check_refused(GgufBuilder().integer("general.alignment", 0), "power of two");
  check_refused(GgufBuilder().integer("general.alignment", 24), "power of two");
  check_refused(GgufBuilder().key("general.alignment", GgufType::u64, raw(uint64_t(32))), "power of two");

  check_refused(with_tensor({}, 0, "1234"), "0 dimensions");
  check_refused(with_tensor({1, 1, 1, 1, 1}, 0, "1234"), "5 dimensions");
  check_refused(with_tensor({0, 4}, 0, ""), "dimension of 0");
  check_refused(with_tensor({UINT64_MAX}, 0, "1234"), "dimension of 18446744073709551615");
  check_refused(with_tensor({1u << 31, 1u << 31, 4}, 0, "1234"), "63 bits");
  check_refused(with_tensor({1}, 4, "1234"), "ggml type 4");
  check_refused(with_tensor({1}, 1000, "1234"), "ggml type 1000");
  check_refused(with_tensor({33}, 8, std::string(34, '\0')), "multiple of Q8_0's 32");
  check_refused(with_tensor({2}, 0, "1234"), "ends inside the data");

  GgufBuilder two;
  two.f32("a", {16}, std::vector<float>(16)).f32("b", {16}, std::vector<float>(16));
  two.tensors[1].offset = 32;
  check_refused(two, "overlap or leave a gap");
  two.tensors[1].offset = 96;
  check_refused(two, "overlap or leave a gap");
  two.tensors[1].offset = 65;
  check_refused(two, "overlap or leave a gap");
  two.tensors[1].offset = UINT64_MAX;
  check_refused(two, "after the end");
}
