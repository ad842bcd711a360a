// Each operator's form for f32 on the CPU (hand-written backward passes) against its plain ATen form, which runs in f64 here so
// that the difference is the error of the first alone.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <catch2/catch.hpp>
#include <functional>

#include "core/parallel.h"
#include "model/ops/attention.h"
#include "model/ops/gemm.h"
#include "model/ops/expert_mixture.h"
#include "model/ops/head_loss.h"
#include "model/host_values.h"
#include "model/ops/linear.h"
#include "model/ops/products.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rotary.h"
#include "model/ops/swiglu.h"
#include "tests/model/random_model.h"

namespace overproof {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;
using Operator = std::function<Tensor(const Tensors&)>;

double difference(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }
double size_of(const Tensor& t) { return std::max(1.0, t.abs().max().item<double>()); }

/// Both forms on equal leaves: values and gradients are equal up to f32 rounding; undefined gradients must agree too.
void compare(const Operator& cpu, const Operator& aten, const Tensors& inputs, const std::vector<bool>& requires_grad,
             double tolerance = 2e-5) {
  Tensors a, b;
  for (size_t i = 0; i < inputs.size(); ++i) {
    a.push_back(inputs[i].detach().clone().set_requires_grad(requires_grad[i]));
    b.push_back(inputs[i].detach().to(at::kDouble).set_requires_grad(requires_grad[i]));
  }
  const Tensor ya = cpu(a), yb = aten(b);
  REQUIRE(ya.sizes() == yb.sizes());
  REQUIRE(ya.scalar_type() == at::kFloat);
  REQUIRE(yb.scalar_type() == at::kDouble);
  CHECK(difference(ya, yb) <= tolerance * size_of(yb));
  if (!yb.requires_grad()) {
    CHECK_FALSE(ya.requires_grad());
    return;
  }
  const Tensor direction = at::linspace(-1, 1, ya.numel()).view(ya.sizes());
  torch::autograd::backward({ya}, {direction});
  torch::autograd::backward({yb}, {direction.to(at::kDouble)});
  for (size_t i = 0; i < inputs.size(); ++i) {
    INFO("input " << i);
    REQUIRE(a[i].grad().defined() == b[i].grad().defined());
    if (a[i].grad().defined()) CHECK(difference(a[i].grad(), b[i].grad()) <= tolerance * size_of(b[i].grad()));
  }
}

/// compare() with every input trained alone, and all together.
void compare_all(const Operator& cpu, const Operator& aten, const Tensors& inputs, double tolerance = 2e-5) {
  compare(cpu, aten, inputs, std::vector<bool>(inputs.size(), true), tolerance);
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::vector<bool> one(inputs.size(), false);
    one[i] = true;
    INFO("only input " << i << " is trained");
    compare(cpu, aten, inputs, one, tolerance);
  }
}

/// Of values and gradients with products in bf16, as a share of the largest: an operand is rounded by at most 2^-9 of itself, and the
/// longest chain here (a gradient through SwiGLU and two products) rounds ten times. If all errors had one sign, it would be 2 %.
constexpr double kBf16 = 10.0 / 512;

}  // namespace

TEST_CASE("gemm: products of every layout that a model has, large enough for each library") {
  const auto exact = [](const Tensor& a, const Tensor& b) { return at::matmul(a.to(at::kDouble), b.to(at::kDouble)); };
  const Tensor a = random_tensor({130, 120}, "a"), b = random_tensor({120, 140}, "b"), wide = random_tensor({130, 300}, "wide");
  const Tensor plain = exact(a, b);
  for (const auto& [x, y] : {std::pair{a, b}, {a.t().contiguous().t(), b}, {a, b.t().contiguous().t()}, {a.t().contiguous().t(), b.t().contiguous().t()}}) {
    const Tensor out = at::full({130, 200}, 3.0f), part = out.narrow(1, 30, 140);
    ops::cpu::gemm(part, x, y);
    CHECK(difference(part, plain) <= 1e-5 * size_of(plain));
    ops::cpu::gemm(part, x, y, true, 0.5);
    CHECK(difference(part, 1.5 * plain) <= 1e-5 * size_of(plain));
    CHECK(at::equal(out.narrow(1, 0, 30), at::full({130, 30}, 3.0f)));  // and nothing beside the view
    CHECK(at::equal(out.narrow(1, 170, 30), at::full({130, 30}, 3.0f)));
  }
  const Tensor columns = wide.narrow(1, 90, 120), out = at::empty({130, 140});
  ops::cpu::gemm(out, columns, b);
  CHECK(difference(out, exact(columns, b)) <= 1e-5 * size_of(plain));
}

