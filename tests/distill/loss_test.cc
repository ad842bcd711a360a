#include "distill/losses/losses.h"
#include "distill/rewards.h"
#include "model/ops/head_loss.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "core/error.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/loss/loss.safetensors",
               kDivergences = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/loss/divergences.safetensors",
             kDrawn = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/loss/drawn.safetensors";

at::Tensor f32(const SafetensorsFile& file, const std::string& name) {
  const auto values = file.values<float>(name);
  return at::from_blob(const_cast<float*>(values.data()), file.info(name).shape, at::kFloat).clone();
}

template <class T>
std::vector<T> list(std::span<const T> values) {
  return {values.begin(), values.end()};
}

/// The rows "sample" or "topk" of the golden file.
Targets sparse_targets(const SafetensorsFile& golden, const std::string& kind) {
  return {kind == "topk" ? TargetKind::top_k : TargetKind::sampled,
          {list(golden.values<int64_t>(kind + ".offsets")), list(golden.values<int32_t>(kind + ".ids")),
           list(golden.values<float>(kind + ".probabilities")), list(golden.values<float>(kind + ".tail"))},
          {}};
}

struct Computed {
  LossSums sums;
  at::Tensor d_hidden, d_head;
};

Computed compute(const at::Tensor& hidden, const at::Tensor& head, const Targets& targets, const LossOptions& options,
                 const RowLabels& rows = {}, int64_t first_target = 0) {
  Computed out;
  out.d_head = at::zeros_like(head);
  out.sums = chunked_loss(hidden, head, targets, first_target, rows, options, &out.d_hidden, &out.d_head);
  return out;
}

LossOptions only(const Loss& loss, double temperature = 1.0) {
  LossOptions options;
  options.terms = {{&loss, 1.0}};
  options.temperature = temperature;
  return options;
}

bool takes(const Loss& loss, TargetKind kind) { return std::ranges::find(loss.takes, kind) != loss.takes.end(); }

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
      const Targets targets = kind == "dense" ? Targets{.states = {{teacher_hidden, teacher_head}}} : sparse_targets(golden, kind);
      const auto [sums, d_hidden, d_head] = compute(hidden, head, targets, options, rows);
      const auto expected = golden.values<double>(name + ".sums");
      CHECK(sums.values[0] == Approx(expected[0]).epsilon(2e-6));
      CHECK(sums.values[1] == Approx(expected[1]).epsilon(2e-6));
      CHECK(sums.total(options.terms) == Approx(expected[2]).epsilon(2e-6));
      CHECK(sums.weight == Approx(weighted ? weight : double(hidden.size(0))).epsilon(1e-12));
      CHECK(largest_difference(d_hidden, f32(golden, name + ".d_hidden")) < 2e-5);
      CHECK(largest_difference(d_head, f32(golden, name + ".d_head")) < 2e-5);
    }
}

TEST_CASE("divergences from one teacher, mixtures and top-k rows are PyTorch autograd's") {
  const SafetensorsFile golden(kGolden), more(kDivergences);
  const at::Tensor hidden = f32(golden, "hidden"), head = f32(golden, "head");
  const DenseStates first{f32(golden, "teacher_hidden"), f32(golden, "teacher_head")};
  const DenseStates second{f32(more, "other_hidden"), f32(more, "other_head"), 0.3};
  const RowLabels rows{{}, golden.values<float>("weight")};
  struct Case {
    const Loss* loss;
    double parameter, temperature;
  };
  const Case cases[] = {{&kForwardKl, 0, 1},       {&kReverseKl, 0, 1},         {&kReverseKl, 0, 2},
                        {&kJensenShannon, 0.5, 1}, {&kJensenShannon, 0.1, 2},   {&kJensenShannon, 0.9, 1},
                        {&kTotalVariation, 0, 1},  {&kTotalVariation, 0, 2},    {&kSkewedKl, 0.1, 1},
                        {&kSkewedKl, 0.6, 2},      {&kSkewedReverseKl, 0.1, 1}, {&kSkewedReverseKl, 0.6, 2},
                        {&kEntropyGated, 1, 1},    {&kEntropyGated, 2, 2},      {&kTopKKl, 3, 1},
                        {&kTopKKl, 20, 2},         {&kUniversal, 0, 1},         {&kUniversal, 0, 2}};
  size_t number = 0;
  for (const Case& one : cases) {
    LossOptions options;
    options.terms = {{one.loss, 1.0, one.parameter}};
    options.temperature = one.temperature;
    for (const std::string kind : {"dense", "mixed", "topk", "with-sample"}) {
      if (kind == "with-sample" && one.loss != &kForwardKl) continue;
      if (kind == "topk" && !takes(*one.loss, TargetKind::top_k)) continue;
      const std::string name = fmt::format("{}.{}", kind, number);
      INFO(one.loss->name << " " << name);
      Targets targets{.states = {first}};
      if (kind != "dense") targets.states[0].weight = 0.7;
      if (kind == "mixed") targets.states.push_back(second);
      if (kind == "topk") targets = sparse_targets(golden, "topk");
      if (kind == "with-sample") {
        targets.sparse = sparse_targets(golden, "sample").sparse;
        for (float& p : targets.sparse.probabilities) p *= 0.3f;
        targets.kind = TargetKind::sampled;
      }
      const auto [sums, d_hidden, d_head] = compute(hidden, head, targets, options, rows);
      CHECK(sums.values[0] == Approx(more.values<double>(name + ".value")[0]).epsilon(3e-6));
      CHECK(largest_difference(d_hidden, f32(more, name + ".d_hidden")) < 2e-5);
      CHECK(largest_difference(d_head, f32(more, name + ".d_head")) < 2e-5);
    }
    ++number;
  }
}

