#pragma once
// Texts of files in Markdown: CommonMark 0.31 with GitHub's extensions.

#include <string>
#include <string_view>

namespace overproof {

/// `text` as printable_lines() of core/printable.h makes it, with blanks for tabs and line feeds.
std::string one_line(std::string_view text);

/// `text` for a line of Markdown that shows it unchanged, as one_line() makes it: it begins no heading, list, quote, link, tag or
/// table cell, and no renderer makes a link of an address in it.
std::string escape_markdown(std::string_view text);

/// The same in a code span; "" of nothing.
std::string markdown_code(std::string_view text);

}  // namespace overproof
