#pragma once
// The templates and the style sheet as text; CMake makes the source file from the files next to this one.

namespace overproof {

extern const char* const kPageHtml;       ///< page.html.mustache
extern const char* const kWordsHtml;      ///< words.html.mustache: a list of text pieces
extern const char* const kPageMarkdown;   ///< page.md.mustache
extern const char* const kWordsMarkdown;  ///< words.md.mustache
extern const char* const kPageStyle;      ///< page.css

}  // namespace overproof
