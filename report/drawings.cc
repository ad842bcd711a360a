// The lineage's layout: layers by the longest path from a source; within a layer, order by barycentres of the neighbours; x by a few
// sweeps towards the neighbours' mean (Sugiyama, Tagawa, Toda 1981, "Methods for visual understanding of hierarchical system
// structures").

#include "report/drawings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/render.h"

namespace overproof {
namespace {

constexpr double kBoxWidth = 148, kBoxHeight = 44, kGapX = 20, kGapY = 38, kMargin = 6, kWire = 10;
constexpr size_t kMostArtifacts = 120, kMostPlaces = 4000, kMostPoints = 400, kMostCells = 65536;

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

/// A box, or the place where a path passes a layer.
struct Place {
  int artifact = -1;
  int layer = 0;
  double x = 0;  ///< of the middle
  std::vector<int> above, below;
  double width() const { return artifact >= 0 ? kBoxWidth : kWire; }
};

struct Connection {
  int child;
  std::string slot;
  std::vector<int> places;  ///< from parent to child
};

class LineageDrawing {
 public:
  explicit LineageDrawing(const std::vector<ReportArtifact>& artifacts) : artifacts_(artifacts) {}

  /// False when it is too large.
  bool arrange() {
    if (artifacts_.empty() || artifacts_.size() > kMostArtifacts) return false;
    for (size_t i = 0; i < artifacts_.size(); ++i) {
      Place place{int(i), 0, 0, {}, {}};
      for (const int parent : artifacts_[i].parents)
        if (parent >= 0 && parent < int(i)) place.layer = std::max(place.layer, places_[size_t(parent)].layer + 1);
      places_.push_back(std::move(place));
    }
    // An artifact without parents is placed as near to its first child as possible: a corpus next to what reads it.
    for (size_t i = artifacts_.size(); i-- > 0;) {
      if (!artifacts_[i].parents.empty()) continue;
      int nearest = -1;
      for (size_t child = i + 1; child < artifacts_.size(); ++child)
        if (std::count(artifacts_[child].parents.begin(), artifacts_[child].parents.end(), int(i)))
          nearest = nearest < 0 ? places_[child].layer : std::min(nearest, places_[child].layer);
      if (nearest > 0) places_[i].layer = nearest - 1;
    }
    for (size_t i = 0; i < artifacts_.size(); ++i)
      for (size_t k = 0; k < artifacts_[i].parents.size(); ++k) {
        if (artifacts_[i].parents[k] < 0 || artifacts_[i].parents[k] >= int(i)) continue;
        connect(artifacts_[i].parents[k], int(i), artifacts_[i].made_from[k].first);
        if (places_.size() > kMostPlaces) return false;
      }
    for (size_t p = 0; p < places_.size(); ++p) {
      layers_.resize(std::max(layers_.size(), size_t(places_[p].layer) + 1));
      layers_[size_t(places_[p].layer)].push_back(int(p));
    }
    order();
    spread();
    return true;
  }

  View view() const {
    Canvas canvas;
    double width = 0;
    for (const Place& p : places_) width = std::max(width, p.x + p.width() / 2);
    const auto top_of = [](const Place& p) { return kMargin + p.layer * (kBoxHeight + kGapY); };
    for (const Connection& c : connections_) {
      std::string d;
      for (size_t i = 0; i < c.places.size(); ++i) {
        const Place& p = places_[size_t(c.places[i])];
        const double top = top_of(p);
        if (i == 0) d += fmt::format("M{:.1f} {:.1f}", p.x, top + kBoxHeight);
        else
          d += fmt::format("C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}", places_[size_t(c.places[i - 1])].x, top - kGapY * 0.4,
                           p.x, top - kGapY * 0.6, p.x, top);
        if (i > 0 && i + 1 < c.places.size()) d += fmt::format("V{:.1f}", top + kBoxHeight);
      }
      const ReportArtifact &parent = artifacts_[size_t(places_[size_t(c.places.front())].artifact)],
                           &child = artifacts_[size_t(c.child)];
      canvas.paths.push_back(ViewObject{{"looks", has_role(child, Role::evaluation) ? "wire faint" : "wire"},
                                        {"d", d},
                                        {"tip", fmt::format("{} is the {} of {}", parent.name, c.slot, child.name)}});
    }
    for (const Place& p : places_) {
      if (p.artifact < 0) continue;
      const ReportArtifact& a = artifacts_[size_t(p.artifact)];
      const double y = top_of(p);
      const bool aside = has_role(a, Role::evaluation) || has_role(a, Role::statistics);
      canvas.boxes.push_back(ViewObject{{"looks", !a.holds   ? "box bad"
                                                  : aside    ? "box aside"
                                                  : a.is_end ? "box end"
                                                             : "box"},
                                        {"tip", a.name + ": " + a.story},
                                        {"x", at(p.x - kBoxWidth / 2)},
                                        {"y", at(y)},
                                        {"width", fmt::format("{:g}", kBoxWidth)},
                                        {"height", fmt::format("{:g}", kBoxHeight)},
                                        {"middle", at(p.x)},
                                        {"upper", at(y + 19)},
                                        {"lower", at(y + 34)},
                                        {"upper_text", fitted(a.name)},
                                        {"lower_text", !a.holds         ? "does not hold"
                                                       : a.kind.empty() ? "other tool"
                                                                        : fitted(a.kind)}});
    }
    return canvas.view(int(width + kMargin), int(2 * kMargin + double(layers_.size()) * (kBoxHeight + kGapY) - kGapY));
  }