TEST_CASE("rms_norm: both forms agree") {
  const auto cpu = [](const Tensors& t) { return ops::cpu::rms_norm(t[0], t[1], 1e-5); };
  const auto aten = [](const Tensors& t) { return ops::aten::rms_norm(t[0], t[1], 1e-5); };
  compare_all(cpu, aten, {random_tensor({71, 47}, "x"), random_tensor({47}, "w")});
  compare_all(cpu, aten, {random_tensor({7, 3, 13}, "x"), random_tensor({13}, "w")});
  compare_all(cpu, aten, {random_tensor({1, 1}, "x"), random_tensor({1}, "w")});
}

TEST_CASE("linear: both forms agree, with and without bias and residual") {
  const Tensors in = {random_tensor({301, 41}, "x"), random_tensor({131, 41}, "w"), random_tensor({131}, "b"),
                      random_tensor({301, 131}, "r")};
  compare_all([](const Tensors& t) { return ops::cpu::linear(t[0], t[1], t[2], t[3]); },
              [](const Tensors& t) { return ops::aten::linear(t[0], t[1], t[2], t[3]); }, in);
  compare_all([](const Tensors& t) { return ops::cpu::linear(t[0], t[1], t[2], {}); },
              [](const Tensors& t) { return ops::aten::linear(t[0], t[1], t[2], {}); }, {in[0], in[1], in[2]});
  compare_all([](const Tensors& t) { return ops::cpu::linear(t[0], t[1], {}, t[2]); },
              [](const Tensors& t) { return ops::aten::linear(t[0], t[1], {}, t[2]); }, {in[0], in[1], in[3]});
  compare_all([](const Tensors& t) { return ops::cpu::linear(t[0], t[1], {}, {}); },
              [](const Tensors& t) { return ops::aten::linear(t[0], t[1], {}, {}); }, {in[0], in[1]});
}

TEST_CASE("products in bf16: values and gradients are those of f64 up to the rounding of operands") {
  const ops::ProductTypeScope scope(ops::ProductType::bf16);
  const Tensors in = {random_tensor({301, 41}, "x"), random_tensor({131, 41}, "w"), random_tensor({131}, "b"),
                      random_tensor({301, 131}, "r")};
  compare_all([](const Tensors& t) { return ops::cpu::linear(t[0].to(at::kBFloat16), t[1], t[2], t[3]); },
              [](const Tensors& t) { return ops::aten::linear(t[0], t[1], t[2], t[3]); }, in, kBf16);
  compare_all([](const Tensors& t) { return ops::cpu::linear(t[0].to(at::kBFloat16), t[1], {}, {}).to(at::kFloat); },
              [](const Tensors& t) { return ops::aten::linear(t[0], t[1], {}, {}); }, {in[0], in[1]}, kBf16);
  const Tensors ffn = {random_tensor({91, 23}, "x"), random_tensor({2 * 41, 23}, "gu") * 0.3, random_tensor({23, 41}, "d"),
                       random_tensor({91, 23}, "r")};
  compare_all([](const Tensors& t) { return ops::cpu::feed_forward(t[0].to(at::kBFloat16), t[1], t[2], t[3]); },
              [](const Tensors& t) { return ops::aten::feed_forward(t[0], t[1], t[2], t[3]); }, ffn, kBf16);
  const int64_t k = GENERATE(1, 2);
  const Tensor selected = ops::cpu::select_experts(random_tensor({53, 6}, "scores"), at::zeros({6}), k);
  const Tensors experts = {random_tensor({53, 23}, "x"), random_tensor({53, 23}, "base"), random_tensor({53, k}, "w"),
                           random_tensor({6, 34, 23}, "gu") * 0.3, random_tensor({6, 23, 17}, "d")};
  compare_all([&](const Tensors& t) { return ops::cpu::expert_mixture(t[0].to(at::kBFloat16), t[1], {selected, t[2], {}}, t[3], t[4]); },
              [&](const Tensors& t) { return ops::aten::expert_mixture(t[0], t[1], {selected, t[2], {}}, t[3], t[4]); }, experts,
              kBf16);
}

