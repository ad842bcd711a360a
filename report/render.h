#pragma once
// Renders the view by the templates page.html.mustache and page.md.mustache.

#include <string>
#include <string_view>

#include "report/view.h"

namespace overproof {

/// A self-contained page without script: its policy admits its own style sheet, by digest, and nothing else.
std::string report_html(const Report& report);
/// CommonMark 0.31 with GitHub's tables.
std::string report_markdown(const Report& report);

/// one_line() of core/markdown.h; what is longer than 2000 bytes ends in an ellipsis.
std::string shown(std::string_view text);

}  // namespace overproof
