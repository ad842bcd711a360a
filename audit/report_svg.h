#pragma once
// Drawings of a report as SVG that stands inside HTML. Colours are CSS classes of the page, so they follow its theme.

#include <string>
#include <string_view>
#include <vector>

#include "audit/report_model.h"

namespace overproof {

/// Text for HTML and SVG, in elements and in quoted attributes: shown() of report_page.h, and escaped.
std::string escape_html(std::string_view text);

/// What a drawing is called and what it shows, for those who do not see it; `id` is unique in the page.
struct SvgLabel {
  std::string id, title, description;
};

/// Artifacts as boxes, from what came from outside at the top to what was made last at the bottom (Sugiyama's layers; edges over
/// several layers have a place of their own in each). "" for more than 120 artifacts, which nobody could read.
std::string lineage_svg(const SvgLabel& label, const std::vector<ReportArtifact>& artifacts);

/// Lines over the step, all on one scale from zero. Long series are averaged in equal parts. "" without values.
std::string lines_svg(const SvgLabel& label, const std::vector<ReportSeries>& series);

/// One row a layer, one cell an expert; full colour is twice the mean of the row. "" for more than 65536 cells.
std::string loads_svg(const SvgLabel& label, const std::vector<std::vector<double>>& loads);

/// The beginning of a drawing of that size, up to and with its title and description.
std::string svg_opening(const SvgLabel& label, int width, int height);

}  // namespace overproof