 private:
  static bool has_role(const ReportArtifact& a, Role role) { return a.row() && a.row()->role == role; }
  /// At most 20 characters, so that it fits its box.
  static std::string fitted(const std::string& text) {
    const std::string line = shown(text);
    size_t characters = 0;
    for (size_t i = 0; i < line.size(); ++i)
      if ((static_cast<unsigned char>(line[i]) & 0xc0) != 0x80 && ++characters > 20) return line.substr(0, i) + "…";
    return line;
  }

  void connect(int parent, int child, const std::string& slot) {
    Connection connection{child, slot, {parent}};
    const int last = places_[size_t(child)].layer;
    for (int layer = places_[size_t(parent)].layer + 1; layer < last; ++layer) {
      places_.push_back({-1, layer, 0, {}, {}});
      connection.places.push_back(int(places_.size()) - 1);
    }
    connection.places.push_back(child);
    for (size_t i = 1; i < connection.places.size(); ++i) {
      places_[size_t(connection.places[i - 1])].below.push_back(connection.places[i]);
      places_[size_t(connection.places[i])].above.push_back(connection.places[i - 1]);
    }
    connections_.push_back(std::move(connection));
  }

  void order() {
    std::vector<double> rank(places_.size());
    const auto number = [&](const std::vector<int>& layer) {
      for (size_t i = 0; i < layer.size(); ++i) rank[size_t(layer[i])] = (double(i) + 0.5) / double(layer.size());
    };
    for (const auto& layer : layers_) number(layer);
    for (int sweep = 0; sweep < 16; ++sweep) {
      const bool down = sweep % 2 == 0;
      for (size_t k = 0; k < layers_.size(); ++k) {
        std::vector<int>& layer = layers_[down ? k : layers_.size() - 1 - k];
        std::vector<std::pair<double, int>> wanted;
        for (const int p : layer) {
          const std::vector<int>& near = down ? places_[size_t(p)].above : places_[size_t(p)].below;
          double sum = 0;
          for (const int n : near) sum += rank[size_t(n)];
          wanted.emplace_back(near.empty() ? rank[size_t(p)] : sum / double(near.size()), p);
        }
        std::stable_sort(wanted.begin(), wanted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        for (size_t i = 0; i < layer.size(); ++i) layer[i] = wanted[i].second;
        number(layer);
      }
    }
  }

  double apart(int left, int right) const { return (places_[size_t(left)].width() + places_[size_t(right)].width()) / 2 + kGapX; }

  void spread() {
    for (const auto& layer : layers_)
      for (size_t i = 1; i < layer.size(); ++i)
        places_[size_t(layer[i])].x = places_[size_t(layer[i - 1])].x + apart(layer[i - 1], layer[i]);
    for (int sweep = 0; sweep < 40; ++sweep)
      for (size_t k = 0; k < layers_.size(); ++k) {
        const auto& layer = layers_[sweep % 2 == 0 ? k : layers_.size() - 1 - k];
        std::vector<double> wanted, left(layer.size()), right(layer.size());
        for (const int p : layer) {
          double sum = 0;
          const size_t n = places_[size_t(p)].above.size() + places_[size_t(p)].below.size();
          for (const auto* near : {&places_[size_t(p)].above, &places_[size_t(p)].below})
            for (const int q : *near) sum += places_[size_t(q)].x;
          wanted.push_back(n ? sum / double(n) : places_[size_t(p)].x);
        }
        // The mean of pushing all to the right and all to the left keeps the middle in place.
        for (size_t i = 0; i < layer.size(); ++i)
          left[i] = i ? std::max(wanted[i], left[i - 1] + apart(layer[i - 1], layer[i])) : wanted[i];
        for (size_t i = layer.size(); i-- > 0;)
          right[i] = i + 1 < layer.size() ? std::min(wanted[i], right[i + 1] - apart(layer[i], layer[i + 1])) : wanted[i];
        for (size_t i = 0; i < layer.size(); ++i) places_[size_t(layer[i])].x = (left[i] + right[i]) / 2;
      }
    double least = 1e9;
    for (const Place& p : places_) least = std::min(least, p.x - p.width() / 2);
    for (Place& p : places_) p.x += kMargin - least;
  }

  const std::vector<ReportArtifact>& artifacts_;
  std::vector<Place> places_;
  std::vector<Connection> connections_;
  std::vector<std::vector<int>> layers_;
};

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
  LineageDrawing drawing(artifacts);
  if (!drawing.arrange()) return std::nullopt;
  return drawing.view();
}

std::optional<View> lines_drawing(const std::vector<StepSeries>& series) {
  constexpr int kWidth = 640, kHeight = 250, kLeft = 56, kRight = 90, kTop = 14, kBottom = 34;
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
  const auto ticks = std::min<int64_t>(4, int64_t(steps) - 1);  // three steps have no quarters
  for (int64_t tick = 0; tick <= ticks; ++tick) {
    const int64_t step = int64_t(steps - 1) * tick / ticks;
    canvas.label(kLeft + double(kPlotWidth) * double(step) / double(steps - 1), kHeight - 16, "middle", std::to_string(step));
  }
  canvas.label(kLeft + kPlotWidth / 2, kHeight - 3, "middle", "step");
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
    // The legend is next to the plot, not at the ends of the lines, where they often meet.
    const int y = kTop + 10 + int(s) * 18;
    canvas.path(looks, fmt::format("M{} {}h16", kWidth - kRight + 8, y));
    canvas.label(kWidth - kRight + 29, y + 4, "start", series[s].name);
  }
  return canvas.view(kWidth, kHeight);
}

std::optional<View> loads_drawing(const std::vector<std::vector<double>>& loads) {
  size_t experts = 0;
  for (const auto& layer : loads) experts = std::max(experts, layer.size());
  if (experts == 0 || experts * loads.size() > kMostCells) return std::nullopt;
  constexpr int kLeft = 56, kTop = 18, kCellHeight = 11;
  const int cell = std::clamp(560 / int(experts), 3, 36);
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