TEST_CASE("losses of what the student drew are PyTorch autograd's, and nothing where it drew nothing") {
  const SafetensorsFile golden(kGolden), drawn(kDrawn);
  const at::Tensor hidden = f32(golden, "hidden"), head = f32(golden, "head");
  const Targets teacher{.states = {{f32(golden, "teacher_hidden"), f32(golden, "teacher_head")}}};
  const std::pair<const Loss*, double> cases[] = {{&kSampledReverseKl, 0}, {&kSampledReverseKl, 1e-4}, {&kSampledReverseKl, 0.05}, {&kReward, 0}, {&kUnlikelihood, 4}};
  for (size_t number = 0; number < std::size(cases); ++number) {
    const auto [loss, parameter] = cases[number];
    INFO(loss->name << " " << parameter);
    LossOptions options;
    options.terms = {{loss, 1.0, parameter}};
    RowLabels rows{golden.values<int64_t>("labels"), golden.values<float>("weight"), drawn.values<float>("advantage"), drawn.values<float>("repeated")};
    const auto [sums, d_hidden, d_head] = compute(hidden, head, teacher, options, rows);
    CHECK(sums.values[0] == Approx(drawn.values<double>(fmt::format("{}.value", number))[0]).epsilon(3e-6));
    CHECK(largest_difference(d_hidden, f32(drawn, fmt::format("{}.d_hidden", number))) < 2e-5);
    CHECK(largest_difference(d_head, f32(drawn, fmt::format("{}.d_head", number))) < 2e-5);
    // Next to another loss both are added; without draws only the other is there.
    options.terms = {{&kForwardKl, 0.5}, {loss, 2.0, parameter}};
    const Computed both = compute(hidden, head, teacher, options, rows), kl = compute(hidden, head, teacher, only(kForwardKl), rows);
    CHECK(largest_difference(both.d_hidden, 0.5 * kl.d_hidden + 2 * d_hidden) < 2e-5);
    rows.advantage = rows.repeated = {};
    const Computed without = compute(hidden, head, teacher, options, rows);
    CHECK(without.sums.values[1] == 0);
    CHECK(largest_difference(without.d_hidden, 0.5 * kl.d_hidden) < 1e-6);
  }
}

TEST_CASE("sampled reverse KL has the value and gradient of reverse KL on average over the student's draws") {
  at::manual_seed(9);
  const at::Tensor hidden = at::randn({1, 12}), head = at::randn({9, 12}), teacher = at::randn({1, 12});
  const at::Tensor q = at::softmax(at::mm(hidden, head.t()), 1);
  const Targets targets{.states = {{teacher, head}}};
  LossOptions options;
  options.terms = {{&kSampledReverseKl, 1.0, 0.0}};
  at::Tensor mean_hidden = at::zeros_like(hidden), mean_head = at::zeros_like(head);
  double mean = 0;
  const std::vector<float> advantage = {0};
  for (int64_t id = 0; id < 9; ++id) {
    const std::vector<int64_t> label = {id};
    const Computed one = compute(hidden, head, targets, options, {label, {}, advantage});
    const double chance = q[0][id].item<double>();
    mean += chance * one.sums.values[0];
    mean_hidden.add_(one.d_hidden, chance);
    mean_head.add_(one.d_head, chance);
  }
  const Computed whole = compute(hidden, head, targets, only(kReverseKl));
  CHECK(mean == Approx(whole.sums.values[0]).epsilon(1e-5));
  CHECK(largest_difference(mean_hidden, whole.d_hidden) < 1e-5);
  CHECK(largest_difference(mean_head, whole.d_head) < 1e-5);
}

