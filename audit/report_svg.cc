#include "audit/report_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "audit/report_page.h"

namespace overproof {
namespace {

constexpr size_t kMostPoints = 400;

/// Equal parts replaced by their means, so that a curve of a million steps is a curve of a page.
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

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : shown(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string svg_opening(const SvgLabel& label, int width, int height) {
  const std::string id = escape_html(label.id);
  return fmt::format(
      "<svg id=\"{0}\" viewBox=\"0 0 {1} {2}\" width=\"{1}\" height=\"{2}\" role=\"img\" aria-labelledby=\"{0}-title {0}-desc\">"
      "<title id=\"{0}-title\">{3}</title><desc id=\"{0}-desc\">{4}</desc>\n",
      id, width, height, escape_html(label.title), escape_html(label.description));
}

std::string lines_svg(const SvgLabel& label, const std::vector<ReportSeries>& series) {
  constexpr int kWidth = 640, kHeight = 250, kLeft = 56, kRight = 90, kTop = 14, kBottom = 34;
  double most = 0;
  size_t steps = 0;
  for (const ReportSeries& s : series) {
    steps = std::max(steps, s.values.size());
    for (const double v : s.values)
      if (std::isfinite(v)) most = std::max(most, v);
  }
  if (steps < 2 || most <= 0) return {};
  const double top = round_up(most);
  const int plot_width = kWidth - kLeft - kRight, plot_height = kHeight - kTop - kBottom;

  std::string svg = svg_opening(label, kWidth, kHeight);
  for (int tick = 0; tick <= 4; ++tick) {
    const double y = kTop + plot_height * (4 - tick) / 4.0;
    svg += fmt::format(
        "<path class=\"grid\" d=\"M{} {:.1f}H{}\"/><text class=\"tick\" text-anchor=\"end\" x=\"{}\" "
        "y=\"{:.1f}\">{:.4g}</text>\n",
        kLeft, y, kWidth - kRight, kLeft - 6, y + 4, top * tick / 4);
  }
  const auto ticks = std::min<int64_t>(4, int64_t(steps) - 1);  // of three steps there are no quarters
  for (int64_t tick = 0; tick <= ticks; ++tick) {
    const int64_t step = int64_t(steps - 1) * tick / ticks;
    const double x = kLeft + double(plot_width) * double(step) / double(steps - 1);
    svg += fmt::format("<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{}\">{}</text>\n", x, kHeight - 16, step);
  }
  svg += fmt::format("<text class=\"tick\" text-anchor=\"middle\" x=\"{}\" y=\"{}\">step</text>\n", kLeft + plot_width / 2,
                     kHeight - 3);
  for (size_t s = 0; s < series.size(); ++s) {
    const std::vector<double> values = thinned(series[s].values);
    std::string path;
    bool pen_down = false;
    for (size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) {
        pen_down = false;
        continue;
      }
      const double x = kLeft + plot_width * double(i) / double(std::max<size_t>(values.size() - 1, 1));
      const double y = kTop + plot_height * (1 - std::clamp(values[i] / top, 0.0, 1.0));
      path += fmt::format("{}{:.1f} {:.1f}", pen_down ? 'L' : 'M', x, y);
      pen_down = true;
    }
    svg += fmt::format("<path class=\"line l{}\" d=\"{}\"/>\n", s % 4, path);
    // The legend stands beside the plot: line ends of two losses often meet.
    const int y = kTop + 10 + int(s) * 18;
    svg += fmt::format("<path class=\"line l{}\" d=\"M{} {}h16\"/><text class=\"tick\" x=\"{}\" y=\"{}\">{}</text>\n", s % 4,
                       kWidth - kRight + 8, y, kWidth - kRight + 29, y + 4, escape_html(series[s].name));
  }
  return svg + "</svg>\n";
}

std::string loads_svg(const SvgLabel& label, const std::vector<std::vector<double>>& loads) {
  size_t experts = 0;
  for (const auto& layer : loads) experts = std::max(experts, layer.size());
  if (experts == 0 || experts * loads.size() > 65536) return {};
  constexpr int kLeft = 56, kTop = 18, kCellHeight = 11;
  const int cell = std::clamp(560 / int(experts), 3, 36);
  std::string svg = svg_opening(label, kLeft + cell * int(experts) + 8, kTop + kCellHeight * int(loads.size()) + 8);
  svg += fmt::format("<text class=\"tick\" x=\"{}\" y=\"11\">expert 0 to {}</text>\n", kLeft, experts - 1);
  for (size_t l = 0; l < loads.size(); ++l) {
    double sum = 0;
    for (const double v : loads[l]) sum += v;
    const double mean = loads[l].empty() ? 0 : sum / double(loads[l].size());
    const int y = kTop + int(l) * kCellHeight;
    if (l % 5 == 0 || loads.size() <= 8)
      svg += fmt::format("<text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{}\">layer {}</text>\n", kLeft - 5, y + 9, l);
    for (size_t e = 0; e < loads[l].size(); ++e) {
      const double relative = mean > 0 ? loads[l][e] / mean : 0;
      svg += fmt::format(
          "<rect class=\"load\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill-opacity=\"{:.2f}\">"
          "<title>layer {}, expert {}: {:.2f} of the mean</title></rect>\n",
          kLeft + int(e) * cell, y, cell - 1, kCellHeight - 1, std::clamp(relative / 2, 0.0, 1.0), l, e, relative);
    }
  }
  return svg + "</svg>\n";
}

}  // namespace overproof
