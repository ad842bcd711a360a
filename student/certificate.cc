#include "student/certificate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <fmt/format.h>

#include <cmath>

#include "core/interrupt.h"
#include "core/json.h"

namespace overproof {

bool Certificate::holds() const {
  return std::isfinite(largest_difference) && largest_difference <= kEquivalenceBound * std::max(1.0, largest_logit);
}

Json Certificate::to_json() const {
  std::string claim = as_it_is ? "the student's f32 logits equal the teacher's within the bound"
                               : "with all experts active and a zero gate, the student's f32 logits equal the teacher's within the bound";
  if (dtype != DType::f32)
    claim += fmt::format("; the teacher's weights are rounded to {} as the student's are", dtype_name(dtype));
  return {{"claim", claim},
          {"tokens", tokens},
          {"largest_difference", largest_difference},
          {"largest_logit", largest_logit},
          {"bound", kEquivalenceBound},
          {"within_absolute_bound", largest_difference <= kEquivalenceBound},
          {"holds", holds()}};
}

namespace {

/// Of the logits that the student gives with `options`.
Certificate compare_logits(const Decoder& teacher, const Decoder& student, const at::Tensor& windows, const ForwardOptions& options) {
  constexpr int64_t kRows = 64;  // rows of logits in memory at a time
  Certificate certificate;
  for (int64_t w = 0; w < windows.size(0); ++w) {
    throw_if_interrupted();
    const at::Tensor window = windows.narrow(0, w, 1);
    const at::Tensor theirs = teacher.hidden(window), ours = student.hidden(window, options);
    for (int64_t first = 0; first < theirs.size(0); first += kRows) {
      const int64_t rows = std::min(kRows, theirs.size(0) - first);
      const at::Tensor expected = teacher.logits(theirs.narrow(0, first, rows));
      const at::Tensor difference = student.logits(ours.narrow(0, first, rows)).sub_(expected);
      // max() of a NaN is NaN, and std::fmax would drop it
      const double d = difference.abs().max().item<double>(), m = expected.abs().max().item<double>();
      if (!(d <= certificate.largest_difference)) certificate.largest_difference = d;
      if (!(m <= certificate.largest_logit)) certificate.largest_logit = m;
    }
    certificate.tokens += theirs.size(0);
  }
  return certificate;
}

}  // namespace

Certificate certify_equivalence(const Decoder& teacher, Decoder& student, const at::Tensor& windows) {
  at::NoGradGuard no_grad;
  std::vector<std::pair<at::Tensor, at::Tensor>> kept;
  for (const LayerWeights& layer : student.layers()) {
    kept.emplace_back(layer.router.clone(), layer.router_bias.clone());
    layer.router.zero_();
    layer.router_bias.zero_();
  }
  ForwardOptions all;
  all.top_k = student.config().n_routed_experts;

  const Certificate certificate = compare_logits(teacher, student, windows, all);
  for (size_t l = 0; l < kept.size(); ++l) {
    student.layers()[l].router.copy_(kept[l].first);
    student.layers()[l].router_bias.copy_(kept[l].second);
  }
  return certificate;
}

Certificate certify_same_logits(const Decoder& teacher, const Decoder& student, const at::Tensor& windows) {
  at::NoGradGuard no_grad;
  Certificate certificate = compare_logits(teacher, student, windows, {});
  certificate.as_it_is = true;
  return certificate;
}

}  // namespace overproof
