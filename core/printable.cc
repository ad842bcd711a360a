#include "core/printable.h"

#include <fmt/format.h>

#include "core/utf8.h"

namespace overproof {
namespace {

bool is_control(char32_t c) {
  if (c < 0x20) return c != '\t';
  if (c >= 0x7f && c <= 0x9f) return true;
  return c == 0x061c || c == 0x200e || c == 0x200f ||  // bidirectional marks
         (c >= 0x2028 && c <= 0x202e) ||               // line and paragraph separator, embeddings and overrides
         (c >= 0x2066 && c <= 0x2069);                 // isolates
}

}  // namespace

std::string printable(std::string_view text) {
  return replace_characters(text, [](char32_t c) { return !is_control(c); });
}
std::string printable_lines(std::string_view text) {
  return replace_characters(text, [](char32_t c) { return !is_control(c) || c == '\n'; });
}

std::string printable_json(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  for (size_t i = 0; i < json.size();) {
    const Utf8Char c = decode_utf8(json.substr(i));
    // All of them are in the basic plane. A raw control character below U+0020 is white space between values.
    if (c.valid && c.code >= 0x20 && is_control(c.code)) out += fmt::format("\\u{:04x}", uint32_t(c.code));
    else out.append(json.substr(i, size_t(c.bytes)));
    i += size_t(c.bytes);
  }
  return out;
}

}  // namespace overproof
