// Windows that the student continues.

#include "distill/on_policy.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "distill/repeats.h"
#include "distill/training.h"
#include "teacher/signal.h"
#include "tests/distill/random_batches.h"

namespace overproof {
namespace {

constexpr int64_t kBatch = 3;

/// The windows of RandomBatches, of which so many labels at the beginning do not count.
class MaskedBatches final : public BatchSource {
 public:
  MaskedBatches(const ModelConfig& c, int64_t masked) : inner_(kBatch, c.vocab_size, 8), masked_(masked) {}
  int64_t steps() const override { return inner_.steps(); }
  int64_t step_tokens() const override { return inner_.step_tokens(); }
  double step_weight(int64_t) const override { return double(kBatch * (kLength - masked_)); }
  const std::vector<std::string>& source_names() const override { return inner_.source_names(); }
  TokenBatch at(int64_t step) const override {
    TokenBatch b = inner_.at(step);
    for (int64_t row = 0; row < b.batch; ++row) {
      std::fill_n(b.weight.begin() + row * kLength, masked_, 0.0f);
      std::fill_n(b.segment.begin() + row * kLength + 4, kLength - 4, 1);  // a second document begins after four ids
    }
    return b;
  }

 private:
  RandomBatches inner_;
  int64_t masked_;
};

OnPolicyBatches batches_of(const Decoder& student, const OnPolicyOptions& options, std::set<int32_t> ends = {}, int64_t masked = 0,
                           uint64_t seed = 5) {
  return OnPolicyBatches(std::make_unique<MaskedBatches>(student.config(), masked), student, std::move(ends), options, seed);
}

/// The most probable id after each input of the batch, by the decoder, [batch x length].
std::vector<int64_t> likeliest(const Decoder& student, const TokenBatch& batch) {
  at::NoGradGuard no_grad;
  ForwardOptions options;
  options.segments = input_segments(batch, 0, batch.batch);
  const at::Tensor best = student.logits(student.hidden(input_ids(batch, 0, batch.batch), options)).argmax(-1);
  return {best.const_data_ptr<int64_t>(), best.const_data_ptr<int64_t>() + best.numel()};
}

}  // namespace

TEST_CASE("at temperature 0 the student continues a window with what the decoder finds most probable") {
  const ModelConfig config = GENERATE(random_dense_config(), random_moe_config());
  const Decoder student = small_model(config);
  const OnPolicyBatches batches = batches_of(student, {.share = 1, .prompt = 6, .tokens = 7, .temperature = 0});
  const TokenBatch window = MaskedBatches(config, 0).at(2), batch = batches.at(2);
  CHECK(batch.numbers == window.numbers);
  CHECK(batch.source == window.source);
  CHECK(batch.total_weight() == kBatch * 7);
  TokenBatch joined = batch;  // prompt and continuation are one text: a segment of the prompt's last id
  const std::vector<int64_t> best = likeliest(student, joined);
  for (int64_t b = 0; b < kBatch; ++b) {
    const auto old = window.sequence_ids(b), now = batch.sequence_ids(b);
    for (int64_t i = 0; i <= kLength; ++i) {
      const bool drawn = i >= 6 && i < 13;
      if (drawn) CHECK(now[size_t(i)] == best[size_t(b * kLength + i - 1)]);
      else CHECK(now[size_t(i)] == old[size_t(i)]);
      if (i < kLength) CHECK(batch.weight[size_t(b * kLength + i)] == (i >= 5 && i < 12 ? 1.0f : 0.0f));
    }
  }
}

TEST_CASE("an end id ends what the student writes, and counts itself") {
  const Decoder student = small_model(random_moe_config());
  const OnPolicyOptions options{.share = 1, .prompt = 3, .tokens = 64, .temperature = 1};
  const TokenBatch open = batches_of(student, options).at(0);
  CHECK(open.total_weight() == kBatch * (kLength + 1 - 3));  // as far as the window goes
  const auto end = int32_t(open.sequence_ids(1)[7]);
  const TokenBatch ended = batches_of(student, options, {end}).at(0);
  for (int64_t b = 0; b < kBatch; ++b) {
    const auto ids = open.sequence_ids(b);
    const auto first = std::find(ids.begin() + 3, ids.end(), end);
    const auto written = std::min<int64_t>(first - ids.begin() + 1, kLength + 1) - 3;
    const auto weight = std::span(ended.weight).subspan(size_t(b * kLength), size_t(kLength));
    CHECK(std::count(weight.begin(), weight.end(), 1.0f) == written);
    CHECK(std::equal(ids.begin(), ids.begin() + 3 + written, ended.sequence_ids(b).begin()));
    const std::vector<int64_t> window = MaskedBatches(student.config(), 0).at(0).ids;
    CHECK(std::equal(ended.sequence_ids(b).begin() + 3 + written, ended.sequence_ids(b).end(), window.begin() + b * (kLength + 1) + 3 + written));
  }
}

TEST_CASE("labels that do not count before an answer are its prompt, and draws depend on seed and place alone") {
  const Decoder student = small_model(random_dense_config());
  const OnPolicyOptions options{.share = 1, .prompt = 2, .tokens = 4, .temperature = 1};
  const TokenBatch batch = batches_of(student, options, {}, 9).at(1);
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t i = 0; i < kLength; ++i) CHECK(batch.weight[size_t(b * kLength + i)] == (i >= 9 && i < 13 ? 1.0f : 0.0f));
  CHECK(batches_of(student, options, {}, 9).at(1).ids == batch.ids);
  CHECK(batches_of(student, options, {}, 9, 6).at(1).ids != batch.ids);
  const TokenBatch all_masked = batches_of(student, options, {}, kLength).at(1);  // no label counts: the least prompt
  CHECK(all_masked.weight[1] == 1.0f);
}

