#include <catch2/catch.hpp>

#include <ctime>

#include "core/error.h"
#include "core/json.h"
#include "core/json_object.h"
#include "core/python_json.h"
#include "core/printable.h"
#include "tests/support.h"

using namespace overproof;

namespace {

int64_t offset_of_fault(std::string_view text, int64_t base = 0) {
  try {
    parse_json(text, "file.json", base);
  } catch (const FormatError& e) {
    return e.offset();
  }
  FAIL("accepted: " << text);
  return -1;
}

/// {"leaves":[{},{}, ...]} of about `bytes` bytes: each object used to be looked for among all that came before.
std::string many_objects(size_t bytes) {
  std::string text = R"({"leaves":[{})";
  while (text.size() < bytes) text += ",{}";
  return text + "]}";
}

}  // namespace

TEST_CASE("JSON: a fault's offset is that of the byte at which parsing stopped, counted from 0") {
  CHECK(offset_of_fault("{\"a\": x}", 100) == 106);
  CHECK(offset_of_fault("x") == 0);
  CHECK(offset_of_fault("[1,2") == 4);  // one past the end: something is missing there
  CHECK(offset_of_fault("") == 0);
  CHECK(offset_of_fault("{\"a\":1,\"b\":2,\"a\":3}") == 15);  // the closing quote of the second "a"
  CHECK(offset_of_fault("[\"\xff\"]") == 2);
  CHECK(offset_of_fault(std::string(300, '[')) == 256);
  CHECK(offset_of_fault("[1] [2]") == 4);
}

TEST_CASE("JSON: duplicate keys, deep nesting and numbers beyond a double are refused") {
  CHECK(parse_json(R"({"a":[1,2]})", "f")["a"][1] == 2);
  CHECK_THROWS_WITH(parse_json(R"({"a":1,"a":2})", "f"), Catch::Contains("'a' twice"));
  CHECK_THROWS_WITH(parse_json(R"([{"b":{"a":1,"\u0061":2}}])", "f"), Catch::Contains("'a' twice"));
  CHECK(parse_json(R"([{"a":1},{"a":{"a":2}}])", "f")[1]["a"]["a"] == 2);  // equal keys of other objects
  CHECK_THROWS_AS(parse_json(R"({"a":)", "f"), FormatError);
  CHECK_THROWS_AS(parse_json("[1e99999]", "f"), FormatError);
  CHECK_THROWS_WITH(parse_json(std::string(300, '['), "f"), Catch::Contains("256 deep"));
  CHECK(parse_json(std::string(256, '[') + std::string(256, ']'), "f").size() == 1);
  CHECK_THROWS_AS(parse_json(std::string(257, '[') + std::string(257, ']'), "f"), FormatError);
  CHECK(parse_json("\"" + std::string(1000, '[') + "\"", "f").is_string());
}

TEST_CASE("JSON: what only Python reads is a value of transformers 5, and stays refused elsewhere") {
  const auto read = [](std::string_view text) { return parse_python_json(text, "config.json"); };
  CHECK(read(R"({"a": NaN, "b": [Infinity,-Infinity, 1]})") ==
        Json{{"a", {{"__float__", "NaN"}}}, {"b", {{{"__float__", "Infinity"}}, {{"__float__", "-Infinity"}}, 1}}});
  CHECK(read(R"(["NaN \\", "\" Infinity", "a"])") == Json{"NaN \\", "\" Infinity", "a"});
  CHECK_THROWS_AS(read("[NaNa]"), FormatError);
  CHECK_THROWS_AS(read("[nan]"), FormatError);
  CHECK_THROWS_AS(read("[+Infinity]"), FormatError);
  CHECK_THROWS_AS(read("{NaN: 1}"), FormatError);
  CHECK_THROWS_AS(parse_json("[NaN]", "x"), FormatError);
}

TEST_CASE("JSON: nothing after a NUL byte is accepted unread") {
  CHECK_THROWS_AS(parse_json(std::string_view("1\0 x", 4), "t.json"), FormatError);
  CHECK_THROWS_AS(parse_json(std::string_view("{}\0", 3), "t.json"), FormatError);
}

TEST_CASE("JSON: parsing builds what nlohmann's own parser builds") {
  for (const char* text :
       {R"({"b":[1,-2,3.5,true,false,null,"x\u00e9\n",{}],"a":{"c":[[],[[]]]}})", "null", "18446744073709551615",
        "-9223372036854775808", "[]", "{}", R"([{"a":[{"b":1},2]},3])", "\xef\xbb\xbf[1]"})
    CHECK(parse_json(text, "f") == Json::parse(text));
}

TEST_CASE("JSON: time grows with the text, not with its square") {
  // Sixteen times the text took 256 times as long; the bound leaves room for a busy machine, and the fastest of some runs counts.
  CHECK(growth_of_time([](size_t bytes) { return many_objects(bytes); }, [](const std::string& s) { parse_json(s, "f"); },
                       32 << 10, 512 << 10) < 64);
}

