#pragma once
// The Unicode functions that tokenisers need in addition to regular expressions.

#include <string>
#include <string_view>

namespace overproof {

/// Unicode property White_Space.
bool is_white_space(char32_t code);
/// \w of Unicode regular expressions: Alphabetic, M, Nd, Pc, Join_Control (UTS #18, annex C).
bool is_word(char32_t code);

/// Normalization Form C (UAX #15) of valid UTF-8, with utf8proc's tables. Hugging Face's `tokenizers` still has those of
/// Unicode 9: marks encoded later keep their place there and are put in canonical order here.
std::string to_nfc(std::string_view text);
/// True when `text` cannot change under NFC; a cheap test that may return false for NFC text.
bool surely_nfc(std::string_view text);

}  // namespace overproof
