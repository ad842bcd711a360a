#pragma once
// UTF-8 of input that may be ill-formed. utf8proc_iterate reports only that a sequence is ill-formed, not the length of its maximal
// subpart, by which ill-formed text is replaced as other programs do it; so sequences are decoded here.

#include <cstdint>
#include <string>
#include <string_view>

namespace overproof {

/// One decoded code point and its length in bytes. `valid` is false for an ill-formed sequence; then `bytes` is the
/// length of its maximal subpart (Unicode 15, section 3.9), at least 1.
struct Utf8Char {
  char32_t code = 0xfffd;
  int bytes = 1;
  bool valid = false;
};
/// Decodes at the start of `text`, which must not be empty.
Utf8Char decode_utf8(std::string_view text);

/// The offset of the first ill-formed sequence, or -1 when `text` is valid UTF-8.
int64_t invalid_utf8_at(std::string_view text);

/// U+FFFD for every character that `keep` is false of, and for every ill-formed maximal subpart.
std::string replace_characters(std::string_view text, bool (*keep)(char32_t));

/// Every ill-formed maximal subpart replaced by U+FFFD, as Python's errors="replace" and Rust's from_utf8_lossy do.
std::string to_valid_utf8(std::string_view text);

void append_utf8(std::string& text, char32_t code);

}  // namespace overproof
