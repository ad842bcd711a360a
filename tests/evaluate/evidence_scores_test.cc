#include "evaluate/evidence_scores.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>

#include "tests/model/random_model.h"

namespace overproof {

TEST_CASE("window scores equal their definitions") {
  at::NoGradGuard no_grad;
  const ModelConfig c = random_dense_config();
  const Decoder teacher(c, RandomSource(c));
  Decoder model(c, RandomSource(c));
  for (NamedTensor& p : model.parameters()) p.tensor.mul_(0.9);
  const at::Tensor windows = at::arange(0, 3 * 9, at::kLong).view({3, 9}).remainder(97);
  const std::vector<WindowScores> scores = score_windows(&teacher, {&model}, windows, 2);
  REQUIRE(scores.size() == 2);
  for (int64_t w = 0; w < 3; ++w) {
    const at::Tensor tokens = windows.narrow(0, w, 1).narrow(1, 0, 8), labels = windows[w].narrow(0, 1, 8).unsqueeze(1);
    const at::Tensor p = at::log_softmax(teacher.logits(teacher.hidden(tokens)).to(at::kDouble), -1);
    const at::Tensor q = at::log_softmax(model.logits(model.hidden(tokens)).to(at::kDouble), -1);
    CHECK(scores[0].loss[size_t(w)] == Approx(-q.gather(1, labels).mean().item<double>()).epsilon(1e-5));
    CHECK(scores[0].kl[size_t(w)] == Approx((p.exp() * (p - q)).sum(1).mean().item<double>()).epsilon(1e-4));
    CHECK(scores[1].kl[size_t(w)] == Approx(-(p.exp() * p).sum(1).mean().item<double>()).epsilon(1e-5));
    CHECK(predict_tokens(model, tokens)[0][7].item<int64_t>() == q[7].argmax().item<int64_t>());
  }
  const std::vector<int32_t> last = predict_last(model, windows.narrow(1, 0, 8), 2);
  CHECK(int64_t(last[1]) == predict_tokens(model, windows.narrow(0, 1, 1).narrow(1, 0, 8).contiguous())[0][7].item<int64_t>());
}

}  // namespace overproof