TEST_CASE("products in bf16: a chain through operands of that type, as a decoder has it") {
  // norm -> projections -> rotation -> attention -> projection onto the residual stream
  const auto block = [](const Tensors& t, at::ScalarType operand) {
    const Tensor h = ops::rms_norm(t[0], t[1], 1e-5, operand);
    const auto by_head = [](const Tensor& x) { return x.view({2, 13, -1, 8}).transpose(1, 2); };
    const ops::RotaryAngles angles = ops::rotary_angles(t[6].detach(), 0, 13);
    const Tensor q = by_head(ops::rotate_positions(ops::linear(h, t[2]).view({26, 4, 8}), angles));
    const Tensor k = by_head(ops::rotate_positions(ops::linear(h, t[3]).view({26, 2, 8}), angles));
    const Tensor v = by_head(ops::linear(h, t[4]));
    CHECK(q.scalar_type() == operand);
    return ops::linear(ops::attention(q, k, v).transpose(1, 2).reshape({26, 32}), t[5], {}, t[0]);
  };
  const Tensors in = {random_tensor({26, 24}, "x"),       random_tensor({24}, "norm"),           random_tensor({32, 24}, "q") * 0.3,
                      random_tensor({16, 24}, "k") * 0.3, random_tensor({16, 24}, "v") * 0.3,    random_tensor({24, 32}, "o") * 0.3,
                      random_tensor({4}, "frequencies").abs()};
  const ops::ProductTypeScope scope(ops::ProductType::bf16);
  compare([&](const Tensors& t) { return block(t, ops::operand_type(t[0])); },
          [&](const Tensors& t) { return block(t, at::kDouble); }, in, {true, true, true, true, true, true, false},
          2 * kBf16);  // through rotation and attention and back a gradient is rounded twice as often
}

TEST_CASE("bf16_copy: one copy until the weight changes, by an operation or through its memory") {
  const Tensor w = random_tensor({40, 70}, "w");
  const Tensor copy = ops::bf16_copy(w);
  CHECK(at::equal(copy, w.to(at::kBFloat16)));
  CHECK(ops::bf16_copy(w).is_same(copy));
  w.add_(1);
  CHECK(at::equal(ops::bf16_copy(w), w.to(at::kBFloat16)));
  mutable_host_values<float>(w.narrow(0, 0, 1))[3] = 100;  // a slice counts as its tensor
  CHECK(ops::bf16_copy(w)[0][3].item<float>() == 100);
  const Tensor special = at::tensor({0.0f, -0.0f, 1e-40f, 3.4e38f, INFINITY, -INFINITY, 1.00390625f, 1.01171875f}).view({1, 8});
  CHECK(at::equal(ops::bf16_copy(special), special.to(at::kBFloat16)));
  CHECK(ops::bf16_copy(at::full({1, 1}, NAN)).isnan().item<bool>());
}

TEST_CASE("bf16_copy: the copy of a tensor that is gone is freed when the next tensor comes") {
  Tensor w = random_tensor({40, 70}, "w");
  const c10::weak_intrusive_ptr<c10::TensorImpl> copy(ops::bf16_copy(w).getIntrusivePtr());
  CHECK_FALSE(copy.expired());
  w = random_tensor({40, 70}, "another");
  ops::bf16_copy(w);
  CHECK(copy.expired());
}

TEST_CASE("matmul_into: both forms agree, on transposed and sliced views") {
  const Tensor a = random_tensor({37, 523}, "a"), b = random_tensor({29, 37}, "b");
  for (const bool accumulate : {false, true}) {
    const Tensor start = random_tensor({523, 31}, "start");
    const Tensor ours = start.clone(), plain = start.to(at::kDouble);
    ops::cpu::matmul_into(ours.narrow(1, 1, 29), a.t(), b.t(), accumulate);
    ops::aten::matmul_into(plain.narrow(1, 1, 29), a.to(at::kDouble).t(), b.to(at::kDouble).t(), accumulate);
    CHECK(difference(ours, plain) <= 1e-5 * size_of(plain));
    CHECK(at::equal(ours.select(1, 30), start.select(1, 30)));  // outside the slice nothing is written
  }
}

