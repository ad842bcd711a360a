#include "report/drawings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/render.h"

namespace overproof {
namespace {

constexpr size_t kMostArtifacts = 120, kMostPoints = 400, kMostCells = 65536;

std::string at(double x) { return fmt::format("{:.1f}", x); }

/// The parts of one drawing.
struct Canvas {
  ViewList paths, boxes, cells, labels;
  void path(const std::string& looks, const std::string& d) { paths.push_back(ViewObject{{"looks", looks}, {"d", d}}); }
  void label(double x, double y, const char* anchor, const std::string& text) {
    labels.push_back(ViewObject{{"x", at(x)}, {"y", at(y)}, {"anchor", anchor}, {"text", text}});
  }
  View view(int width, int height) const {
    return ViewObject{{"width", std::to_string(width)},
                      {"height", std::to_string(height)},
                      {"paths", paths},
                      {"boxes", boxes},
                      {"cells", cells},
                      {"labels", labels}};
  }
};

bool has_role(const ReportArtifact& a, Role role) { return a.row() && a.row()->role == role; }

/// At most `most` characters, so that it fits its place.
std::string fitted(const std::string& text, size_t most) {
  const std::string line = shown(text);
  size_t characters = 0;
  for (size_t i = 0; i < line.size(); ++i)
    if ((static_cast<unsigned char>(line[i]) & 0xc0) != 0x80 && ++characters > most) return line.substr(0, i) + "…";
  return line;
}

/// The children of each artifact that a line leads to. What only measures has none.
std::vector<std::vector<size_t>> drawn_children(const std::vector<ReportArtifact>& artifacts) {
  std::vector<std::vector<size_t>> children(artifacts.size());
  for (size_t i = 0; i < artifacts.size(); ++i) {
    if (has_role(artifacts[i], Role::evaluation)) continue;
    for (const int parent : artifacts[i].parents)
      if (parent >= 0 && size_t(parent) < i && (children[size_t(parent)].empty() || children[size_t(parent)].back() != i))
        children[size_t(parent)].push_back(i);
  }
  return children;
}

/// A lane for each artifact, which it keeps from its row to that of its last child; that child may take it over.
std::vector<size_t> lanes_of(const std::vector<std::vector<size_t>>& children) {
  std::vector<size_t> lanes, free_from;
  for (size_t i = 0; i < children.size(); ++i) {
    size_t lane = 0;
    while (lane < free_from.size() && free_from[lane] > i) ++lane;
    if (lane == free_from.size()) free_from.push_back(0);
    free_from[lane] = children[i].empty() ? i + 1 : children[i].back();
    lanes.push_back(lane);
  }
  return lanes;
}

/// Equal parts replaced by their means, so that the curve of a million steps fits on a page.
std::vector<double> thinned(const std::vector<double>& values) {
  if (values.size() <= kMostPoints) return values;
  std::vector<double> means;
  for (size_t i = 0; i < kMostPoints; ++i) {
    const size_t begin = i * values.size() / kMostPoints, end = (i + 1) * values.size() / kMostPoints;
    double sum = 0;
    for (size_t j = begin; j < end; ++j) sum += values[j];
    means.push_back(sum / double(end - begin));
  }
  return means;
}

/// The least of 1, 2, 5 x 10^n that is not below x.
double round_up(double x) {
  const double power = std::pow(10.0, std::floor(std::log10(x)));
  for (const double step : {1.0, 2.0, 5.0})
    if (x <= step * power) return step * power;
  return 10 * power;
}

}  // namespace

std::optional<View> lineage_drawing(const std::vector<ReportArtifact>& artifacts) {
  if (artifacts.empty() || artifacts.size() > kMostArtifacts) return std::nullopt;
  // Narrow enough for a phone; what is to the right of the boxes is shown where there is room.
  constexpr double kRow = 42, kBoxWidth = 150, kBoxHeight = 34, kMargin = 6, kMostLanes = 90, kTurn = 7;
  constexpr int kWidth = 760;
  const auto children = drawn_children(artifacts);
  const std::vector<size_t> lanes = lanes_of(children);
  const double lane = std::min(11.0, kMostLanes / double(*std::ranges::max_element(lanes) + 1));
  const double boxes = kMargin + lane * double(*std::ranges::max_element(lanes) + 1) + 8;
  const auto x_of = [&](size_t i) { return kMargin + 4 + lane * double(lanes[i]); };
  const auto y_of = [&](size_t i) { return kMargin + kRow * double(i) + kBoxHeight / 2; };
  Canvas canvas;
  for (size_t i = 0; i < artifacts.size(); ++i)
    for (const size_t child : children[i]) {
      const double x = x_of(i), to = x_of(child), y = y_of(child);
      std::string d = fmt::format("M{:.1f} {:.1f}V{:.1f}", x, y_of(i), to == x ? y : y - kTurn);
      if (to != x) d += fmt::format("Q{:.1f} {:.1f} {:.1f} {:.1f}H{:.1f}", x, y, x + (to > x ? kTurn : -kTurn), y, to);
      canvas.path("wire", d);
      canvas.paths.back().set("tip", fmt::format("{} is made from {}", artifacts[child].name, artifacts[i].name));
    }
  for (size_t i = 0; i < artifacts.size(); ++i) {
    const ReportArtifact& a = artifacts[i];
    const double y = y_of(i);
    canvas.path("wire faint", fmt::format("M{:.1f} {:.1f}H{:.1f}", x_of(i), y, boxes));
    canvas.path("dot", fmt::format("M{:.1f} {:.1f}m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", x_of(i), y));
    const bool aside = has_role(a, Role::evaluation) || has_role(a, Role::statistics);
    canvas.boxes.push_back(ViewObject{{"looks", !a.holds   ? "box bad"
                                                : aside    ? "box aside"
                                                : a.is_end ? "box end"
                                                           : "box"},
                                      {"tip", a.name + ": " + a.story},
                                      {"x", at(boxes)},
                                      {"y", at(y - kBoxHeight / 2)},
                                      {"width", fmt::format("{:g}", kBoxWidth)},
                                      {"height", fmt::format("{:g}", kBoxHeight)},
                                      {"left", at(boxes + 9)},
                                      {"upper", at(y - 3)},
                                      {"lower", at(y + 11)},
                                      {"upper_text", fitted(a.name, 19)},
                                      {"lower_text", !a.holds         ? "does not hold"
                                                     : a.kind.empty() ? "other tool"
                                                                      : fitted(a.kind, 22)},
                                      {"side", at(boxes + kBoxWidth + 12)},
                                      {"side_y", at(y + 4)},
                                      {"side_text", fitted(a.story, 76)}});
  }
  View view = canvas.view(kWidth, int(2 * kMargin + kRow * double(artifacts.size()) - (kRow - kBoxHeight)));
  view.set("rows", true);
  return view;
}

std::optional<View> lines_drawing(const std::vector<StepSeries>& series, const char* unit) {
  // Small enough for a phone, where it is shown at three quarters of its size.
  constexpr int kWidth = 420, kHeight = 240, kLeft = 46, kRight = 12, kTop = 12, kBottom = 62, kLegend = 136;
  constexpr int kPlotWidth = kWidth - kLeft - kRight, kPlotHeight = kHeight - kTop - kBottom;
  double most = 0;
  size_t steps = 0;
  for (const StepSeries& s : series) {
    steps = std::max(steps, s.values.size());
    for (const double v : s.values)
      if (std::isfinite(v)) most = std::max(most, v);
  }
  if (steps < 2 || most <= 0) return std::nullopt;
  const double top = round_up(most);

  Canvas canvas;
  for (int tick = 0; tick <= 4; ++tick) {
    const double y = kTop + kPlotHeight * (4 - tick) / 4.0;
    canvas.path("grid", fmt::format("M{} {:.1f}H{}", kLeft, y, kWidth - kRight));
    canvas.label(kLeft - 6, y + 4, "end", fmt::format("{:.4g}", top * tick / 4));
  }
  const auto between = std::max<int64_t>(1, int64_t(round_up(double(steps - 1) / 5)));
  for (int64_t step = 0; step < int64_t(steps); step += between)
    canvas.label(kLeft + double(kPlotWidth) * double(step) / double(steps - 1), kHeight - 44, "middle", std::to_string(step));
  canvas.label(kLeft + kPlotWidth / 2, kHeight - 28, "middle", unit);
  for (size_t s = 0; s < series.size(); ++s) {
    const std::vector<double> values = thinned(series[s].values);
    const std::string looks = fmt::format("line l{}", s % 4);
    std::string d;
    bool pen_down = false;
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i]))
        d += fmt::format("{}{:.1f} {:.1f}", pen_down ? 'L' : 'M',
                         kLeft + kPlotWidth * double(i) / double(std::max<size_t>(values.size() - 1, 1)),
                         kTop + kPlotHeight * (1 - std::clamp(values[i] / top, 0.0, 1.0)));
      pen_down = std::isfinite(values[i]);
    }
    canvas.path(looks, d);
    // The legend is below the plot, not at the ends of the lines, where they often meet.
    const int x = 6 + int(s % 3) * kLegend, y = kHeight - 8 + int(s / 3) * 20;
    canvas.path(looks, fmt::format("M{} {}h14", x, y));
    canvas.label(x + 18, y + 4, "start", fitted(series[s].name, 14));
  }
  return canvas.view(kWidth, kHeight + int(series.size() - 1) / 3 * 20 + 2);
}

