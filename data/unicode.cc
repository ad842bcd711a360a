#include "data/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "core/error.h"
#include "core/regex.h"
#include "core/utf8.h"

namespace overproof {

bool is_white_space(char32_t code) {
  return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
         code == 0x3000;
}

bool is_word(char32_t code) {
  if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;  // no character
  static const Regex word("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]", Regex::Text::utf8, "word characters");
  std::string text;
  append_utf8(text, code);
  return word.matches_start(text, 1000);
}

bool surely_nfc(std::string_view text) {
  // No character below U+0300 changes under NFC or combines with the one before it; 0xcc is the lead byte of U+0300.
  return std::all_of(text.begin(), text.end(), [](char c) { return uint8_t(c) < 0xcc; });
}

std::string to_nfc(std::string_view text) {
  // utf8proc_map() does the same, but sorts marks by swapping neighbours: a text of n marks takes n^2 steps.
  constexpr auto kOptions = utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size() + 1);
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text.substr(at));
    utf8proc_int32_t parts[32];  // the longest canonical decomposition has 4
    const utf8proc_ssize_t count = utf8proc_decompose_char(utf8proc_int32_t(c.code), parts, std::size(parts), kOptions, nullptr);
    OVERPROOF_CHECK(count >= 0 && count <= utf8proc_ssize_t(std::size(parts)));
    codes.insert(codes.end(), parts, parts + count);
    at += size_t(c.bytes);
  }
  const auto mark_class = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
  for (auto begin = codes.begin(); begin != codes.end();) {
    begin = std::find_if(begin, codes.end(), [&](utf8proc_int32_t code) { return mark_class(code) != 0; });
    const auto end = std::find_if(begin, codes.end(), [&](utf8proc_int32_t code) { return mark_class(code) == 0; });
    std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) { return mark_class(a) < mark_class(b); });
    begin = end;
  }
  const auto length = utf8proc_ssize_t(codes.size());
  codes.push_back(0);  // utf8proc_reencode() ends the text there
  const utf8proc_ssize_t bytes = utf8proc_reencode(codes.data(), length, kOptions);  // in place: a code point has at most four bytes
  OVERPROOF_CHECK(bytes >= 0);
  return std::string(reinterpret_cast<const char*>(codes.data()), size_t(bytes));
}

}  // namespace overproof
