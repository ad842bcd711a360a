#include "data/unicode.h"

#include <catch2/catch.hpp>
#include <ctime>

#include "core/utf8.h"

namespace overproof {
namespace {

TEST_CASE("NFC gives the examples of UAX #15") {
  CHECK(to_nfc("plain") == "plain");
  CHECK(to_nfc("A\xcc\x8a") == "\xc3\x85");                                 // A + ring
  CHECK(to_nfc("\xe2\x84\xab") == "\xc3\x85");                              // ANGSTROM SIGN is a singleton
  CHECK(to_nfc("s\xcc\x87\xcc\xa3") == "\xe1\xb9\xa9");                     // dot above, dot below: reordered, then one letter
  CHECK(to_nfc("\xe0\xa5\x98") == "\xe0\xa4\x95\xe0\xa4\xbc");              // excluded from composition
  CHECK(to_nfc("\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab") == "\xed\x95\x9c");  // Hangul jamo to one syllable
  CHECK(to_nfc("\xed\x95\x9c") == "\xed\x95\x9c");
}

TEST_CASE("NFC is idempotent, and the cheap test never lies") {
  for (char32_t code = 0; code < 0x30000; ++code) {
    if (code >= 0xd800 && code <= 0xdfff) continue;
    std::string text = "a";
    append_utf8(text, code);
    append_utf8(text, 0x301);
    const std::string once = to_nfc(text);
    REQUIRE(to_nfc(once) == once);
    text.resize(text.size() - 2);
    if (surely_nfc(text)) REQUIRE(to_nfc(text) == text);
  }
}

TEST_CASE("NFC orders long runs of marks in about linear time, and keeps the order of marks of one class") {
  std::string text = "a", sorted = "\xc3\xa1";  // the first acute joins the letter
  constexpr int kPairs = 200'000;          // n^2 steps would take hours
  for (int i = 0; i < kPairs; ++i) text += i % 2 ? "\xcc\x80\xcc\x96" : "\xcc\x81\xcc\x96";
  std::string below, above;
  for (int i = 0; i < kPairs; ++i) {
    below += "\xcc\x96";
    if (i > 0) above += i % 2 ? "\xcc\x80" : "\xcc\x81";
  }
  const std::clock_t start = std::clock();
  CHECK(to_nfc(text) == sorted + below + above);  // a grave below (class 220) comes before those above (230)
  CHECK(double(std::clock() - start) / CLOCKS_PER_SEC < 20);
}

TEST_CASE("word characters and white space follow Unicode") {
  for (char32_t code : {U'a', U'_', U'9', U'é', U'中', char32_t(0x0301), char32_t(0x200d)}) CHECK(is_word(code));
  for (char32_t code : {U' ', U'-', U'.', U'😀', char32_t(0x200b)}) CHECK_FALSE(is_word(code));
  for (char32_t code : {char32_t(9), char32_t(0x85), char32_t(0x3000), char32_t(0x2028)}) CHECK(is_white_space(code));
  for (char32_t code : {char32_t(0x180e), char32_t(0x200b), U'x'}) CHECK_FALSE(is_white_space(code));
}

TEST_CASE("ill-formed UTF-8 is replaced by maximal subparts") {
  CHECK(invalid_utf8_at("abc\xe4\xb8\xad") == -1);
  CHECK(invalid_utf8_at("ab\xff") == 2);
  const std::string u = "\xef\xbf\xbd";
  CHECK(to_valid_utf8("a\xff"
                      "b") == "a" + u + "b");
  CHECK(to_valid_utf8("\xf0\x9f\x98") == u);                  // a truncated sequence is one subpart
  CHECK(to_valid_utf8("\xe0\x80\x80") == u + u + u);          // overlong: no subpart longer than a byte
  CHECK(to_valid_utf8("\xed\xa0\x80") == u + u + u);          // a surrogate
  CHECK(to_valid_utf8("\xf4\x90\x80\x80") == u + u + u + u);  // beyond U+10FFFF
}

}  // namespace
}  // namespace overproof
