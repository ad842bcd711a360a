#pragma once
// Drawings as data for the SVG of the page's template: {"width", "height", "paths", "boxes", "cells", "labels"}. Colours are CSS
// classes, so they follow the page's theme.

#include <optional>

#include "report/view.h"

namespace overproof {

/// Artifacts as boxes, one a row, parents above children; a lane to the left of them leads from each to what was made from it, as
/// version control draws its history, so that the drawing fits a phone. Nothing for more than 120 artifacts, which is too much to
/// read.
std::optional<View> lineage_drawing(const std::vector<ReportArtifact>& artifacts);

/// Lines over the step, or another unit, all on one scale from zero. Long series are averaged in equal parts. Nothing without two
/// values.
std::optional<View> lines_drawing(const std::vector<StepSeries>& series, const char* unit = "step");

/// One row for each layer, one cell for each expert; full colour is twice the mean of the row. Nothing for more than 65536 cells.
std::optional<View> loads_drawing(const std::vector<std::vector<double>>& loads);

}  // namespace overproof