TEST_CASE("advantages are those of PyTorch's layer norm over each group, and zero where all have one reward") {
  const SafetensorsFile drawn(kDrawn);
  const auto expected = drawn.values<float>("advantages");
  const std::vector<float> found = group_advantages(drawn.values<float>("rewards"), 4);
  REQUIRE(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) CHECK(found[i] == Approx(expected[i]).margin(1e-6));
  CHECK(found[4] == 0);
  CHECK(reward_of(TaskVerdict::correct) == 1);
  CHECK(reward_of(TaskVerdict::unknown) == 0);
}

TEST_CASE("a divergence is zero with no gradient where the student is the teacher, and never below zero") {
  at::manual_seed(5);
  const at::Tensor hidden = at::randn({40, 12}), head = at::randn({61, 12});
  const at::Tensor log_q = at::log_softmax(at::mm(hidden, head.t()), 1), q = log_q.exp();
  const auto [top, top_ids] = q.topk(7);
  for (const Loss* loss : all_losses()) {
    if (!loss->of_targets()) continue;
    INFO(loss->name);
    Targets rows{.kind = TargetKind::top_k};
    for (int64_t r = 0; r < 40; ++r) {
      std::vector<std::pair<int32_t, float>> entries;
      for (int64_t i = 0; i < 7; ++i)
        entries.emplace_back(int32_t(top_ids[r][i].item<int64_t>()), top[r][i].item<float>());
      std::sort(entries.begin(), entries.end());
      double sum = 0;
      for (const auto& [id, p] : entries) rows.sparse.ids.push_back(id), rows.sparse.probabilities.push_back(p), sum += double(p);
      rows.sparse.offsets.push_back(int64_t(rows.sparse.ids.size()));
      rows.sparse.tail.push_back(float(1 - sum));
    }
    const Targets same{.states = {{hidden, head}}}, mixed{.states = {{hidden, head, 0.25}, {hidden, head, 0.75}}};
    for (const Targets* targets : {&same, &mixed, static_cast<const Targets*>(&rows)}) {
      if (!takes(*loss, targets->kind)) continue;
      const Computed equal = compute(hidden, head, *targets, only(*loss));
      CHECK(std::abs(equal.sums.values[0]) < 2e-5);
      // Sums of differences have a kink at equality, where rounding decides the slope.
      if (loss != &kTotalVariation && loss != &kUniversal) CHECK(equal.d_hidden.abs().max().item<double>() < 1e-5);
    }
    for (const double size : {1e-4, 1e-2, 1.0, 30.0})
      for (int64_t r = 0; r < 40; ++r) {
        const at::Tensor other = (hidden + size * at::randn({40, 12})).narrow(0, r, 1);
        CHECK(compute(other, head, same, only(*loss), {}, r).sums.values[0] >= 0.0);
        if (takes(*loss, TargetKind::top_k)) CHECK(compute(other, head, rows, only(*loss), {}, r).sums.values[0] >= 0.0);
      }
  }
}

