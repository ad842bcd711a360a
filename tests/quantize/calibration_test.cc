#include "quantize/calibration/calibration.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/float_bits.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "formats/safetensors.h"
#include "core/products.h"
#include "quantize/kernels/int8.h"

using namespace overproof;

namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests" / "golden" / "calibration" / "calibration.safetensors";

template <class T>
std::vector<T> copy_of(std::span<const T> values) {
  return {values.begin(), values.end()};
}

std::vector<float> normals(size_t n, std::string_view name, double spread = 1) {
  Rng rng(3, name);
  std::vector<float> values(n);
  for (float& v : values) v = float(rng.normal() * spread);
  return values;
}

/// tr(dW H dW^T) in double.
double output_error(const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& hessian, int64_t rows,
                    int64_t n) {
  double sum = 0;
  std::vector<double> d(static_cast<size_t>(n));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) d[size_t(i)] = double(a[size_t(r * n + i)]) - b[size_t(r * n + i)];
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) sum += d[size_t(i)] * hessian[size_t(i * n + j)] * d[size_t(j)];
  }
  return sum;
}

std::vector<float> row_scales(const std::vector<float>& weight, int64_t rows, int64_t n) {
  std::vector<float> scales;
  for (int64_t r = 0; r < rows; ++r) {
    float amax = 0;
    for (int64_t i = 0; i < n; ++i) amax = std::max(amax, std::abs(weight[size_t(r * n + i)]));
    scales.push_back(int8_scale(amax));
  }
  return scales;
}

std::vector<float> correlated_hessian(int64_t n, std::string_view name) {
  const std::vector<float> mix = normals(size_t(n * n), name);
  std::vector<float> h(size_t(n * n));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t k = 0; k < n; ++k) h[size_t(i * n + j)] += mix[size_t(i * n + k)] * mix[size_t(j * n + k)] / float(1 + k);
  return h;
}

/// Zeros under the names and in the shapes of a checkpoint's tensors.
class Zeros : public TensorSource {
 public:
  explicit Zeros(std::vector<TensorInfo> tensors) : tensors_(std::move(tensors)) {}
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* find(std::string_view name) const override {
    const auto found = std::ranges::find(tensors_, name, &TensorInfo::name);
    return found == tensors_.end() ? nullptr : &*found;
  }
  void read_f32(std::string_view, int64_t, int64_t, std::span<float> out) const override { std::ranges::fill(out, 0.0f); }

 private:
  std::vector<TensorInfo> tensors_;
};

/// A layer of Llama with 4 channels, 2 heads of 2, 1 KV head, 6 neurons; `change` has other shapes.
std::vector<TensorInfo> llama_layer(const std::map<std::string, std::vector<int64_t>>& change) {
  std::map<std::string, std::vector<int64_t>> shapes = {
      {"input_layernorm", {4}},     {"self_attn.q_proj", {4, 4}}, {"self_attn.k_proj", {2, 4}},
      {"self_attn.v_proj", {2, 4}}, {"self_attn.o_proj", {4, 4}}, {"post_attention_layernorm", {4}},
      {"mlp.gate_proj", {6, 4}},    {"mlp.up_proj", {6, 4}},      {"mlp.down_proj", {4, 6}}};
  for (const auto& [name, shape] : change) shapes[name] = shape;
  std::vector<TensorInfo> tensors;
  for (const auto& [name, shape] : shapes) tensors.push_back({"model.layers.0." + name + ".weight", DType::f32, shape});
  return tensors;
}

}  // namespace

