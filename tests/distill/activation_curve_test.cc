#include "distill/activation_curve.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "core/json.h"
#include "core/rng.h"
#include "distill/recorded_choice.h"

using namespace overproof;

namespace {

std::vector<CurvePoint> curve_of(const std::vector<double>& kl) {
  std::vector<CurvePoint> curve;
  for (size_t i = 0; i < kl.size(); ++i) curve.push_back({int64_t(i) + 1, double(i + 1) / double(kl.size()), kl[i]});
  return curve;
}

/// By the distance of points to a line, in the unit square.
std::optional<size_t> knee_by_distance(const std::vector<CurvePoint>& curve) {
  const CurvePoint &first = curve.front(), &last = curve.back();
  std::optional<size_t> knee;
  double most = 1e-9;
  for (size_t i = 0; i < curve.size(); ++i) {
    const double x = (curve[i].activation - first.activation) / (last.activation - first.activation), y = (curve[i].kl - last.kl) / (first.kl - last.kl);
    const double signed_distance = (1 - x - y) / std::sqrt(2.0);
    if (signed_distance > most) most = signed_distance, knee = i;
  }
  return knee;
}

}  // namespace

TEST_CASE("the knee is the point farthest below the line between the ends") {
  CHECK(knee_of(curve_of({4, 1, 0.8, 0.6, 0.5})) == 1);
  CHECK(knee_of(curve_of({4, 3.5, 0.5, 0.25, 0})) == 2);
  CHECK_FALSE(knee_of(curve_of({4, 3, 2, 1, 0})));        // a straight line
  CHECK_FALSE(knee_of(curve_of({4, 3.9, 3.8, 3.7, 0})));  // above it
  CHECK_FALSE(knee_of(curve_of({0, 1, 2})));              // it does not fall
  CHECK_FALSE(knee_of(curve_of({1, 1, 1})));
  CHECK_FALSE(knee_of(curve_of({3, 1})));
  CHECK_FALSE(knee_of({}));
  CHECK_FALSE(knee_of(curve_of({std::numeric_limits<double>::quiet_NaN(), 1, 0})));
  Rng rng(1, "test/knee");
  for (int round = 0; round < 200; ++round) {
    std::vector<double> kl;
    double value = 5;
    for (int i = 0; i < 12; ++i) kl.push_back(value), value *= 0.4 + 0.6 * rng.uniform();
    const auto curve = curve_of(kl);
    CHECK(knee_of(curve) == knee_by_distance(curve));
    // Neither the units of KL nor those of activation move it.
    auto scaled = curve;
    for (CurvePoint& p : scaled) p.kl = 3 + 100 * p.kl, p.activation /= 7;
    CHECK(knee_of(scaled) == knee_of(curve));
  }
}

TEST_CASE("the points of a curve are all numbers of experts, or a few of many with both ends and the chosen one") {
  CHECK((curve_steps(4, 2) == std::vector<int64_t>{1, 2, 3, 4}));
  CHECK(curve_steps(1, 1) == std::vector<int64_t>{1});
  const auto some = curve_steps(128, 7, 10);
  CHECK(some.size() <= 11);
  CHECK(some.front() == 1);
  CHECK(some.back() == 128);
  CHECK(std::ranges::find(some, 7) != some.end());
  CHECK(std::ranges::is_sorted(some));
}

TEST_CASE("the drawing has the knee and the chosen number, and nothing from outside") {
  const auto curve = curve_of({4, 1, 0.8, 0.6, 0.5});
  const std::string svg = curve_svg(curve, 4);
  CHECK(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(svg.find("knee: top-k 2") != std::string::npos);
  CHECK(svg.find("chosen: top-k 4") != std::string::npos);
  CHECK(svg.find("href") == std::string::npos);
  CHECK(svg.find("script") == std::string::npos);
  CHECK(curve_svg(curve, 2).find("knee, chosen: top-k 2") != std::string::npos);
  CHECK(curve_svg({{1, 1.0, 0.0}}, 1).find("nan") == std::string::npos);
  const Json json = curve_json(curve, 4);
  CHECK(json["knee"] == 2);
  CHECK(json["points"].size() == 5);
  CHECK(curve_json(curve_of({3, 1}), 1)["knee"].is_null());
}

TEST_CASE("an auditor repeats a choice that was measured, and no other") {
  const auto top_k = [](Json options, const Json& metrics) {
    use_recorded_choice(options, metrics);
    return options.value("top-k", Json());
  };
  CHECK(top_k({{"target-speed", 10.0}, {"top-k", 0}}, {{"top_k", 3}}) == 3);
  CHECK(top_k({{"target-kl", 0.1}}, {{"top_k", 3}}) == 3);
  CHECK(top_k({{"target-speed", 10.0}, {"top-k", 2}}, {{"top_k", 3}}) == 2);
  CHECK(top_k({{"target-activation", 0.5}, {"top-k", 0}}, {{"top_k", 3}}) == 0);
  CHECK(top_k({{"target-kl", "x"}}, {{"top_k", 3}}).is_null());
}