TEST_CASE("a divergence does not depend on how rows are split, nor on rows of weight zero") {
  at::manual_seed(6);
  const at::Tensor hidden = at::randn({48, 12}), head = at::randn({61, 12}), teacher = at::randn({48, 9}), its_head = at::randn({61, 9});
  const Targets targets{.states = {{teacher, its_head}}};
  for (const Loss* loss : all_losses()) {
    if (!loss->of_targets()) continue;
    INFO(loss->name);
    const Computed whole = compute(hidden, head, targets, only(*loss, 1.5));
    for (const int64_t part : {1, 5, 16}) {
      LossSums sums;
      at::Tensor d_head = at::zeros_like(head);
      for (int64_t r = 0; r < 48; r += part) {
        const int64_t rows = std::min(part, 48 - r);
        const Computed one = compute(hidden.narrow(0, r, rows), head, targets, only(*loss, 1.5), {}, r);
        CHECK(largest_difference(one.d_hidden, whole.d_hidden.narrow(0, r, rows)) < 1e-5);
        sums += one.sums;
        d_head += one.d_head;
      }
      CHECK(sums.values[0] == Approx(whole.sums.values[0]).epsilon(1e-6));
      CHECK(sums.weight == whole.sums.weight);
      CHECK(largest_difference(d_head, whole.d_head) < 1e-4);
    }
    std::vector<float> weight(48, 1.0f);
    std::fill(weight.begin() + 30, weight.end(), 0.0f);
    const Computed padded = compute(hidden, head, targets, only(*loss, 1.5), {{}, weight});
    const Computed without = compute(hidden.narrow(0, 0, 30), head, targets, only(*loss, 1.5));
    CHECK(padded.sums.values[0] == Approx(without.sums.values[0]).epsilon(1e-6));
    CHECK(padded.sums.weight == 30);
    CHECK(largest_difference(padded.d_hidden.narrow(0, 0, 30), without.d_hidden) < 1e-6);
    CHECK(padded.d_hidden.narrow(0, 30, 18).abs().max().item<double>() == 0);
    CHECK(largest_difference(padded.d_head, without.d_head) < 1e-4);
  }
}

TEST_CASE("sampled rows give forward KL's gradient on average") {
  // Every outcome of one draw, weighted with its probability: the mean of the gradients is that of the whole distribution.
  at::manual_seed(7);
  const at::Tensor hidden = at::randn({1, 12}), head = at::randn({9, 12}), teacher = at::randn({1, 12});
  const at::Tensor p = at::softmax(at::mm(teacher, head.t()), 1);
  at::Tensor mean_hidden = at::zeros_like(hidden), mean_head = at::zeros_like(head);
  for (int32_t id = 0; id < 9; ++id) {
    const Targets drawn{TargetKind::sampled, {{0, 1}, {id}, {1.0f}, {0.0f}}, {}};
    const Computed one = compute(hidden, head, drawn, only(kForwardKl));
    mean_hidden.add_(one.d_hidden, p[0][id].item<double>());
    mean_head.add_(one.d_head, p[0][id].item<double>());
  }
  const Computed whole = compute(hidden, head, {.states = {{teacher, head}}}, only(kForwardKl));
  CHECK(largest_difference(mean_hidden, whole.d_hidden) < 1e-5);
  CHECK(largest_difference(mean_head, whole.d_head) < 1e-5);
}

TEST_CASE("top-k rows are not renormalised: mass that the student moves out of the tail costs") {
  // The teacher's three likeliest ids have 0.6; a student with all its mass on them, in the same proportions, is not the teacher.
  const Targets rows{TargetKind::top_k, {{0, 3}, {0, 1, 2}, {0.3f, 0.2f, 0.1f}, {0.4f}}, {}};
  const at::Tensor one = at::ones({1, 1});
  const auto value_of = [&](const Loss& loss, std::vector<float> q) {
    const at::Tensor head = at::log(at::tensor(q)).view({-1, 1});
    return compute(one, head, rows, only(loss)).sums.values[0];
  };
  const std::vector<float> teacher = {0.3f, 0.2f, 0.1f, 0.25f, 0.15f}, moved = {0.4995f, 0.333f, 0.1665f, 0.0005f, 0.0005f};
  for (const Loss* loss : all_losses()) {
    if (!loss->of_targets() || !takes(*loss, TargetKind::top_k)) continue;
    INFO(loss->name);
    CHECK(value_of(*loss, teacher) < 1e-6);
    CHECK(value_of(*loss, moved) > 0.1);
  }
}

TEST_CASE("top-k-kl of the whole distribution is forward-kl of top-k rows, and of all ids forward-kl itself") {
  const SafetensorsFile golden(kGolden);
  const at::Tensor hidden = f32(golden, "hidden"), head = f32(golden, "head");
  const Targets whole{.states = {{f32(golden, "teacher_hidden"), f32(golden, "teacher_head")}}},
      rows = sparse_targets(golden, "topk");
  LossOptions options;
  options.terms = {{&kTopKKl, 1.0, 5}};
  const Computed of_whole = compute(hidden, head, whole, options), of_rows = compute(hidden, head, rows, only(kForwardKl));
  CHECK(of_whole.sums.values[0] == Approx(of_rows.sums.values[0]).epsilon(1e-5));
  CHECK(largest_difference(of_whole.d_head, of_rows.d_head) < 2e-5);
  options.terms[0].parameter = 1000;
  const Computed all = compute(hidden, head, whole, options), kl = compute(hidden, head, whole, only(kForwardKl));
  CHECK(all.sums.values[0] == Approx(kl.sums.values[0]).epsilon(1e-5));
  CHECK(largest_difference(all.d_head, kl.d_head) < 2e-5);
}

