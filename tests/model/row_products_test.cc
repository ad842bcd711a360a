// Products and whole steps whose rows do not depend on each other.

#include "model/ops/row_products.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "model/decoder.h"
#include "model/ops/linear.h"
#include "tests/model/random_model.h"

namespace overproof {
namespace {

using at::Tensor;

/// The sum as model/ops/row_products.h defines it.
float defined_sum(const float* a, const float* b, int64_t n) {
  float chain[16] = {};
  for (int64_t i = 0; i < n; ++i) chain[i % 16] = std::fma(a[i], b[i], chain[i % 16]);
  for (int step = 8; step > 0; step /= 2)
    for (int j = 0; j < step; ++j) chain[j] += chain[j + step];
  return chain[0];
}

Tensor ids(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

}  // namespace

TEST_CASE("a row of a decoding product is the sum that is documented, whatever the other rows and the threads are") {
  const auto [rows, in, out] = GENERATE(table<int64_t, int64_t, int64_t>({{1, 48, 33}, {7, 100, 65}, {16, 8, 3}, {5, 576, 1030}}));
  const bool narrow = GENERATE(false, true);
  const Tensor x = random_tensor({rows, in}, "x"), stored = random_tensor({out, in}, "w").to(narrow ? at::kBFloat16 : at::kFloat);
  const Tensor wide = stored.to(at::kFloat);
  at::set_num_threads(2);
  const Tensor y = ops::row_linear(x, stored);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < out; c += 7)
      REQUIRE(y[r][c].item<float>() ==
              defined_sum(x.const_data_ptr<float>() + r * in, wide.const_data_ptr<float>() + c * in, in));
  at::set_num_threads(1);
  const Tensor bias = random_tensor({out}, "bias"), residual = random_tensor({rows, out}, "residual");
  for (int64_t r = 0; r < rows; ++r) CHECK(at::equal(ops::row_linear(x.narrow(0, r, 1), stored), y.narrow(0, r, 1)));
  at::set_num_threads(2);
  CHECK(at::equal(ops::row_linear(x, stored, bias, residual), y + bias + residual));
  const Tensor exact = ops::aten::linear(x.to(at::kDouble), wide.to(at::kDouble), bias.to(at::kDouble), residual.to(at::kDouble));
  CHECK((ops::row_linear(x, stored, bias, residual) - exact).abs().max().item<double>() <= 1e-5 * exact.abs().max().item<double>());
}

TEST_CASE("attention of one query per sequence equals the plain form, and does not see other sequences") {
  const int64_t heads = 6, kv_heads = 2, dim = GENERATE(8, 16, 40);
  const std::vector<int64_t> lengths = {1, 17, 5, 64};
  const Tensor q = random_tensor({4, heads, dim}, "q");
  std::vector<Tensor> keys, values, wide_keys, wide_values;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const auto all = [&](const char* name) { return random_tensor({kv_heads, 80, dim}, name + std::to_string(i)); };
    keys.push_back(all("k").narrow(1, 0, lengths[i]));
    values.push_back(all("v").narrow(1, 0, lengths[i]));
    wide_keys.push_back(keys.back().to(at::kDouble));
    wide_values.push_back(values.back().to(at::kDouble));
  }
  const Tensor y = ops::row_attention(q, keys, values);
  CHECK((y - ops::aten::row_attention(q.to(at::kDouble), wide_keys, wide_values)).abs().max().item<double>() <= 1e-5);
  for (size_t i = 0; i < lengths.size(); ++i)
    CHECK(at::equal(ops::row_attention(q.narrow(0, int64_t(i), 1), {keys[i]}, {values[i]}), y.narrow(0, int64_t(i), 1)));
}

TEST_CASE("sequences of different lengths decoded together have the bits that each has alone") {
  const ModelConfig config = GENERATE(false, true) ? random_moe_config() : random_dense_config();
  const Decoder decoder(config, RandomSource(config));
  const std::vector<int64_t> lengths = {3, 11, 1, 70, 4};
  const auto prompt = [&](size_t i) { return (at::arange(lengths[i]) * 31 + int64_t(i)).remainder(97).unsqueeze(0).to(at::kLong); };
  const auto token = [](size_t i, int64_t step) { return int64_t(i) * 13 % 97 + step; };
  constexpr int64_t kSteps = 6;
  std::vector<std::vector<Tensor>> alone(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    KvCache cache;
    alone[i].push_back(decoder.hidden_cached(prompt(i), cache));
    for (int64_t step = 0; step < kSteps; ++step)
      alone[i].push_back(decoder.next_logits(decoder.hidden_cached(ids({token(i, step)}).unsqueeze(0), cache)));
    CHECK(cache.length == lengths[i] + kSteps);
  }
  // All of them, less and less, in another order, one of them from a copy.
  std::vector<KvCache> caches(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (i == 1) caches[i].expected = lengths[i] + kSteps;
    CHECK(at::equal(decoder.hidden_cached(prompt(i), caches[i]), alone[i][0]));
  }
  caches[3] = caches[3].copy();
  std::vector<size_t> running = {4, 2, 0, 3, 1};
  for (int64_t step = 0; step < kSteps; ++step) {
    std::vector<KvCache*> at;
    std::vector<int64_t> next;
    for (const size_t i : running) {
      at.push_back(&caches[i]);
      next.push_back(token(i, step));
    }
    const Tensor logits = decoder.next_logits(decoder.hidden_next(ids(next), at));
    for (size_t row = 0; row < running.size(); ++row)
      CHECK(at::equal(logits[int64_t(row)], alone[running[row]][size_t(step) + 1][0]));
    if (step % 2 == 1) running.erase(running.begin());
  }
  // And they are what one pass over the whole sequence gives.
  std::vector<Tensor> whole = {prompt(3)};
  for (int64_t step = 0; step < kSteps; ++step) whole.push_back(ids({token(3, step)}).unsqueeze(0));
  at::NoGradGuard no_grad;
  const Tensor expected = decoder.logits(decoder.hidden(at::cat(whole, 1))).narrow(0, lengths[3] + kSteps - 1, 1);
  CHECK((expected - alone[3].back()).abs().max().item<double>() <= 1e-3 * expected.abs().max().item<double>());
}

}  // namespace overproof
