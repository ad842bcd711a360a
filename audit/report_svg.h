#pragma once
// Drawings of a report as SVG that stands inside HTML. Colours are CSS classes of the page, so they follow its theme.

#include <string>
#include <vector>

#include "provenance/run_folder.h"

namespace overproof {

/// Text for HTML and SVG, in elements and in quoted attributes. What is not UTF-8 becomes U+FFFD.
std::string escape_html(std::string_view text);

/// Artifacts as boxes, from what came from outside on the left to what was made last on the right.
std::string pipeline_svg(const RunFolder& run);

struct Series {
  std::string name;
  std::vector<double> values;
};

/// Lines over the step, all on one scale from zero. Long series are averaged in equal parts. "" without values.
std::string lines_svg(const std::string& title, const std::vector<Series>& series);

/// One row a layer, one cell an expert; full colour is twice the mean of the row.
std::string loads_svg(const std::string& title, const std::vector<std::vector<double>>& loads);

}  // namespace overproof