TEST_CASE("a teacher's rows beyond the vocabulary are minus infinity: they take no mass") {
  at::manual_seed(8);
  const at::Tensor hidden = at::randn({20, 12}), head = at::randn({61, 12}), teacher = at::randn({20, 12}),
                   its_head = at::randn({61, 12});
  const at::Tensor padded = at::cat({its_head, at::zeros({7, 12})});
  for (const Loss* loss : all_losses()) {
    if (!loss->of_targets()) continue;
    INFO(loss->name);
    const Computed with = compute(hidden, head, {.states = {{teacher, padded}}}, only(*loss));
    const Computed without = compute(hidden, head, {.states = {{teacher, its_head}}}, only(*loss));
    CHECK(with.sums.values == without.sums.values);
    CHECK(at::equal(with.d_head, without.d_head));
  }
}

TEST_CASE("losses stay finite where probabilities underflow") {
  const at::Tensor one = at::ones({1, 1}), up = at::tensor({0.0f, 300.0f, -300.0f}).view({3, 1});
  for (const Loss* loss : all_losses()) {
    if (!loss->of_targets()) continue;
    INFO(loss->name);
    for (const Targets& targets : {Targets{.states = {{-one, up}}}, Targets{.states = {{-one, up, 0.5}, {-one, up, 0.5}}},
                                   Targets{TargetKind::top_k, {{0, 1}, {2}, {1.0f}, {0.0f}}, {}}}) {
      if (!takes(*loss, targets.kind)) continue;
      const Computed far = compute(one, up, targets, only(*loss));
      CHECK(std::isfinite(far.sums.values[0]));
      if (loss != &kUniversal) CHECK(far.sums.values[0] > 0.5);  // which ids have the mass is nothing to that one
      CHECK(at::isfinite(far.d_hidden).all().item<bool>());
    }
  }
}

TEST_CASE("a loss refuses targets that it cannot use, by name") {
  const SafetensorsFile golden(kGolden);
  const at::Tensor hidden = f32(golden, "hidden"), head = f32(golden, "head");
  const Targets sampled = sparse_targets(golden, "sample");
  for (const Loss* loss : all_losses()) {
    if (!loss->of_targets() || takes(*loss, TargetKind::sampled)) continue;
    CHECK_THROWS_AS(compute(hidden, head, sampled, only(*loss)), UsageError);
    CHECK_THROWS_WITH(require_targets({{&kForwardKl, 1.0}, {loss, 0.5}}, TargetKind::sampled),
                      Catch::Contains("'" + std::string(loss->name) + "'") && Catch::Contains("sampled") &&
                          Catch::Contains(loss == &kUniversal ? "a whole distribution or of another tokenizer" : "a whole distribution or top-k"));
    CHECK_NOTHROW(require_targets({{loss, 1.0}}, loss == &kUniversal ? TargetKind::aligned : TargetKind::top_k));
  }
  for (const Loss* loss : all_losses())
    if (loss->of_targets() && loss != &kMergedKl && loss != &kUniversal)
      CHECK_THROWS_WITH(require_targets({{loss, 1.0}}, TargetKind::aligned), Catch::Contains("of another tokenizer"));
  for (const TargetKind kind : {TargetKind::whole, TargetKind::sampled, TargetKind::top_k})
    CHECK_NOTHROW(require_targets({{&kForwardKl, 1.0}, {&kCrossEntropy, 1.0}}, kind));
}

TEST_CASE("where all ids are the student's, merged-kl is forward-kl, bit for bit") {
  const SafetensorsFile golden(kGolden);
  const at::Tensor hidden = f32(golden, "hidden"), head = f32(golden, "head");
  for (const Targets& targets : {Targets{.states = {{f32(golden, "teacher_hidden"), f32(golden, "teacher_head")}}}, sparse_targets(golden, "sample"),
                                 sparse_targets(golden, "topk")}) {
    const Computed merged = compute(hidden, head, targets, only(kMergedKl, 2)), kl = compute(hidden, head, targets, only(kForwardKl, 2));
    CHECK(merged.sums.values == kl.sums.values);
    CHECK(at::equal(merged.d_hidden, kl.d_hidden));
    CHECK(at::equal(merged.d_head, kl.d_head));
  }
}