TEST_CASE("steps in which the student writes are spread evenly; the others are the windows") {
  const Decoder student = small_model(random_dense_config());
  const OnPolicyBatches batches = batches_of(student, {.share = 0.25, .prompt = 2, .tokens = 4, .temperature = 0});
  std::vector<int64_t> written;
  for (int64_t s = 0; s < batches.steps(); ++s) {
    if (!batches.follows(s)) written.push_back(s);
    else CHECK(batches.at(s).ids == MaskedBatches(student.config(), 0).at(s).ids);
  }
  CHECK(written == std::vector<int64_t>{3, 7});
}

TEST_CASE("a repeated label completes a run that the student had written before, in the same text") {
  const int64_t length = 14;
  TokenBatch b{.batch = 2, .length = length};
  //  labels:        1  2  3  1  2  3  1  2 | 1  2  3  9  2  3   (the last six are another text)
  b.ids = {7, 1, 2, 3, 1, 2, 3, 1, 2, 1, 2, 3, 9, 2, 3, 7, 1, 2, 3, 1, 2, 3, 1, 2, 1, 2, 3, 9, 2, 3};
  b.weight.assign(size_t(2 * length), 1.0f);
  b.segment.assign(size_t(2 * length), 0);
  std::fill(b.segment.begin() + 8, b.segment.begin() + length, 1);
  std::fill_n(b.weight.begin() + length, 3, 0.0f);  // of the second sequence the first three labels are the prompt
  const auto of = [&](int64_t first, int64_t count, int64_t run) {
    const std::vector<float> found = repeated_labels(b, first, count, run);
    return std::vector<int>(found.begin(), found.end());
  };
  CHECK(of(0, 1, 3) == std::vector<int>{0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0});
  CHECK(of(0, 1, 2) == std::vector<int>{0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1});
  CHECK(of(0, 1, 1) == std::vector<int>{0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1});
  CHECK(of(0, 1, 9) == std::vector<int>(size_t(length), 0));
  // runs of the prompt do not count, and the text is one segment
  CHECK(of(1, 1, 3) == std::vector<int>{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0});
  std::vector<int> both = of(0, 1, 2), second = of(1, 1, 2);
  both.insert(both.end(), second.begin(), second.end());
  CHECK(of(0, 2, 2) == both);
}