TEST_CASE("rotate_positions: both forms agree, for several sequences") {
  const Tensor frequencies = random_tensor({5}, "frequencies").abs();
  const auto angles = [&](at::ScalarType type) {
    const ops::RotaryAngles f32 = ops::rotary_angles(frequencies, 3, 11);  // the same rounded angles for both
    return ops::RotaryAngles{f32.cos.to(type), f32.sin.to(type)};
  };
  CHECK(at::allclose(angles(at::kFloat).cos[2], (frequencies * 5).cos()));
  compare_all([&](const Tensors& t) { return ops::cpu::rotate_positions(t[0], angles(at::kFloat)); },
              [&](const Tensors& t) { return ops::aten::rotate_positions(t[0], angles(at::kDouble)); },
              {random_tensor({33, 3, 10}, "x")});
}

TEST_CASE("swiglu and feed_forward: both forms agree") {
  const Tensor z = random_tensor({19, 2 * 23}, "z") * 3;
  CHECK(difference(ops::cpu::swiglu(z), ops::aten::swiglu(z.to(at::kDouble))) <= 1e-5);
  const Tensors in = {random_tensor({91, 23}, "x"), random_tensor({2 * 41, 23}, "gu") * 0.3, random_tensor({23, 41}, "d"),
                      random_tensor({91, 23}, "r")};
  compare_all([](const Tensors& t) { return ops::cpu::feed_forward(t[0], t[1], t[2], t[3]); },
              [](const Tensors& t) { return ops::aten::feed_forward(t[0], t[1], t[2], t[3]); }, in);
  compare_all([](const Tensors& t) { return ops::cpu::feed_forward(t[0], t[1], t[2], {}); },
              [](const Tensors& t) { return ops::aten::feed_forward(t[0], t[1], t[2], {}); }, {in[0], in[1], in[2]});
}

TEST_CASE("attention: both forms agree, with grouped keys, past keys and one query") {
  const auto cpu = [](const Tensors& t) { return ops::cpu::attention(t[0], t[1], t[2]); };
  const auto aten = [](const Tensors& t) { return ops::aten::attention(t[0], t[1], t[2]); };
  struct Shape {
    int64_t batch, heads, kv_heads, queries, keys, dim;
  };
  for (const Shape& s : {Shape{2, 6, 2, 13, 13, 10}, {3, 3, 3, 1, 1, 7}, {1, 4, 1, 5, 12, 6}, {1, 6, 3, 1, 19, 8}}) {
    CAPTURE(s.heads, s.kv_heads, s.queries, s.keys);
    compare_all(
        cpu, aten,
        {random_tensor({s.batch, s.heads, s.queries, s.dim}, "q"), random_tensor({s.batch, s.kv_heads, s.keys, s.dim}, "k"),
         random_tensor({s.batch, s.kv_heads, s.keys, s.dim}, "v")});
  }
}

TEST_CASE("attention by gemm: agrees with the plain form on whole sequences, in blocks of queries and with grouped keys") {
  const auto by_gemm = [](const Tensors& t) { return ops::cpu::causal_attention(t[0], t[1], t[2]); };
  const auto aten = [](const Tensors& t) { return ops::aten::attention(t[0], t[1], t[2]); };
  for (const int64_t length : {1, 17, 128, 300})
    compare_all(by_gemm, aten, {random_tensor({2, 6, length, 8}, "q"), random_tensor({2, 2, length, 8}, "k"), random_tensor({2, 2, length, 8}, "v")});
}