TEST_CASE("smoothing refuses tensors that do not fit together") {
  const Json config = {{"model_type", "llama"}, {"num_attention_heads", 2}, {"num_key_value_heads", 1}};
  const auto all = [](const std::string&) { return true; };
  const auto sites = [&](const std::map<std::string, std::vector<int64_t>>& change) {
    return smooth_sites(config, Zeros(llama_layer(change)), all).size();
  };
  CHECK(sites({}) == 4);
  CHECK_THROWS_AS(sites({{"input_layernorm", {3}}}), FormatError);
  CHECK_THROWS_AS(sites({{"input_layernorm", {}}}), FormatError);
  CHECK_THROWS_AS(sites({{"self_attn.k_proj", {2, 5}}}), FormatError);
  CHECK_THROWS_AS(sites({{"post_attention_layernorm", {8}}}), FormatError);
  CHECK_THROWS_AS(sites({{"mlp.gate_proj", {6, 4, 1}}}), FormatError);
  CHECK_THROWS_AS(sites({{"mlp.down_proj", {4, 7}}}), FormatError);
  const auto some = [](const std::string& name) { return name.find("k_proj") == std::string::npos; };
  CHECK_THROWS_AS(smooth_sites(config, Zeros(llama_layer({{"self_attn.k_proj", {8}}})), some), FormatError);
  CHECK_THROWS_AS(smooth_sites({{"model_type", 5}}, Zeros(llama_layer({})), all), UsageError);
  CHECK_THROWS_AS(smooth_sites({{"model_type", "llama"}, {"num_attention_heads", "2"}}, Zeros(llama_layer({})), all),
                  FormatError);
}

TEST_CASE("gptq gives the codes and the loss of an implementation from the paper") {
  const SafetensorsFile golden(kGolden);
  for (const std::string name : {"plain", "groups", "ordered"}) {
    INFO(name);
    std::vector<float> weight = copy_of(golden.values<float>(name + ".weight"));
    const std::vector<float> hessian = copy_of(golden.values<float>(name + ".hessian")),
                             scales = copy_of(golden.values<float>(name + ".scales"));
    const auto options = golden.values<double>(name + ".options");
    const int64_t rows = golden.info(name + ".weight").shape[0], columns = golden.info(name + ".weight").shape[1];
    const auto factor = hessian_factor(hessian, columns, {options[0], options[1] != 0});
    REQUIRE(factor);
    std::vector<int8_t> codes(weight.size());
    const double loss = gptq_rows(*factor, weight, scales, rows, codes);
    CHECK(loss == Approx(golden.values<double>(name + ".loss")[0]).epsilon(1e-3));
    const auto expected = golden.values<int8_t>(name + ".codes");
    int64_t different = 0, furthest = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      different += codes[i] != expected[i];
      furthest = std::max<int64_t>(furthest, std::abs(int(codes[i]) - int(expected[i])));
    }
    CHECK(different <= int64_t(codes.size()) / 200);
    CHECK(furthest <= 1);
  }
}

TEST_CASE("gptq's output error is below that of rounding, for correlated inputs, and its loss is that error") {
  for (const int64_t n : {5, 64, 65, 130}) {
    const int64_t rows = 37;
    const std::vector<float> weight = normals(size_t(rows * n), "weight"), hessian = correlated_hessian(n, "mix"),
                             scales = row_scales(weight, rows, n);
    std::vector<float> plain = weight, better = weight;
    for (int64_t i = 0; i < rows * n; ++i)
      plain[size_t(i)] = int8_value(int8_code(weight[size_t(i)], scales[size_t(i / n)]), scales[size_t(i / n)]);
    const auto factor = hessian_factor(hessian, n, {1e-4, false});
    REQUIRE(factor);
    std::vector<int8_t> codes(weight.size());
    const double loss = gptq_rows(*factor, better, scales, rows, codes);
    const double by_rounding = output_error(weight, plain, hessian, rows, n),
                 by_gptq = output_error(weight, better, hessian, rows, n);
    CAPTURE(n, by_rounding, by_gptq);
    CHECK(by_gptq < 0.9 * by_rounding);
    double weight_error = 0;
    for (size_t i = 0; i < weight.size(); ++i) weight_error += std::pow(double(weight[i]) - better[i], 2);
    CHECK(loss == Approx(by_gptq + factor->damping * weight_error).epsilon(0.01));
  }
}