std::optional<View> loads_drawing(const std::vector<std::vector<double>>& loads) {
  size_t experts = 0;
  for (const auto& layer : loads) experts = std::max(experts, layer.size());
  if (experts == 0 || experts * loads.size() > kMostCells) return std::nullopt;
  constexpr int kLeft = 76, kTop = 18, kCellHeight = 11;  // kLeft: "layer 100" in the drawing's type
  const int cell = std::clamp(364 / int(experts), 3, 24);
  Canvas canvas;
  canvas.label(kLeft, 11, "start", fmt::format("expert 0 to {}", experts - 1));
  for (size_t l = 0; l < loads.size(); ++l) {
    double sum = 0;
    for (const double v : loads[l]) sum += v;
    const int y = kTop + int(l) * kCellHeight;
    if (l % 5 == 0 || loads.size() <= 8) canvas.label(kLeft - 5, y + 9, "end", fmt::format("layer {}", l));
    for (size_t e = 0; e < loads[l].size(); ++e) {
      const double relative = sum > 0 ? loads[l][e] / (sum / double(loads[l].size())) : 0;
      canvas.cells.push_back(ViewObject{{"x", std::to_string(kLeft + int(e) * cell)},
                                        {"y", std::to_string(y)},
                                        {"width", std::to_string(cell - 1)},
                                        {"height", std::to_string(kCellHeight - 1)},
                                        {"opacity", fmt::format("{:.2f}", std::clamp(relative / 2, 0.0, 1.0))},
                                        {"tip", fmt::format("layer {}, expert {}: {:.2f} of the mean", l, e, relative)}});
    }
  }
  return canvas.view(kLeft + cell * int(experts) + 8, kTop + kCellHeight * int(loads.size()) + 8);
}

}  // namespace overproof