TEST_CASE("attention: both forms agree with a mask") {
  const Tensor segments = at::tensor(std::vector<int32_t>{0, 0, 0, 1, 1, 2, 2, 0, 1, 1, 1, 1, 1, 1}, at::kInt).view({2, 7});
  const Tensor mask = segments.unsqueeze(1).unsqueeze(3).eq(segments.unsqueeze(1).unsqueeze(2)).logical_and(at::ones({7, 7}, at::kBool).tril());
  compare_all([&](const Tensors& t) { return ops::cpu::attention(t[0], t[1], t[2], mask); },
              [&](const Tensors& t) { return ops::aten::attention(t[0], t[1], t[2], mask); },
              {random_tensor({2, 4, 7, 6}, "q"), random_tensor({2, 2, 7, 6}, "k"), random_tensor({2, 2, 7, 6}, "v")});
}

TEST_CASE("attention: both forms cap scores before the softmax, and a large cap changes nothing") {
  const auto with = [](double cap) { return [cap](const Tensors& t) { return ops::cpu::attention(t[0], t[1], t[2], {}, cap); }; };
  const Tensors t = {random_tensor({2, 4, 7, 6}, "q"), random_tensor({2, 2, 7, 6}, "k"), random_tensor({2, 2, 7, 6}, "v")};
  compare_all(with(1.5), [](const Tensors& u) { return ops::aten::attention(u[0], u[1], u[2], {}, 1.5); }, t);
  CHECK((with(1e6)(t) - with(0)(t)).abs().max().item<double>() <= 1e-5);
  CHECK((with(1.5)(t) - with(0)(t)).abs().max().item<double>() > 1e-3);
}

TEST_CASE("attention: a query does not see later keys") {
  const Tensor q = random_tensor({1, 2, 7, 4}, "q"), k = random_tensor({1, 2, 7, 4}, "k"), v = random_tensor({1, 2, 7, 4}, "v");
  Tensor changed = v.clone();
  changed.select(2, 6).fill_(100);
  for (const auto& form : {ops::cpu::attention, ops::aten::attention}) {
    const Tensor before = form(q, k, v, {}, 0), after = form(q, k, changed, {}, 0);
    CHECK(at::equal(before.narrow(2, 0, 6), after.narrow(2, 0, 6)));
    CHECK_FALSE(at::equal(before.select(2, 6), after.select(2, 6)));
  }
}

TEST_CASE("expert_mixture: both forms agree, with an expert that no token chooses") {
  const int64_t tokens = 53, hidden = 23, width = 17, experts = 6, k = GENERATE(1, 2, 6);
  const Tensor bias = random_tensor({experts}, "bias");
  if (k < experts) bias[4] = -100.0f;
  const Tensor scores = random_tensor({tokens, experts}, "scores");
  const Tensor selected = ops::cpu::select_experts(scores, bias, k);
  CHECK(at::equal(selected, ops::aten::select_experts(scores, bias, k)));
  const Tensor load = ops::cpu::expert_load(selected, experts);
  CHECK(at::equal(load, ops::aten::expert_load(selected, experts)));
  CHECK((load[4].item<int64_t>() == 0) == (k < experts));
  const Tensors in = {random_tensor({tokens, hidden}, "x"), random_tensor({tokens, hidden}, "base"),
                      random_tensor({tokens, k}, "w"), random_tensor({experts, 2 * width, hidden}, "gu") * 0.3,
                      random_tensor({experts, hidden, width}, "d")};
  compare_all(
      [&](const Tensors& t) {
        return ops::cpu::expert_mixture(t[0], t[1], {selected, t[2], {}}, t[3], t[4]);
      },
      [&](const Tensors& t) {
        return ops::aten::expert_mixture(t[0], t[1], {selected, t[2], {}}, t[3], t[4]);
      },
      in);
}