TEST_CASE("gptq's factor is the inverse's, for any number of threads, and its rows are independent") {
  const int64_t n = 150, rows = 70;
  const std::vector<float> hessian = correlated_hessian(n, "mix");
  set_thread_count(1);
  const auto one = hessian_factor(hessian, n, {0.01, true});
  set_thread_count(2);
  const auto two = hessian_factor(hessian, n, {0.01, true});
  set_thread_count(0);
  REQUIRE(one->upper == two->upper);
  REQUIRE(one->diagonal == two->diagonal);
  // U^T U (H + damping) = 1.
  std::vector<double> u(size_t(n * n)), product(size_t(n * n));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i; j < n; ++j) u[size_t(i * n + j)] = double(one->upper[size_t(i * n + j)]) * one->diagonal[size_t(i)];
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k <= i; ++k)
      for (int64_t j = k; j < n; ++j) product[size_t(i * n + j)] += u[size_t(k * n + i)] * u[size_t(k * n + j)];
  double worst = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < n; ++k)
        sum += product[size_t(i * n + k)] *
               (hessian[size_t(one->order[size_t(k)] * n + one->order[size_t(j)])] + (k == j ? one->damping : 0));
      worst = std::max(worst, std::abs(sum - (i == j)));
    }
  CHECK(worst < 1e-3);

  std::vector<float> whole = normals(size_t(rows * n), "weight"), scales = row_scales(whole, rows, n), parts = whole;
  std::vector<int8_t> codes(whole.size()), codes_of_parts(whole.size());
  gptq_rows(*one, whole, scales, rows, codes);
  for (int64_t r = 0; r < rows; r += 7)
    gptq_rows(*one, std::span(parts).subspan(size_t(r * n), size_t(7 * n)), std::span(scales).subspan(size_t(r), 7), 7,
              std::span(codes_of_parts).subspan(size_t(r * n), size_t(7 * n)));
  CHECK(codes == codes_of_parts);
  CHECK(whole == parts);
}

TEST_CASE("a Hessian that cannot be factored is damped more, or not used") {
  const int64_t n = 80;
  std::vector<float> singular(size_t(n * n), 1.0f);  // rank one
  const auto factor = hessian_factor(singular, n, {1e-9, false});
  REQUIRE(factor);
  CHECK(std::isfinite(factor->diagonal[n - 1]));
  CHECK(hessian_factor(std::vector<float>(size_t(n * n), 0.0f), n, {}) == nullptr);
  singular[3] = singular[size_t(3 * n)] = -1e30f;  // symmetric, far from positive definite
  CHECK(hessian_factor(singular, n, {}) == nullptr);
}

TEST_CASE("products are sums in ascending order, whatever the shape") {
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {3, 17, 5}, {9, 40, 300}, {4, 16, 256}, {6, 15, 513}}) {
    const std::vector<float> a = normals(size_t(m * k), "a"), b = normals(size_t(k * n), "b");
    std::vector<float> c = normals(size_t(m * n), "c"), expected = c;
    for (int64_t r = 0; r < m; ++r)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t i = 0; i < k; ++i) {
          volatile const float product = a[size_t(r * k + i)] * b[size_t(i * n + j)];  // rounded on its own
          expected[size_t(r * n + j)] -= product;
        }
    subtract_product(c.data(), n, a.data(), k, b.data(), n, m, n, k);
    CHECK(c == expected);
  }
}

TEST_CASE("smoothing factors are those of the paper's equation 4") {
  const SafetensorsFile golden(kGolden);
  const auto amax_x = golden.values<float>("smooth.amax_x"), amax_w = golden.values<float>("smooth.amax_w");
  for (const char* strength : {"0.0", "0.3", "0.5", "0.85", "1.0"}) {
    const std::vector<double> factors = smooth_factors(amax_x, amax_w, std::stod(strength));
    const auto expected = golden.values<double>(std::string("smooth.") + strength);
    for (size_t j = 0; j < factors.size(); ++j) CHECK(factors[j] == Approx(expected[j]).epsilon(1e-6));
  }
}

TEST_CASE("statistics of a smoothed input keep amax exact and widen the range of the samples to it") {
  LinearStatistics s;
  s.columns = 3;
  s.amax = {8, 1, 2};
  s.sample_rows = 2;
  s.samples = {-2, 0.5f, 0, 4, -0.25f, 0};
  s.hessian = {4, 2, 1, 2, 9, 3, 1, 3, 16};
  smooth_statistics(s, std::vector<float>{4, 0.5f, 1});
  CHECK(s.amax == std::vector<float>{2, 2, 2});
  CHECK(s.samples == std::vector<float>{-0.5f, 1, 0, 1, -0.5f, 0});
  CHECK(s.largest == 2.0f);  // channel 0 was seen up to 1, its amax is 2
  CHECK(s.least == -2.0f);   // channel 2 was never seen: it may go either way
  CHECK(s.hessian == std::vector<float>{0.25f, 1, 0.25f, 1, 36, 6, 0.25f, 6, 16});
}