TEST_CASE("a JSON object's members are read by type, and a fault names file and member") {
  const Json json =
      parse_json(R"({"text":"a","whole":7,"big":9223372036854775808,"real":1.5,"flag":true,"null":null,"list":["x",1],
      "nested":{"deep":{"n":-1}},"rows":[{"n":1},{"n":"x"}],"digest":"AB"})",
                 "f");
  const JsonObject object(json, "dir/f.json");
  CHECK(object.text("text") == "a");
  CHECK(object.text("missing", "fallback") == "fallback");
  CHECK(object.integer("whole", 1, 7) == 7);
  CHECK(object.number("whole") == 7.0);
  CHECK(object.number("real") == 1.5);
  CHECK(object.flag("flag"));
  CHECK(object.object("nested").object("deep").integer("n", -1, 1) == -1);
  CHECK(object.objects("rows")[0].count("n") == 1);
  CHECK(object.list_or_empty("missing").empty());
  CHECK_FALSE(object.find_object("missing"));
  CHECK_THROWS_WITH(object.text("missing"), Catch::Contains("dir/f.json") && Catch::Contains("'missing' is missing"));
  CHECK_THROWS_WITH(object.text("whole", "x"), Catch::Contains("'whole' is not a string"));
  CHECK_THROWS_WITH(object.integer("whole", 8, 9), Catch::Contains("'whole' is 7; allowed: 8 to 9"));
  CHECK_THROWS_AS(object.integer("big", INT64_MIN, INT64_MAX), FormatError);
  CHECK_THROWS_AS(object.count("big"), FormatError);
  CHECK_THROWS_AS(object.integer("real", 0, 9), FormatError);
  CHECK_THROWS_AS(object.number("text"), FormatError);
  CHECK_THROWS_AS(object.flag("whole"), FormatError);
  CHECK_THROWS_WITH(object.object("nested").object("deep").count("n"), Catch::Contains("'nested.deep.n' is -1"));
  CHECK_THROWS_WITH(object.objects("rows")[1].count("n"), Catch::Contains("'rows[1].n' is not a whole number"));
  CHECK_THROWS_WITH(object.texts("list"), Catch::Contains("'list[1]' is not a string"));
  CHECK_THROWS_WITH(object.digest("digest"), Catch::Contains("'digest' is not a SHA-256"));
  CHECK_THROWS_WITH(object.object("list"), Catch::Contains("'list' is not a JSON object"));
  CHECK_THROWS_WITH(object.expect_only({"text"}), Catch::Contains("is not a known member"));
  CHECK_THROWS_WITH(object.expect_text("text", "b"), Catch::Contains("'text' is 'a'; expected 'b'"));
  CHECK_THROWS_AS(JsonObject(json["list"], "f"), FormatError);

  CHECK(object.has("null"));
  CHECK_THROWS_WITH(object.text("null", "fallback"), Catch::Contains("'null' is not a string"));
  const JsonObject tolerant(json, "f", "", JsonNull::absent);
  CHECK_FALSE(tolerant.has("null"));
  CHECK(tolerant.text("null", "fallback") == "fallback");

  try {
    JsonObject(json, "f", "record", JsonNull::value, 77).fail("is bad");
  } catch (const FormatError& e) {
    CHECK(e.offset() == 77);
    CHECK_THAT(e.what(), Catch::Contains("'record': is bad"));
  }
}

TEST_CASE("printable text cannot steer a terminal or begin a line of its own") {
  CHECK(printable("plain \xc3\xa9\ttab") == "plain \xc3\xa9\ttab");
  const std::string mark = "\xef\xbf\xbd";
  CHECK(printable("a\nb\rc") == "a" + mark + "b" + mark + "c");
  CHECK(printable("\x1b[2J\x7f") == mark + "[2J" + mark);
  CHECK(printable("\xc2\x9b"
                  "2J") == mark + "2J");                               // C1: CSI as one character
  CHECK(printable("x\xe2\x80\xaegpj.exe") == "x" + mark + "gpj.exe");  // right-to-left override
  CHECK(printable("a\xe2\x80\xa8"
                  "b\xe2\x81\xa6"
                  "c") == "a" + mark + "b" + mark + "c");  // line separator, isolate
  CHECK(printable("\xff\xc3") == mark + mark);
  CHECK(printable_lines("a\nb\x1b") == "a\nb" + mark);
}

TEST_CASE("what a message quotes from a file cannot begin a line or turn the direction of text") {
  try {
    parse_json("{\"a\\nall signatures hold\\u202e\": 1, \"a\\nall signatures hold\\u202e\": 2}", "f.json");
    FAIL("a duplicate key was accepted");
  } catch (const FormatError& e) {
    CHECK_THAT(e.what(), Catch::Contains("all signatures hold"));
    CHECK(std::string(e.what()).find('\n') == std::string::npos);
    CHECK(std::string(e.what()).find("\u202e") == std::string::npos);
  }
}

TEST_CASE("JSON text for output replaces what is not UTF-8") {
  CHECK(dump_text(Json{{"a", "\xff"}}) == "{\"a\":\"\xef\xbf\xbd\"}");
  CHECK(dump_text(Json{{"a", 1}}, 1) == "{\n \"a\": 1\n}");
}
