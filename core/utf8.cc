#include "core/utf8.h"

namespace overproof {

Utf8Char decode_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  int length = 0;
  // The second byte's range excludes overlong forms, surrogates and code points beyond U+10FFFF (Unicode, table 3-7).
  uint8_t low = 0x80, high = 0xbf;
  char32_t code = 0;
  if (lead >= 0xc2 && lead <= 0xdf) {
    length = 2, code = lead & 0x1f;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    length = 3, code = lead & 0x0f;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    length = 4, code = lead & 0x07;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
  } else {
    return {};
  }
  for (int i = 1; i < length; ++i) {
    if (size_t(i) >= text.size() || byte(size_t(i)) < low || byte(size_t(i)) > high) return {0xfffd, i, false};
    code = code << 6 | (byte(size_t(i)) & 0x3f);
    low = 0x80, high = 0xbf;
  }
  return {code, length, true};
}

int64_t invalid_utf8_at(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (uint8_t(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Utf8Char c = decode_utf8(text.substr(i));
    if (!c.valid) return int64_t(i);
    i += size_t(c.bytes);
  }
  return -1;
}

std::string replace_characters(std::string_view text, bool (*keep)(char32_t)) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = decode_utf8(text.substr(i));
    if (c.valid && keep(c.code)) out.append(text.substr(i, size_t(c.bytes)));
    else out += "\xef\xbf\xbd";
    i += size_t(c.bytes);
  }
  return out;
}

std::string to_valid_utf8(std::string_view text) {
  return replace_characters(text, [](char32_t) { return true; });
}

void append_utf8(std::string& text, char32_t code) {
  if (code < 0x80) {
    text += char(code);
  } else if (code < 0x800) {
    text += char(0xc0 | code >> 6);
    text += char(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    text += char(0xe0 | code >> 12);
    text += char(0x80 | (code >> 6 & 0x3f));
    text += char(0x80 | (code & 0x3f));
  } else {
    text += char(0xf0 | code >> 18);
    text += char(0x80 | (code >> 12 & 0x3f));
    text += char(0x80 | (code >> 6 & 0x3f));
    text += char(0x80 | (code & 0x3f));
  }
}

}  // namespace overproof
