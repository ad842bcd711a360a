// The hand-written backward passes against libtorch's own, from the same formulas spelled out in its operators.

#include "model/functions.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <catch2/catch.hpp>

#include "core/parallel.h"
#include "model/moe.h"
#include "tests/model/random_model.h"

namespace overproof {
namespace {

using at::Tensor;

Tensor leaf(const Tensor& t, bool requires_grad = true) { return t.detach().clone().set_requires_grad(requires_grad); }

/// Runs both functions on equal leaves and compares values and gradients (undefined gradients must agree too).
void compare(const std::function<Tensor(std::vector<Tensor>&)>& ours, const std::function<Tensor(std::vector<Tensor>&)>& plain,
             const std::vector<Tensor>& inputs, const std::vector<bool>& requires_grad, double tolerance = 2e-5) {
  std::vector<Tensor> a, b;
  for (size_t i = 0; i < inputs.size(); ++i) {
    a.push_back(leaf(inputs[i], requires_grad[i]));
    b.push_back(leaf(inputs[i], requires_grad[i]));
  }
  const Tensor ya = ours(a), yb = plain(b);
  REQUIRE(ya.sizes() == yb.sizes());
  CHECK((ya - yb).abs().max().item<double>() <= tolerance * std::max(1.0, yb.abs().max().item<double>()));
  const Tensor direction = at::linspace(-1, 1, ya.numel()).view(ya.sizes());
  torch::autograd::backward({ya}, {direction});
  torch::autograd::backward({yb}, {direction});
  for (size_t i = 0; i < inputs.size(); ++i) {
    INFO("input " << i);
    REQUIRE(a[i].grad().defined() == b[i].grad().defined());
    if (!a[i].grad().defined()) continue;
    CHECK((a[i].grad() - b[i].grad()).abs().max().item<double>() <=
          tolerance * std::max(1.0, b[i].grad().abs().max().item<double>()));
  }
}

Tensor plain_rms(const Tensor& x, const Tensor& w) { return w * (x * (x.pow(2).mean(-1, true) + 1e-5).rsqrt()); }

Tensor plain_ffn(const Tensor& x, const Tensor& gate_up, const Tensor& down) {
  const auto parts = at::matmul(x, gate_up.t()).chunk(2, -1);
  return at::matmul(at::silu(parts[0]) * parts[1], down.t());
}

}  // namespace

TEST_CASE("rms_norm and its gradients equal the plain composition") {
  const std::vector<Tensor> in = {random_tensor({70, 48}, "x"), random_tensor({48}, "w")};
  const auto ours = [](auto& t) { return nn::rms_norm(t[0], t[1], 1e-5); };
  const auto plain = [](auto& t) { return plain_rms(t[0], t[1]); };
  compare(ours, plain, in, {true, true});
  compare(ours, plain, in, {true, false});
  compare(ours, plain, in, {false, true});
}

TEST_CASE("linear and its gradients equal the plain composition") {
  const std::vector<Tensor> in = {random_tensor({300, 40}, "x"), random_tensor({130, 40}, "w"), random_tensor({130}, "b"),
                                  random_tensor({300, 130}, "r")};
  const auto ours = [](auto& t) { return nn::linear(t[0], t[1], t[2], t[3]); };
  const auto plain = [](auto& t) { return at::matmul(t[0], t[1].t()) + t[2] + t[3]; };
  compare(ours, plain, in, {true, true, true, true});
  compare(ours, plain, in, {true, false, false, false});
  compare(ours, plain, in, {false, false, true, true});
  const auto bare = [](auto& t) { return nn::linear(t[0], t[1]); };
  compare(bare, [](auto& t) { return at::matmul(t[0], t[1].t()); }, in, {true, true, false, false});
}

TEST_CASE("rotation turns halves of heads, and its gradient turns back") {
  const Tensor angle = random_tensor({10, 4}, "angle");
  const std::vector<Tensor> in = {random_tensor({20, 3, 8}, "x")};
  const auto ours = [&](auto& t) { return nn::rotate_positions(t[0], angle.cos(), angle.sin()); };
  const auto plain = [&](auto& t) {
    const Tensor c = angle.cos().repeat({2, 1}).unsqueeze(1), s = angle.sin().repeat({2, 1}).unsqueeze(1);
    const auto h = t[0].chunk(2, -1);
    return at::cat({h[0] * c - h[1] * s, h[1] * c + h[0] * s}, -1);
  };
  compare(ours, plain, in, {true});
}

TEST_CASE("feed_forward and its gradients equal the plain composition") {
  const std::vector<Tensor> in = {random_tensor({90, 24}, "x"), random_tensor({2 * 40, 24}, "gu"), random_tensor({24, 40}, "d"),
                                  random_tensor({90, 24}, "r")};
  const auto ours = [](auto& t) { return nn::feed_forward(t[0], t[1], t[2], t[3]); };
  const auto plain = [](auto& t) { return t[3] + plain_ffn(t[0], t[1], t[2]); };
  compare(ours, plain, in, {true, true, true, true});
  compare(ours, plain, in, {true, false, false, false});
  compare(ours, plain, in, {false, false, true, false});
  compare(ours, plain, in, {false, true, false, false});
}

TEST_CASE("a mixture of experts and its gradients equal the plain composition") {
  const int64_t tokens = 50, hidden = 24, width = 16, experts = 6, k = 2;
  ModelConfig config = random_moe_config();
  config.norm_topk_prob = GENERATE(false, true);
  const Tensor bias = random_tensor({experts}, "bias");
  bias[4] = -100.0f;  // an expert that nobody chooses
  const std::vector<Tensor> in = {random_tensor({tokens, hidden}, "x"), random_tensor({tokens, hidden}, "base"),
                                  random_tensor({experts, hidden}, "router"), random_tensor({experts, 2 * width, hidden}, "gu"),
                                  random_tensor({experts, hidden, width}, "d")};
  const auto ours = [&](auto& t) { return expert_mixture(t[0], t[1], route(t[0], t[2], bias, k, config), t[3], t[4]); };
  const auto plain = [&](auto& t) {
    const Tensor score = at::matmul(t[0], t[2].t()).sigmoid();
    const Tensor chosen = std::get<1>((score.detach() + bias).topk(k, -1));
    Tensor w = score.gather(1, chosen);
    if (config.norm_topk_prob) w = w / (w.sum(-1, true) + 1e-20);
    w = at::zeros_like(score).scatter(1, chosen, w * config.routed_scaling_factor);
    Tensor y = t[1];
    for (int64_t e = 0; e < experts; ++e) y = y + w.select(1, e).unsqueeze(1) * plain_ffn(t[0], t[3][e], t[4][e]);
    return y;
  };
  compare(ours, plain, in, {true, true, true, true, true});
  compare(ours, plain, in, {false, false, true, false, false});  // router-only distillation
  compare(ours, plain, in, {true, false, false, false, false});
  compare(ours, plain, in, {false, false, false, true, false});
  compare(ours, plain, in, {false, false, false, false, true});
}

TEST_CASE("equal scores choose the lower ids, in ascending order") {
  ModelConfig config = random_moe_config();
  const Tensor x = random_tensor({5, 8}, "x");
  const Routing r = route(x, at::zeros({7, 8}), at::zeros({7}), 3, config);
  CHECK(at::equal(r.selected, at::arange(3, at::kInt).expand({5, 3})));
  CHECK(at::equal(expert_load(r.selected, 7), at::tensor({5, 5, 5, 0, 0, 0, 0}, at::kLong)));
  // sigmoid(0) x 2 is one exactly: a gate at zero leaves the teacher's function alone.
  CHECK(at::equal(r.weights, at::ones({5, 3})));
}

TEST_CASE("the number of threads changes no bit of values and gradients") {
  const auto run = [](int threads) {
    at::set_num_threads(threads);
    ModelConfig config = random_moe_config();
    std::vector<Tensor> in = {random_tensor({600, 96}, "x"),    random_tensor({5, 96}, "router"),
                              random_tensor({5, 64, 96}, "gu"), random_tensor({5, 96, 32}, "d"),
                              random_tensor({96}, "norm"),      random_tensor({200, 96}, "head")};
    for (Tensor& t : in) t.set_requires_grad(true);
    const Tensor h = nn::rms_norm(in[0], in[4], 1e-5);
    const Tensor y = nn::linear(expert_mixture(h, in[0], route(h, in[1], at::zeros({5}), 2, config), in[2], in[3]), in[5]);
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
