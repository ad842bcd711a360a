#pragma once
// File names and parsers' messages may hold any bytes; a terminal and a page must not get them raw.

#include <string>
#include <string_view>

namespace overproof {

/// The text as one line of valid UTF-8. U+FFFD replaces every ill-formed sequence, control character (C0 except tab, DEL, C1),
/// line break (LF, CR, U+2028, U+2029) and bidirectional control: none of them can move the cursor, start a line that looks
/// like one of ours, or change the order in which the text is shown.
std::string printable(std::string_view text);

/// The same for a text of several lines: line feeds are kept.
std::string printable_lines(std::string_view text);

/// JSON text with the same value: those characters, which JSON allows unescaped in strings, are written as \uXXXX. `json` must be
/// JSON in UTF-8; its line feeds and indentation are kept.
std::string printable_json(std::string_view json);

}  // namespace overproof
