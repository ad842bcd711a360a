#include "distill/activation_curve.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "distill/calibration.h"
#include "distill/training.h"

namespace overproof {

RoutingMeasure measure_routing(const Decoder& student, const TeacherSignal& teacher, const BatchSource& windows) {
  at::NoGradGuard no_grad;
  RoutingMeasure result;
  const ModelConfig& shape = student.config();
  result.load = at::zeros({shape.layers, shape.n_routed_experts}, at::kDouble);
  LossOptions value_only;
  value_only.gradient = false;
  LossSums sums;
  for (int64_t w = 0; w < windows.steps(); ++w) {
    throw_if_interrupted();
    std::vector<RouterRecord> routing;
    ForwardOptions options;
    options.routing = &routing;
    options.record_selected = true;
    const TokenBatch window = windows.at(w);
    options.segments = input_segments(window, 0, 1);
    const at::Tensor hidden = student.hidden(input_ids(window, 0, 1), options);
    sums += batch_loss(window, teacher, 0, 1, hidden, student.head(), value_only, nullptr, nullptr);
    for (size_t l = 0; l < routing.size(); ++l) {
      result.load[int64_t(l)].add_(routing[l].load);
      result.selected.push_back(routing[l].selected);
    }
  }
  result.load.div_(result.load.sum(1, true).clamp_min(1));
  if (sums.weight == 0) throw MismatchError("the corpus masks every token of the held-out windows, so there is nothing to measure");
  result.kl = sums.values.at(0) / sums.weight;
  return result;
}

double mean_overlap(const RoutingMeasure& a, const RoutingMeasure& b) {
  double sum = 0;
  for (size_t i = 0; i < a.selected.size(); ++i) sum += routing_overlap(a.selected[i], b.selected[i]);
  return sum / double(std::max<size_t>(1, a.selected.size()));
}

std::vector<int64_t> curve_steps(int64_t experts, int64_t chosen, int64_t most_points) {
  std::set<int64_t> steps = {1, chosen, experts};
  const int64_t count = std::min(experts, most_points);
  for (int64_t i = 0; i < count; ++i) steps.insert(1 + (count > 1 ? i * (experts - 1) / (count - 1) : 0));
  return {steps.begin(), steps.end()};
}

std::vector<CurvePoint> activation_curve(Decoder& student, const TeacherSignal& teacher, const BatchSource& windows, const std::vector<int64_t>& steps,
                                         const std::function<void(int64_t)>& step) {
  const int64_t before = student.config().top_k;
  std::vector<CurvePoint> curve;
  for (const int64_t k : steps) {
    student.set_active_experts(k);
    curve.push_back({k, student.config().ffn_activation(), measure_routing(student, teacher, windows).kl});
    if (step) step(int64_t(curve.size()));
  }
  student.set_active_experts(before);
  return curve;
}

std::optional<size_t> knee_of(const std::vector<CurvePoint>& curve) {
  if (curve.size() < 3) return std::nullopt;
  const CurvePoint &first = curve.front(), &last = curve.back();
  const double width = last.activation - first.activation, height = first.kl - last.kl;
  if (!(width > 0) || !(height > 0)) return std::nullopt;
  std::optional<size_t> knee;
  double most = 1e-12;  // on the line but for rounding
  for (size_t i = 1; i + 1 < curve.size(); ++i) {
    // In the unit square the line is y = 1 - x; distances to it are in proportion to how far a point is below it.
    const double below = 1 - (curve[i].activation - first.activation) / width - (curve[i].kl - last.kl) / height;
    if (below > most) most = below, knee = i;
  }
  return knee;
}

Json curve_json(const std::vector<CurvePoint>& curve, int64_t chosen) {
  Json points = Json::array();
  for (const CurvePoint& p : curve) points.push_back({{"top_k", p.top_k}, {"activation", p.activation}, {"kl", p.kl}});
  const auto knee = knee_of(curve);
  return {{"points", std::move(points)},
          {"knee", knee ? Json(curve[*knee].top_k) : Json(nullptr)},
          {"chosen", chosen},
          {"rule", "knee: farthest below the line from the first to the last point, activation and KL scaled to [0, 1]"}};
}

std::string curve_svg(const std::vector<CurvePoint>& curve, int64_t chosen) {
  constexpr double kWidth = 640, kHeight = 400, kLeft = 70, kRight = 20, kTop = 40, kBottom = 60;
  double least = 0, most = 0;
  for (const CurvePoint& p : curve)
    if (std::isfinite(p.kl)) least = std::min(least, p.kl), most = std::max(most, p.kl);
  if (!(most > least)) most = least + 1;
  const auto x = [&](double activation) { return kLeft + activation * (kWidth - kLeft - kRight); };
  const auto y = [&](double kl) { return kTop + (most - kl) / (most - least) * (kHeight - kTop - kBottom); };
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<title>Held-out KL to the teacher by activation of the FFN neurons</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      kWidth, kHeight);
  for (int i = 0; i <= 4; ++i) {
    const double share = i / 4.0, kl = least + share * (most - least);
    svg += fmt::format("<line x1=\"{0:.1f}\" y1=\"{2:.1f}\" x2=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/><text x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.3g}</text>\n",
                       kLeft, kWidth - kRight, y(kl), kLeft - 6, y(kl) + 4, kl);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.0f} %</text>\n", x(share), kHeight - kBottom + 18, 100 * share);
  }
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">FFN neurons that a token uses</text>\n"
                     "<text x=\"{:.1f}\" y=\"22\">KL to the teacher, nats a token</text>\n",
                     (kLeft + kWidth - kRight) / 2, kHeight - 16, kLeft - 50);
  std::string line;
  for (const CurvePoint& p : curve)
    if (std::isfinite(p.kl)) line += fmt::format("{}{:.1f},{:.1f}", line.empty() ? "" : " ", x(p.activation), y(p.kl));
  svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"#1f4e9c\" stroke-width=\"2\"/>\n", line);
  const auto knee = knee_of(curve);
  for (size_t i = 0; i < curve.size(); ++i) {
    const CurvePoint& p = curve[i];
    if (!std::isfinite(p.kl)) continue;
    const bool is_knee = knee == i, is_chosen = p.top_k == chosen;
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\" stroke=\"#1f4e9c\"><title>top-k {}: {:.1f} % active, KL {:.4f}</title></circle>\n",
                       x(p.activation), y(p.kl), is_knee || is_chosen ? 6 : 3, is_knee ? "#c0392b" : is_chosen ? "#fff" : "#1f4e9c", p.top_k, 100 * p.activation, p.kl);
    if (is_knee || is_chosen)
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{}: top-k {}</text>\n", std::min(x(p.activation) + 8, kWidth - 130), y(p.kl) - (is_knee ? 10 : 24),
                         is_knee && is_chosen ? "knee, chosen" : is_knee ? "knee" : "chosen", p.top_k);
  }
  return svg + "</svg>\n";
}

}  // namespace overproof
