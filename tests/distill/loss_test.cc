#include "distill/losses/losses.h"
#include "model/ops/head_loss.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "core/error.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/loss/loss.safetensors";

at::Tensor f32(const SafetensorsFile& file, const std::string& name) {
  const auto values = file.values<float>(name);
  return at::from_blob(const_cast<float*>(values.data()), file.info(name).shape, at::kFloat).clone();
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace

TEST_CASE("losses and gradients are PyTorch autograd's") {
  const SafetensorsFile golden(kGolden);
  const at::Tensor hidden = f32(golden, "hidden"), head = f32(golden, "head");
  const at::Tensor teacher_hidden = f32(golden, "teacher_hidden"), teacher_head = f32(golden, "teacher_head");
  const auto labels = golden.values<int64_t>("labels");
  const auto cases = golden.values<double>("cases");
  const bool weighted = GENERATE(false, true);
  const RowLabels rows{labels, weighted ? golden.values<float>("weight") : std::span<const float>()};
  double weight = 0;
  for (const float w : rows.weight) weight += double(w);
  for (const std::string kind : {"sample", "topk", "dense"})
    for (size_t c = 0; c < cases.size() / 2; ++c) {
      const std::string name = fmt::format("{}{}.{}", weighted ? "weighted." : "", kind, c);
      INFO(name);
      LossOptions options;
      options.temperature = cases[2 * c];
      options.terms = {{&kForwardKl, 1 - cases[2 * c + 1]}, {&kCrossEntropy, cases[2 * c + 1]}};
      at::Tensor d_hidden, d_head = at::zeros_like(head);
      LossSums sums;
      if (kind == "dense") {
        sums = dense_loss(hidden, head, teacher_hidden, teacher_head, rows, options, &d_hidden, &d_head);
      } else {
        const SparseTargets targets{golden.values<int64_t>(kind + ".offsets"), golden.values<int32_t>(kind + ".ids"),
                                    golden.values<float>(kind + ".probabilities"), golden.values<float>(kind + ".tail")};
        sums = sparse_loss(hidden, head, targets, rows, options, &d_hidden, &d_head);
      }
      const auto expected = golden.values<double>(name + ".sums");
      CHECK(sums.values[0] == Approx(expected[0]).epsilon(2e-6));
      CHECK(sums.values[1] == Approx(expected[1]).epsilon(2e-6));
      CHECK(sums.total(options.terms) == Approx(expected[2]).epsilon(2e-6));
      CHECK(sums.weight == Approx(weighted ? weight : double(hidden.size(0))).epsilon(1e-12));
      CHECK(largest_difference(d_hidden, f32(golden, name + ".d_hidden")) < 2e-5);
      CHECK(largest_difference(d_head, f32(golden, name + ".d_head")) < 2e-5);
    }
}

TEST_CASE("values without gradients are the same, and the gradient's scale is the caller's") {
  const SafetensorsFile golden(kGolden);
  const at::Tensor hidden = f32(golden, "hidden"), head = f32(golden, "head");
  const SparseTargets targets{golden.values<int64_t>("topk.offsets"), golden.values<int32_t>("topk.ids"),
                              golden.values<float>("topk.probabilities"), golden.values<float>("topk.tail")};
  LossOptions options;
  at::Tensor whole, half;
  const LossSums with = sparse_loss(hidden, head, targets, {}, options, &whole, nullptr);
  options.grad_scale = 0.5;
  sparse_loss(hidden, head, targets, {}, options, &half, nullptr);
  CHECK(at::equal(whole * 0.5, half));
  options.gradient = false;
  const LossSums without = sparse_loss(hidden, head, targets, {}, options, nullptr, nullptr);
  CHECK(with.values == without.values);
}

TEST_CASE("rows come in chunks without changing the loss") {
  const int64_t vocab = 4096, rows = 3 * ops::logits_chunk_rows(vocab) + 7;
  const at::Tensor steps = at::arange(rows * 8, at::kFloat).view({rows, 8});
  const at::Tensor hidden = at::sin(steps * 0.37), teacher = at::sin(steps * 0.11);
  const at::Tensor head = at::cos(at::arange(vocab * 8, at::kFloat) * 0.73).view({vocab, 8});
  at::Tensor d_hidden;
  const LossSums sums = dense_loss(hidden, head, teacher, head, {}, {}, &d_hidden, nullptr);
  const at::Tensor log_q = at::log_softmax(at::mm(hidden, head.t()).to(at::kDouble), 1);
  const at::Tensor log_p = at::log_softmax(at::mm(teacher, head.t()).to(at::kDouble), 1);
  CHECK(sums.values[0] == Approx((log_p.exp() * (log_p - log_q)).sum().item<double>()).epsilon(1e-5));
  const at::Tensor expected = at::mm(log_q.exp() - log_p.exp(), head.to(at::kDouble));
  CHECK((d_hidden - expected).abs().max().item<double>() < 1e-5);
}

TEST_CASE("the memory of a chunk does not grow with the vocabulary") {
  for (const int64_t vocab : {1000, 49152, 151936, 262144}) CHECK(ops::logits_chunk_rows(vocab) * vocab <= int64_t{4} << 20);
}

TEST_CASE("losses are named with their weights") {
  const LossTerms terms = parse_losses({{"cross-entropy", "0.25"}, {"forward-kl", "1e-1"}});
  REQUIRE(terms.size() == 2);
  CHECK(terms[0].loss == &kForwardKl);
  CHECK(terms[0].weight == 0.1);
  CHECK(terms[1].loss == &kCrossEntropy);
  CHECK(terms[1].weight == 0.25);
  CHECK(parse_losses({{"cross-entropy", "1"}}).size() == 1);
  CHECK_THROWS_WITH(parse_losses({{"forward-lk", "1"}}), Catch::Contains("did you mean 'forward-kl'"));
  for (const char* weight : {"", "x", "1x", "-1", "nan", "inf", "1e9", " 1"})
    CHECK_THROWS_AS(parse_losses({{"forward-kl", weight}}), UsageError);
  CHECK_THROWS_AS(parse_losses({{"forward-kl", "0"}}), UsageError);
  CHECK_THROWS_AS(parse_losses({}), UsageError);
}

}  // namespace overproof
