// The lineage as a drawing. Layers by the longest way from a source; within a layer, by barycentres of the neighbours; x by a few
// sweeps towards the neighbours' mean (Sugiyama, Tagawa, Toda 1981, "Methods for visual understanding of hierarchical system
// structures").

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "audit/report_page.h"
#include "audit/report_svg.h"

namespace overproof {
namespace {

constexpr double kBoxWidth = 148, kBoxHeight = 44, kGapX = 20, kGapY = 38, kMargin = 6, kWire = 10;
constexpr size_t kMostArtifacts = 120, kMostPlaces = 4000;

/// A box, or the place where an edge passes a layer.
struct Place {
  int artifact = -1;
  int layer = 0;
  double x = 0;  ///< of the middle
  std::vector<int> above, below;
  double width() const { return artifact >= 0 ? kBoxWidth : kWire; }
};

struct Edge {
  int child;
  std::string slot;
  std::vector<int> way;  ///< places from parent to child
};

class Drawing {
 public:
  explicit Drawing(const std::vector<ReportArtifact>& artifacts) : artifacts_(artifacts) {}

  /// False when there is too much of it.
  bool arrange() {
    if (artifacts_.empty() || artifacts_.size() > kMostArtifacts) return false;
    for (size_t i = 0; i < artifacts_.size(); ++i) {
      Place place{int(i), 0, 0, {}, {}};
      for (const int parent : artifacts_[i].parents)
        if (parent >= 0 && parent < int(i)) place.layer = std::max(place.layer, places_[size_t(parent)].layer + 1);
      places_.push_back(std::move(place));
    }
    // What has no parents stands as near to its first child as it can: a corpus beside what reads it.
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

  std::string svg(const SvgLabel& label) const {
    double width = 0;
    for (const Place& p : places_) width = std::max(width, p.x + p.width() / 2);
    std::string out =
        svg_opening(label, int(width + kMargin), int(2 * kMargin + double(layers_.size()) * (kBoxHeight + kGapY) - kGapY));
    for (const Edge& e : edges_) {
      const bool measures = artifacts_[size_t(e.child)].kind == "evaluated";
      out += fmt::format("<path class=\"edge{}\" d=\"", measures ? " faint" : "");
      for (size_t i = 0; i < e.way.size(); ++i) {
        const Place& p = places_[size_t(e.way[i])];
        const double top = kMargin + p.layer * (kBoxHeight + kGapY);
        if (i == 0) out += fmt::format("M{:.1f} {:.1f}", p.x, top + kBoxHeight);
        else
          out += fmt::format("C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}", places_[size_t(e.way[i - 1])].x, top - kGapY * 0.4,
                             p.x, top - kGapY * 0.6, p.x, top);
        if (i > 0 && i + 1 < e.way.size()) out += fmt::format("V{:.1f}", top + kBoxHeight);
      }
      const std::string& parent = artifacts_[size_t(places_[size_t(e.way.front())].artifact)].name;
      out += fmt::format("\"><title>{} is the {} of {}</title></path>\n", escape_html(parent), escape_html(e.slot),
                         escape_html(artifacts_[size_t(e.child)].name));
    }
    for (const Place& p : places_) {
      if (p.artifact < 0) continue;
      const ReportArtifact& a = artifacts_[size_t(p.artifact)];
      const double x = p.x - kBoxWidth / 2, y = kMargin + p.layer * (kBoxHeight + kGapY);
      const char* looks = !a.holds                                        ? "box bad"
                          : a.kind == "evaluated" || a.kind == "observed" ? "box aside"
                          : a.is_end                                      ? "box end"
                                                                          : "box";
      out += fmt::format(
          "<g class=\"{}\"><title>{}</title><rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:g}\" height=\"{:g}\" rx=\"7\"/>", looks,
          escape_html(a.name + ": " + a.story), x, y, kBoxWidth, kBoxHeight);
      out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"name\">{}</text>", p.x, y + 19, escape_html(fitted(a.name)));
      out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"kind\">{}</text></g>\n", p.x, y + 34,
                         a.holds ? escape_html(fitted(a.kind.empty() ? "signed elsewhere" : a.kind)) : "does not hold");
    }
    return out + "</svg>\n";
  }

 private:
  /// At most 20 characters, so that it stays in its box.
  static std::string fitted(const std::string& name) {
    const std::string text = shown(name);
    size_t characters = 0;
    for (size_t i = 0; i < text.size(); ++i)
      if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80 && ++characters > 20) return text.substr(0, i) + "…";
    return text;
  }

  void connect(int parent, int child, const std::string& slot) {
    Edge edge{child, slot, {parent}};
    const int last = places_[size_t(child)].layer;
    for (int layer = places_[size_t(parent)].layer + 1; layer < last; ++layer) {
      places_.push_back({-1, layer, 0, {}, {}});
      edge.way.push_back(int(places_.size()) - 1);
    }
    edge.way.push_back(child);
    for (size_t i = 1; i < edge.way.size(); ++i) {
      places_[size_t(edge.way[i - 1])].below.push_back(edge.way[i]);
      places_[size_t(edge.way[i])].above.push_back(edge.way[i - 1]);
    }
    edges_.push_back(std::move(edge));
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
        // The mean of pushing everybody to the right and to the left keeps the middle where it is wanted.
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
  std::vector<Edge> edges_;
  std::vector<std::vector<int>> layers_;
};

}  // namespace

std::string lineage_svg(const SvgLabel& label, const std::vector<ReportArtifact>& artifacts) {
  Drawing drawing(artifacts);
  return drawing.arrange() ? drawing.svg(label) : "";
}

}  // namespace overproof