TEST_CASE("values without gradients are the same, and the gradient's scale is the caller's") {
  const SafetensorsFile golden(kGolden);
  const at::Tensor hidden = f32(golden, "hidden"), head = f32(golden, "head");
  const Targets targets = sparse_targets(golden, "topk");
  LossOptions options;
  at::Tensor whole, half;
  const LossSums with = chunked_loss(hidden, head, targets, 0, {}, options, &whole, nullptr);
  options.grad_scale = 0.5;
  chunked_loss(hidden, head, targets, 0, {}, options, &half, nullptr);
  CHECK(at::equal(whole * 0.5, half));
  options.gradient = false;
  const LossSums without = chunked_loss(hidden, head, targets, 0, {}, options, nullptr, nullptr);
  CHECK(with.values == without.values);
}

TEST_CASE("rows come in chunks without changing the loss") {
  const int64_t vocab = 4096, rows = 3 * ops::logits_chunks(vocab).product + 7;
  const at::Tensor steps = at::arange(rows * 8, at::kFloat).view({rows, 8});
  const at::Tensor hidden = at::sin(steps * 0.37), teacher = at::sin(steps * 0.11);
  const at::Tensor head = at::cos(at::arange(vocab * 8, at::kFloat) * 0.73).view({vocab, 8});
  at::Tensor d_hidden;
  const LossSums sums = chunked_loss(hidden, head, {.states = {{teacher, head}}}, 0, {}, {}, &d_hidden, nullptr);
  const at::Tensor log_q = at::log_softmax(at::mm(hidden, head.t()).to(at::kDouble), 1);
  const at::Tensor log_p = at::log_softmax(at::mm(teacher, head.t()).to(at::kDouble), 1);
  CHECK(sums.values[0] == Approx((log_p.exp() * (log_p - log_q)).sum().item<double>()).epsilon(1e-5));
  const at::Tensor expected = at::mm(log_q.exp() - log_p.exp(), head.to(at::kDouble));
  CHECK((d_hidden - expected).abs().max().item<double>() < 1e-5);
}

TEST_CASE("the memory of a chunk does not grow with the vocabulary") {
  for (const int64_t vocab : {1000, 49152, 151936, 262144}) CHECK(ops::logits_chunks(vocab).product * vocab <= int64_t{16} << 20);
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
  const LossTerms shaped = parse_losses({{"jensen-shannon:0.1", "2"}, {"reverse-kl", "1"}});
  REQUIRE(shaped.size() == 2);
  CHECK(shaped[0].loss == &kReverseKl);
  CHECK(shaped[1].parameter == 0.1);
  CHECK(parse_losses({{"jensen-shannon", "1"}})[0].parameter == 0.5);
  for (const char* name : {"jensen-shannon:", "jensen-shannon:0", "jensen-shannon:1", "jensen-shannon:x", "jensen-shannon:0.5:1"})
    CHECK_THROWS_AS(parse_losses({{name, "1"}}), UsageError);
  CHECK(parse_losses({{"top-k-kl:8", "1"}})[0].parameter == 8);
  CHECK_THROWS_WITH(parse_losses({{"top-k-kl:2.5", "1"}}), Catch::Contains("not a whole number"));
  CHECK_THROWS_WITH(parse_losses({{"forward-kl:2", "1"}}), Catch::Contains("'forward-kl' has no parameter"));
  CHECK_THROWS_WITH(parse_losses({{"jensen-shannon:0.2", "1"}, {"jensen-shannon:0.3", "1"}}), Catch::Contains("given twice"));
  StringMap all;
  for (const Loss* loss : all_losses()) all[std::string(loss->name)] = "1";
  CHECK_THROWS_WITH(parse_losses(all), Catch::Contains("19 losses are given; step records hold 14"));
  CHECK_THROWS_WITH(require_targets({{&kReward, 1.0}}, TargetKind::top_k), Catch::Contains("'reward'") && Catch::Contains("a whole distribution"));
  CHECK_THROWS_AS(parse_losses({{"forward-kl", "0"}}), UsageError);
  CHECK_THROWS_AS(parse_losses({}), UsageError);
}

}  // namespace overproof