TEST_CASE("unlikelihood of what a student wrote makes its repetitions less probable, more than the rest of it") {
  const ModelConfig config = GENERATE(random_dense_config(), random_moe_config());
  const OnPolicyOptions greedy{.share = 1, .prompt = 2, .tokens = 14, .temperature = 0};
  auto student = std::make_unique<Decoder>(small_model(config));
  const auto teacher = std::make_shared<const Decoder>(small_model(config));
  auto batches = std::make_unique<OnPolicyBatches>(std::make_unique<RandomBatches>(8, config.vocab_size, 8), *student, std::set<int32_t>{}, greedy, 5);
  const TokenBatch written = batches->at(0);
  const std::vector<float> repeated = repeated_labels(written, 0, 8, 2);
  REQUIRE(std::count(repeated.begin(), repeated.end(), 1.0f) > 20);
  /// The mean probability of the labels that are (1) or are not (0) repetitions.
  const auto mean_probability = [&](const Decoder& model, float which) {
    at::NoGradGuard no_grad;
    ForwardOptions options;
    options.segments = input_segments(written, 0, 8);
    const at::Tensor q = at::softmax(model.logits(model.hidden(input_ids(written, 0, 8), options)).view({8 * kLength, -1}), 1);
    double sum = 0, count = 0;
    for (int64_t row = 0; row < 8 * kLength; ++row) {
      if (written.weight[size_t(row)] == 0 || repeated[size_t(row)] != which) continue;
      sum += q[row][written.sequence_ids(row / kLength)[size_t(row % kLength) + 1]].item<double>();
      ++count;
    }
    return sum / count;
  };
  const double before = mean_probability(*teacher, 1), others = mean_probability(*teacher, 0);
  TrainOptions options{.batch_size = 8, .micro_batch = 4, .learning_rate = 1e-3, .schedule = Schedule::constant};
  options.train = {"all"};
  Training training(std::move(student), std::move(batches), live_signal(teacher), {{&kUnlikelihood, 1.0, 2.0}, {&kForwardKl, 0.1}}, options);
  const StepRecord first = training.step();
  CHECK(first.terms[0] > 0);
  for (int64_t s = 1; s < 8; ++s) training.step();
  const double after = mean_probability(training.student(), 1), others_after = mean_probability(training.student(), 0);
  INFO(before << " " << after << " " << others << " " << others_after);
  CHECK(after < 0.7 * before);
  CHECK(after / before < 0.8 * others_after / others);
}

TEST_CASE("what follows behind what the student wrote is not computed, and loss and gradient are those of the whole window") {
  const ModelConfig config = GENERATE(random_dense_config(), random_moe_config());
  Decoder student = small_model(config);
  const auto teacher = std::make_shared<const Decoder>(config, RandomSource(config));
  const auto signal = live_signal(teacher);
  TokenBatch batch = batches_of(student, {.share = 1, .prompt = 4, .tokens = 5, .temperature = 1}).at(0);
  const TokenBatch part = batch.used_part(1, 2);
  CHECK((part.batch == 2 && part.length == 8));
  CHECK(part.numbers == std::vector<int64_t>(batch.numbers.begin() + 1, batch.numbers.end()));
  for (int64_t b = 0; b < 2; ++b) {
    CHECK(std::ranges::equal(part.sequence_ids(b), batch.sequence_ids(b + 1).first(9)));
    for (int64_t t = 0; t < 8; ++t) {
      CHECK(part.weight[size_t(b * 8 + t)] == batch.weight[size_t((b + 1) * kLength + t)]);
      CHECK(part.segment[size_t(b * 8 + t)] == batch.segment[size_t((b + 1) * kLength + t)]);
      CHECK(part.source[size_t(b * 8 + t)] == batch.source[size_t((b + 1) * kLength + t)]);
    }
  }
  TrainOptions options{.batch_size = kBatch, .micro_batch = 2};
  options.train = {"all"};
  Trainer trainer(student, options);
  int64_t columns = 0;
  const auto gradients = [&] {
    std::vector<at::Tensor> loads, all;
    LossOptions of_loss;
    const LossSums sums = trainer.accumulate_gradients(
        batch,
        [&](const Trainer::Pass& pass) {
          columns = pass.batch.length;
          of_loss.grad_scale = pass.grad_scale;
          return batch_loss(pass.batch, *signal, pass.first, pass.count, pass.hidden, student.head(), of_loss, pass.d_hidden, pass.d_head);
        },
        loads);
    all.push_back(at::tensor(sums.values));
    for (const NamedTensor& t : student.parameters())
      if (t.tensor.grad().defined()) all.push_back(t.tensor.grad().clone());
    return all;
  };
  const std::vector<at::Tensor> of_part = gradients();
  CHECK(columns == 8);
  batch.advantage.clear();  // a window of the corpus has none
  const std::vector<at::Tensor> of_whole = gradients();
  CHECK(columns == kLength);
  REQUIRE((of_part.size() == of_whole.size() && of_part.size() > 5));
  for (size_t i = 0; i < of_part.size(); ++i) CHECK(at::allclose(of_part[i], of_whole[i], 1e-4, 1e-6));
}

}  // namespace overproof