TEST_CASE("route: both forms choose the same experts and give the same weights and gradients") {
  ModelConfig config = random_moe_config();
  config.norm_topk_prob = GENERATE(false, true);
  const Tensor bias = random_tensor({7}, "bias");
  const auto weights = [&](const Tensors& t) { return ops::route(t[0], t[1], bias.to(t[1].scalar_type()), 3, config).weights; };
  const Tensors in = {random_tensor({29, 19}, "x"), random_tensor({7, 19}, "router") * 0.3};
  compare_all(weights, weights, in);
  const ops::Routing f32 = ops::route(in[0], in[1], bias, 3, config);
  const ops::Routing f64 = ops::route(in[0].to(at::kDouble), in[1].to(at::kDouble), bias.to(at::kDouble), 3, config);
  CHECK(at::equal(f32.selected, f64.selected));
  CHECK(difference(f32.scores, f64.scores) <= 1e-5);
  // Against the definition: sigmoid scores of the chosen, selection by score plus bias.
  const Tensor score = f64.scores.sigmoid();
  CHECK(at::equal(f64.selected.to(at::kLong), std::get<0>(std::get<1>((score + bias).topk(3, 1)).sort(1))));
  Tensor expected = score.gather(1, f64.selected.to(at::kLong));
  if (config.norm_topk_prob) expected = expected / expected.sum(1, true);
  CHECK(difference(f64.weights, expected * config.routed_scaling_factor) <= 1e-12);
}

TEST_CASE("the routing of a token does not depend on its place in a batch, nor on whether a gradient is recorded") {
  ModelConfig config = random_moe_config();
  config.norm_topk_prob = true;
  const Tensor z = random_tensor({37, 7}, "z"), bias = random_tensor({7}, "bias");
  const ops::Routing all = ops::route_scores(z, bias, 3, config), differentiable = ops::route_scores(z.clone().set_requires_grad(true), bias, 3, config);
  CHECK(at::equal(all.weights, differentiable.weights.detach()));
  for (int64_t row = 0; row < 37; ++row) {
    const ops::Routing alone = ops::route_scores(z.narrow(0, row, 1), bias, 3, config);
    CHECK(at::equal(alone.selected, all.selected.narrow(0, row, 1)));
    CHECK(at::equal(alone.weights, all.weights.narrow(0, row, 1)));
  }
}

TEST_CASE("select_experts: equal sums go to the lower id and NaN is never preferred, in both forms") {
  const Tensor scores = at::tensor({1.0f, 2.0f, 2.0f, NAN, 2.0f, 0.0f}).view({1, 6}), bias = at::zeros({6});
  for (const auto& form : {ops::cpu::select_experts, ops::aten::select_experts}) {
    CHECK(at::equal(form(scores, bias, 2), at::tensor({1, 2}, at::kInt).view({1, 2})));
    CHECK(at::equal(form(scores, bias, 5), at::tensor({0, 1, 2, 4, 5}, at::kInt).view({1, 5})));
  }
}

TEST_CASE("head_loss: both forms give autograd's gradients, for any chunk") {
  const int64_t n = 37, hidden = 11, vocab = 53;
  const Tensor x = random_tensor({n, hidden}, "x"), head = random_tensor({vocab, hidden}, "head");
  const Tensor label = (at::arange(n) * 7 % vocab).to(at::kLong);
  // Autograd, in f64, on whole logits.
  const Tensor x64 = x.to(at::kDouble).set_requires_grad(true), head64 = head.to(at::kDouble).set_requires_grad(true);
  const Tensor expected = -at::log_softmax(at::matmul(x64, head64.t()), 1).gather(1, label.unsqueeze(1)).sum();
  (expected * 0.25).backward();
  const auto run = [&](decltype(ops::head_loss)& form, at::ScalarType type, int64_t chunk, bool train_head, double tolerance = 1e-5) {
    double loss = 0;
    ops::HeadGradients gradients{at::empty({n, hidden}, type), train_head ? at::ones({vocab, hidden}, type) : Tensor(), 0.25};
    std::vector<int64_t> firsts;
    const auto cross_entropy = [&](int64_t first, Tensor& logits) {
      firsts.push_back(first);
      const Tensor own = label.narrow(0, first, logits.size(0)).unsqueeze(1), log_q = at::log_softmax(logits, 1);
      loss -= log_q.gather(1, own).sum(at::kDouble).item<double>();
      return log_q.exp().scatter_add(1, own, at::full({logits.size(0), 1}, -1.0, logits.options()));
    };
    form(x.to(type), head.to(type), {2 * chunk, chunk}, cross_entropy, &gradients);
    CHECK(loss == Approx(expected.item<double>()).epsilon(tolerance / 10));
    CHECK(difference(gradients.hidden, x64.grad()) <= tolerance);
    if (train_head) CHECK(difference(gradients.head - 1, head64.grad()) <= tolerance);  // added to what was there
    CHECK(int64_t(firsts.size()) == (n + chunk - 1) / chunk);
    loss = 0;
    form(x.to(type), head.to(type), {2 * chunk, chunk}, cross_entropy, nullptr);
    CHECK(loss == Approx(expected.item<double>()).epsilon(tolerance / 10));
  };
  for (const int64_t chunk : {1, 10, 37, 100})
    for (const bool train_head : {false, true}) {
      run(ops::cpu::head_loss, at::kFloat, chunk, train_head);
      run(ops::aten::head_loss, at::kDouble, chunk, train_head);
      const ops::ProductTypeScope scope(ops::ProductType::bf16);
      run(ops::cpu::head_loss, at::kFloat, chunk, train_head, kBf16);
    }
}

