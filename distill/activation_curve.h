#pragma once
// How far a mixture of experts is from its teacher for each number of experts that a token uses: the curve of activation against KL, its knee, and its drawing.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/json_fwd.h"
#include "data/token_batch.h"
#include "model/decoder.h"
#include "teacher/signal.h"

namespace overproof {

/// What the routers of a model do on windows, and how far its distribution is from the teacher's.
struct RoutingMeasure {
  double kl = 0;                     ///< nats a token
  std::vector<at::Tensor> selected;  ///< per window and layer, I32 [tokens, k]
  at::Tensor load;                   ///< F64 [layers, experts]: share of the tokens of a layer's experts
};
/// Throws MismatchError when the corpus masks every token of the windows.
RoutingMeasure measure_routing(const Decoder& student, const TeacherSignal& teacher, const BatchSource& windows);
/// Mean over windows and layers of routing_overlap() (calibration.h).
double mean_overlap(const RoutingMeasure& a, const RoutingMeasure& b);

struct CurvePoint {
  int64_t top_k = 0;
  double activation = 0;  ///< fraction of the FFN neurons that a token uses
  double kl = 0;          ///< nats a token
};

/// The numbers of experts that a curve has: all up to `most_points`; beyond it the first, the last, `chosen`, and others spread evenly.
std::vector<int64_t> curve_steps(int64_t experts, int64_t chosen, int64_t most_points = 24);
/// Measures `student` with each number of experts, and leaves it with the one that it had. step(done) is called after each.
std::vector<CurvePoint> activation_curve(Decoder& student, const TeacherSignal& teacher, const BatchSource& windows, const std::vector<int64_t>& steps,
                                         const std::function<void(int64_t done)>& step = {});

/// The point that is farthest below the straight line from the first to the last point, with activation and KL each scaled to [0, 1] over the curve (as
/// Satopaa et al. 2011, "Finding a kneedle in a haystack"); the first of equal ones. Nothing for fewer than three points, a curve that does not fall from its
/// first to its last point, or one without a point below the line.
std::optional<size_t> knee_of(const std::vector<CurvePoint>& curve);

/// {"points": [{"top_k", "activation", "kl"}], "knee": top_k or null, "chosen": top_k, "rule": ...}
Json curve_json(const std::vector<CurvePoint>& curve, int64_t chosen);
/// One drawing without anything from outside: the curve, its knee and the chosen number marked.
std::string curve_svg(const std::vector<CurvePoint>& curve, int64_t chosen);

}  // namespace overproof
