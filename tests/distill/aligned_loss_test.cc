#include "distill/losses/aligned.h"

#include <ATen/ATen.h>

#include <catch2/catch.hpp>

#include "core/error.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

const fs::path kAlignment = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/alignment/alignment.safetensors";

/// The states and rows of the golden file.
struct Golden {
  SafetensorsFile file{kAlignment};
  AlignedStates states;
  RowLabels rows;
  Golden() {
    states.hidden = tensor("teacher_hidden");
    states.head = tensor("teacher_head");
    const auto labels = file.values<int64_t>("teacher_labels"), spans = file.values<int64_t>("spans");
    states.labels.assign(labels.begin(), labels.end());
    for (size_t i = 0; i < spans.size(); i += 4) states.spans.push_back({spans[i], spans[i + 1], spans[i + 2], spans[i + 3]});
    const auto common = file.values<int32_t>("common");
    auto pairs = std::make_shared<std::vector<std::pair<int32_t, int32_t>>>();
    for (size_t i = 0; i < common.size(); i += 2) pairs->emplace_back(common[i], common[i + 1]);
    states.common = pairs;
    rows = {file.values<int64_t>("labels"), file.values<float>("weight")};
  }
  at::Tensor tensor(const std::string& name) const {
    const auto values = file.values<float>(name);
    return at::from_blob(const_cast<float*>(values.data()), file.info(name).shape, at::kFloat).clone();
  }
};

struct Computed {
  LossSums sums;
  at::Tensor d_hidden, d_head;
};

Computed aligned(const at::Tensor& hidden, const at::Tensor& head, const AlignedStates& states, const RowLabels& rows, LossTerms terms) {
  Computed out;
  out.d_head = at::zeros_like(head);
  LossOptions options;
  options.terms = std::move(terms);
  out.sums = aligned_loss(hidden, head, states, rows, options, &out.d_hidden, &out.d_head);
  return out;
}

double most_apart(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace

TEST_CASE("losses towards a teacher of another tokenizer are PyTorch autograd's") {
  const Golden golden;
  const at::Tensor hidden = golden.tensor("hidden"), head = golden.tensor("head");
  const auto cases = golden.file.values<double>("cases");
  for (size_t c = 0; c < cases.size() / 3; ++c) {
    INFO(c);
    const auto [sums, d_hidden, d_head] =
        aligned(hidden, head, golden.states, golden.rows, {{&kCrossEntropy, cases[3 * c + 2]}, {&kMergedKl, cases[3 * c]}, {&kUniversal, cases[3 * c + 1]}});
    const auto expected = golden.file.values<double>(std::to_string(c) + ".values");
    for (size_t t = 0; t < 3; ++t) CHECK(sums.values[t] == Approx(expected[t]).epsilon(3e-6));
    double weight = 0;
    for (const float w : golden.rows.weight) weight += double(w);
    CHECK(sums.weight == Approx(weight).epsilon(1e-12));
    CHECK(most_apart(d_hidden, golden.tensor(std::to_string(c) + ".d_hidden")) < 2e-5);
    CHECK(most_apart(d_head, golden.tensor(std::to_string(c) + ".d_head")) < 2e-5);
  }
}

TEST_CASE("with one vocabulary and a span for each token, merged-kl is forward-kl") {
  at::manual_seed(11);
  const int64_t rows = 300, vocab = 61;  // more than a chunk
  const at::Tensor hidden = at::randn({rows, 12}), head = at::randn({vocab, 12}), teacher = at::randn({rows, 9}), its_head = at::randn({vocab, 9});
  std::vector<int64_t> labels;
  std::vector<float> weight;
  AlignedStates states{.hidden = teacher, .head = its_head};
  for (int64_t r = 0; r < rows; ++r) {
    labels.push_back(r * 7 % vocab);
    weight.push_back(float(r % 4) / 3);
    states.spans.push_back({r, r + 1, r, r + 1});
  }
  states.labels = labels;
  auto pairs = std::make_shared<std::vector<std::pair<int32_t, int32_t>>>();
  for (int32_t id = 0; id < vocab; ++id) pairs->emplace_back(id, id);
  states.common = pairs;
  const RowLabels of_rows{labels, weight};
  const Computed merged = aligned(hidden, head, states, of_rows, {{&kMergedKl, 0.7}, {&kCrossEntropy, 0.3}, {&kUniversal, 0.2}});
  LossOptions options;
  options.terms = {{&kForwardKl, 0.7}, {&kCrossEntropy, 0.3}, {&kUniversal, 0.2}};
  Computed plain;
  plain.d_head = at::zeros_like(head);
  plain.sums = chunked_loss(hidden, head, {.states = {{teacher, its_head}}}, 0, of_rows, options, &plain.d_hidden, &plain.d_head);
  for (size_t t = 0; t < 3; ++t) CHECK(merged.sums.values[t] == Approx(plain.sums.values[t]).epsilon(1e-6));
  CHECK(merged.sums.weight == Approx(plain.sums.weight).epsilon(1e-12));
  CHECK(most_apart(merged.d_hidden, plain.d_hidden) < 2e-6);
  CHECK(most_apart(merged.d_head, plain.d_head) < 2e-5);
}

TEST_CASE("merged-kl is never below zero, and zero with no gradient where student and teacher agree") {
  at::manual_seed(12);
  const Golden golden;
  const at::Tensor head = golden.tensor("teacher_head"), hidden = golden.tensor("teacher_hidden");
  AlignedStates states = golden.states;
  const auto count = int64_t(states.labels.size());
  // The teacher as its own student, with spans of one and of several tokens.
  states.spans = {{0, 1, 0, 1}, {1, 4, 1, 4}, {5, 7, 5, 7}, {8, 9, 8, 9}};
  auto pairs = std::make_shared<std::vector<std::pair<int32_t, int32_t>>>();
  for (int32_t id = 0; id < int32_t(head.size(0)); id += 2) pairs->emplace_back(id, id);  // half of the ids
  states.common = pairs;
  const RowLabels rows{states.labels, {}};
  const Computed equal = aligned(hidden, head, states, rows, {{&kMergedKl, 1.0}});
  CHECK(std::abs(equal.sums.values[0]) < 1e-5);
  CHECK(equal.d_hidden.abs().max().item<double>() < 1e-5);
  CHECK(equal.sums.weight == double(count));
  for (const double size : {1e-3, 0.1, 3.0, 40.0}) {
    const Computed other = aligned(hidden + size * at::randn_like(hidden), head, states, rows, {{&kMergedKl, 1.0}});
    CHECK(other.sums.values[0] >= 0);
    CHECK(std::isfinite(other.sums.values[0]));
    CHECK(at::isfinite(other.d_hidden).all().item<bool>());
  }
}

TEST_CASE("without a span there is no loss but that of labels") {
  Golden golden;
  golden.states.spans.clear();
  golden.states.hidden = golden.states.hidden.narrow(0, 0, 0);
  golden.states.labels.clear();
  const at::Tensor hidden = golden.tensor("hidden"), head = golden.tensor("head");
  const Computed none = aligned(hidden, head, golden.states, golden.rows, {{&kMergedKl, 1.0}, {&kUniversal, 1.0}});
  CHECK(none.sums.total({{&kMergedKl, 1.0}, {&kUniversal, 1.0}}) == 0);
  CHECK(none.d_hidden.abs().max().item<double>() == 0);
  const Computed labels = aligned(hidden, head, golden.states, golden.rows, {{&kCrossEntropy, 1.0}});
  CHECK(labels.sums.values[0] > 0);
  CHECK(labels.d_hidden.abs().max().item<double>() > 0);
}

}  // namespace overproof
