// Products and whole steps whose rows do not depend on each other.

#include "model/ops/row_products.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "core/parallel.h"
#include "model/decoder.h"
#include "model/generator.h"
#include "model/ops/linear.h"
#include "tests/model/random_model.h"

namespace overproof {
namespace {

using at::Tensor;
using ops::RowMatrix;

/// The sum as model/ops/row_products.h defines it.
float defined_sum(const float* a, const float* b, int64_t n) {
  float chain[16] = {};
  for (int64_t i = 0; i < n; ++i) chain[i % 16] = std::fma(a[i], b[i], chain[i % 16]);
  for (int step = 8; step > 0; step /= 2)
    for (int j = 0; j < step; ++j) chain[j] += chain[j + step];
  return chain[0];
}

/// A random matrix in the form of that name; "offsets" is int8 in blocks of 32 with offsets. Blocks as large as the row are int8.
RowMatrix matrix_of(const std::string& form, int64_t rows, int64_t columns) {
  const Tensor numbers = random_tensor({rows, columns}, "w");
  if (form == "f32") return numbers;
  if (form == "bf16") return numbers.to(at::kBFloat16);
  if (form == "f16") return numbers.to(at::kHalf);
  RowMatrix m;
  m.values = (numbers * 40).round().clamp(-128, 127).to(at::kChar);
  m.block = form == "int8" ? columns : form == "int8 in blocks of 16" ? 16 : 32;
  const int64_t blocks = (columns + m.block - 1) / m.block;
  m.scales = random_tensor({rows, blocks}, "scales");
  if (form == "offsets") m.offsets = random_tensor({rows, blocks}, "offsets");
  return m;
}

Tensor ids(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

}  // namespace

TEST_CASE("a row of a decoding product is the sum that is documented, whatever the form of the weight, the other rows, the threads and the processor") {
  const auto [rows, in, out] = GENERATE(table<int64_t, int64_t, int64_t>(
      {{1, 48, 33}, {1, 64, 40}, {3, 96, 21}, {7, 100, 65}, {16, 8, 3}, {5, 576, 1030}, {9, 130, 20}, {16, 64, 24}, {70, 128, 70}}));
  const std::string form = GENERATE("f32", "bf16", "f16", "int8", "int8 in blocks of 16", "int8 in blocks of 32", "offsets");
  const RowMatrix stored = matrix_of(form, out, in);
  CAPTURE(form, rows, in, out);
  if (form != "offsets") CHECK(stored.form() == (stored.block >= in ? "int8" : form));
  const Tensor x = random_tensor({rows, in}, "x"), wide = stored.row_values(at::arange(out));
  REQUIRE(wide.scalar_type() == at::kFloat);
  set_thread_count(2);
  const Tensor y = ops::row_linear(x, stored);
  for (int64_t r = 0; r < rows; r += 3)
    for (int64_t c = 0; c < out; c += 7)
      REQUIRE(y[r][c].item<float>() ==
              defined_sum(x.const_data_ptr<float>() + r * in, wide.const_data_ptr<float>() + c * in, in));
  set_thread_count(1);
  for (const std::string_view set : ops::cpu::row_instruction_sets()) {
    CAPTURE(set);
    ops::cpu::use_row_instructions(set);
    CHECK(ops::cpu::row_instructions() == set);
    CHECK(at::equal(ops::row_linear(x, wide), y));
    CHECK(at::equal(ops::row_linear(x, stored), y));
    for (int64_t r = 0; r < rows; r += 2) CHECK(at::equal(ops::row_linear(x.narrow(0, r, 1), stored), y.narrow(0, r, 1)));
  }
  ops::cpu::use_row_instructions(ops::cpu::row_instruction_sets().front());
  const Tensor bias = random_tensor({out}, "bias"), residual = random_tensor({rows, out}, "residual");
  set_thread_count(2);
  CHECK(at::equal(ops::row_linear(x, stored, bias, residual), y + bias + residual));
  const Tensor exact = ops::aten::linear(x.to(at::kDouble), wide.to(at::kDouble), bias.to(at::kDouble), residual.to(at::kDouble));
  CHECK((ops::row_linear(x, stored, bias, residual) - exact).abs().max().item<double>() <= 1e-5 * exact.abs().max().item<double>());
  // The plain form.
  const Tensor plain = at::zeros({rows, out}, at::kDouble);
  const ops::RowProduct product{x.to(at::kDouble), &stored, plain, rows};
  ops::row_products({&product, 1});
  CHECK((y - plain).abs().max().item<double>() <= 1e-5 * plain.abs().max().item<double>());
}

TEST_CASE("several products at once write their own parts of the results") {
  const RowMatrix a = matrix_of("bf16", 37, 48), b = matrix_of("int8", 200, 48), c = matrix_of("f32", 5, 16);
  const Tensor x = random_tensor({9, 48}, "x"), z = random_tensor({4, 16}, "z");
  const Tensor both = at::full({12, 237}, 7.0), third = at::full({4, 5}, 7.0);
  const std::vector<ops::RowProduct> products = {{x, &a, both, 4, 2, 1, 0}, {x, &b, both, 4, 5, 1, 37}, {z, &c, third, 4}, {z, &c, third, 0}};
  for (const int threads : {1, 2}) {
    set_thread_count(threads);
    both.fill_(7.0);
    ops::row_products(products);
    CHECK(at::equal(both.narrow(0, 1, 4).narrow(1, 0, 37), ops::row_linear(x.narrow(0, 2, 4), a)));
    CHECK(at::equal(both.narrow(0, 1, 4).narrow(1, 37, 200), ops::row_linear(x.narrow(0, 5, 4), b)));
    CHECK(at::equal(third, ops::row_linear(z, c)));
    CHECK(both.narrow(0, 0, 1).eq(7.0).all().item<bool>());
    CHECK(both.narrow(0, 5, 7).eq(7.0).all().item<bool>());
  }
}

TEST_CASE("weighted rows are added in their order") {
  const Tensor out = random_tensor({3, 20}, "out"), rows = random_tensor({4, 20}, "rows"), weights = random_tensor({4}, "weights");
  const std::vector<int64_t> to = {2, 0, 2, 1};
  Tensor expected = out.clone();
  for (int64_t j = 0; j < 4; ++j) expected[to[size_t(j)]] += rows[j] * weights[j];
  const Tensor wide = out.to(at::kDouble);
  ops::add_weighted_rows(out, rows, weights, to);
  CHECK(at::equal(out, expected));
  ops::add_weighted_rows(wide, rows.to(at::kDouble), weights.to(at::kDouble), to);
  CHECK((wide - out).abs().max().item<double>() <= 1e-6);
}

TEST_CASE("attention of one query per sequence equals the plain form, and does not see other sequences") {
  const int64_t heads = 6, kv_heads = 2, dim = GENERATE(8, 16, 40, 88);
  const std::vector<int64_t> lengths = {1, 17, 5, 64}, before = {0, 16, 4, 63};
  const Tensor q = random_tensor({4, heads, dim}, "q");
  std::vector<Tensor> keys, values, wide_keys, wide_values;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const auto all = [&](const char* name) { return random_tensor({kv_heads, 80, dim}, name + std::to_string(i)); };
    keys.push_back(all("k"));
    values.push_back(all("v"));
    wide_keys.push_back(keys.back().to(at::kDouble));
    wide_values.push_back(values.back().to(at::kDouble));
  }
  const Tensor last = random_tensor({4, kv_heads, dim}, "last");
  ops::store_positions(last, keys, before);
  ops::store_positions(last.to(at::kDouble), wide_keys, before);
  for (size_t i = 0; i < lengths.size(); ++i) {
    CHECK(at::equal(keys[i].select(1, before[i]), last[int64_t(i)]));
    CHECK(at::equal(keys[i].to(at::kDouble), wide_keys[i]));
  }
  const Tensor y = ops::row_attention(q, keys, values, lengths);
  CHECK((y - ops::aten::row_attention(q.to(at::kDouble), wide_keys, wide_values, lengths)).abs().max().item<double>() <= 1e-5);
  // Windows and soft caps.
  const std::vector<int64_t> begins = {0, 11, 4, 40};
  const Tensor capped = ops::row_attention(q, keys, values, lengths, begins, 2.5);
  CHECK((capped - ops::aten::row_attention(q.to(at::kDouble), wide_keys, wide_values, lengths, begins, 2.5)).abs().max().item<double>() <= 1e-5);
  CHECK((capped - y).abs().max().item<double>() > 1e-3);
  const Tensor part = ops::row_attention(q.narrow(0, 3, 1), {keys[3].narrow(1, 40, 24).contiguous()}, {values[3].narrow(1, 40, 24).contiguous()},
                                         std::vector<int64_t>{24}, {}, 2.5);
  CHECK(at::equal(part, capped.narrow(0, 3, 1)));
  for (const std::string_view set : ops::cpu::row_instruction_sets()) {
    ops::cpu::use_row_instructions(set);
    for (size_t i = 0; i < lengths.size(); ++i) {
      const int64_t length[] = {lengths[i]};
      CHECK(at::equal(ops::row_attention(q.narrow(0, int64_t(i), 1), {keys[i]}, {values[i]}, length), y.narrow(0, int64_t(i), 1)));
    }
  }
  ops::cpu::use_row_instructions(ops::cpu::row_instruction_sets().front());
}

TEST_CASE("a key that is not a number shows in the attention of the rows that see it") {
  const Tensor q = random_tensor({1, 2, 16}, "q"), keys = random_tensor({1, 40, 16}, "k"), values = random_tensor({1, 40, 16}, "v");
  const int64_t length[] = {33};
  for (const int64_t at : {0, 20, 32, 33}) {
    const Tensor faulty = keys.clone();
    faulty[0][at][3] = std::nan("");
    for (const std::string_view set : ops::cpu::row_instruction_sets()) {
      ops::cpu::use_row_instructions(set);
      CHECK(ops::row_attention(q, {faulty}, {values}, length).isnan().all().item<bool>() == (at < length[0]));
    }
  }
  ops::cpu::use_row_instructions(ops::cpu::row_instruction_sets().front());
}

TEST_CASE("sequences of different lengths decoded together have the bits that each has alone") {
  const ModelConfig config = GENERATE(false, true) ? random_moe_config() : random_dense_config();
  const RandomSource source(config);
  const Generator generator(config, source);
  const std::vector<int64_t> lengths = {3, 11, 1, 70, 4};
  const auto prompt = [&](size_t i) { return (at::arange(lengths[i]) * 31 + int64_t(i)).remainder(97).unsqueeze(0).to(at::kLong); };
  const auto token = [](size_t i, int64_t step) { return int64_t(i) * 13 % 97 + step; };
  constexpr int64_t kSteps = 6;
  std::vector<std::vector<Tensor>> alone(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    KvCache cache;
    alone[i].push_back(generator.hidden_cached(prompt(i), cache));
    for (int64_t step = 0; step < kSteps; ++step)
      alone[i].push_back(generator.next_logits(generator.hidden_cached(ids({token(i, step)}).unsqueeze(0), cache)));
    CHECK(cache.length == lengths[i] + kSteps);
  }
  // All of them, less and less, in another order, one of them from a copy.
  std::vector<KvCache> caches(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (i == 1) caches[i].expected = lengths[i] + kSteps;
    CHECK(at::equal(generator.hidden_cached(prompt(i), caches[i]), alone[i][0]));
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
    const Tensor logits = generator.next_logits(generator.hidden_next(ids(next), at));
    for (size_t row = 0; row < running.size(); ++row)
      CHECK(at::equal(logits[int64_t(row)], alone[running[row]][size_t(step) + 1][0]));
    if (step % 2 == 1) running.erase(running.begin());
  }
  // And they are what one pass over the whole sequence gives.
  std::vector<Tensor> whole = {prompt(3)};
  for (int64_t step = 0; step < kSteps; ++step) whole.push_back(ids({token(3, step)}).unsqueeze(0));
  at::NoGradGuard no_grad;
  const Decoder decoder(config, source);
  const Tensor expected = decoder.logits(decoder.hidden(at::cat(whole, 1))).narrow(0, lengths[3] + kSteps - 1, 1);
  CHECK((expected - alone[3].back()).abs().max().item<double>() <= 1e-3 * expected.abs().max().item<double>());
}

}  // namespace overproof
