#include "data/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

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
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t bytes =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), utf8proc_ssize_t(text.size()), &composed,
                   utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(composed, &std::free);
  OVERPROOF_CHECK(bytes >= 0);
  return std::string(reinterpret_cast<const char*>(composed), size_t(bytes));
}

}  // namespace overproof