TEST_CASE("operators run the CPU's own form for f32 and the plain one for everything else") {
  const Tensor x = random_tensor({301, 41}, "x"), w = random_tensor({131, 41}, "w"), norm = random_tensor({41}, "n");
  CHECK(at::equal(ops::linear(x, w), ops::cpu::linear(x, w, {}, {})));
  CHECK(at::equal(ops::rms_norm(x, norm, 1e-5), ops::cpu::rms_norm(x, norm, 1e-5)));
  for (const at::ScalarType type : {at::kDouble, at::kBFloat16, at::kHalf}) {
    const Tensor y = ops::linear(x.to(type), w.to(type)), r = ops::rms_norm(x.to(type), norm.to(type), 1e-5);
    CHECK(y.scalar_type() == type);
    CHECK(at::equal(y, ops::aten::linear(x.to(type), w.to(type), {}, {})));
    CHECK(at::equal(r, ops::aten::rms_norm(x.to(type), norm.to(type), 1e-5)));
    CHECK(difference(r.to(at::kFloat), ops::rms_norm(x, norm, 1e-5)) <= (type == at::kDouble ? 1e-5 : 0.1));
  }
}

TEST_CASE("equal scores choose the lower ids, in ascending order") {
  ModelConfig config = random_moe_config();
  const Tensor x = random_tensor({5, 8}, "x");
  const ops::Routing r = ops::route(x, at::zeros({7, 8}), at::zeros({7}), 3, config);
  CHECK(at::equal(r.selected, at::arange(3, at::kInt).expand({5, 3})));
  CHECK(at::equal(ops::expert_load(r.selected, 7), at::tensor({5, 5, 5, 0, 0, 0, 0}, at::kLong)));
  // sigmoid(0) x 2 is one exactly: a gate at zero leaves the teacher's function alone.
  CHECK(at::equal(r.weights, at::ones({5, 3})));
}

TEST_CASE("the number of threads changes no bit of values and gradients") {
  const ops::ProductTypeScope scope(GENERATE(ops::ProductType::f32, ops::ProductType::bf16));
  const auto run = [](int threads) {
    at::set_num_threads(threads);
    ModelConfig config = random_moe_config();
    std::vector<Tensor> in = {random_tensor({600, 96}, "x"),    random_tensor({5, 96}, "router"),
                              random_tensor({5, 64, 96}, "gu"), random_tensor({5, 96, 32}, "d"),
                              random_tensor({96}, "norm"),      random_tensor({200, 96}, "head")};
    for (Tensor& t : in) t.set_requires_grad(true);
    const Tensor h = ops::rms_norm(in[0], in[4], 1e-5, ops::operand_type(in[0]));
    const Tensor y = ops::linear(
        ops::expert_mixture(h, in[0], ops::route(h, in[1], at::zeros({5}), 2, config), in[2], in[3]).to(h.scalar_type()), in[5]);
    torch::autograd::backward({y.pow(2).sum()});
    std::vector<Tensor> out = {y.detach()};
    for (const Tensor& t : in) out.push_back(t.grad());
    return out;
  };
  const std::vector<Tensor> one = run(1), three = run(3), again = run(3);
  at::set_num_threads(int(thread_count()));
  for (size_t i = 0; i < one.size(); ++i) {
    INFO("tensor " << i);
    CHECK(at::equal(three[i], again[i]));
    CHECK(at::equal(one[i], three[i]));
  }
}

}  // namespace overproof
