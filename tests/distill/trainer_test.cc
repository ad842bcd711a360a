// The trainer alone: gradients, balancing, several ranks.

#include "distill/trainer.h"
#include "formats/never_chosen.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "distill/training.h"
#include "tests/model/random_model.h"

namespace overproof {
namespace {

constexpr int64_t kLength = 16;

/// Random windows: no corpus is needed to train.
class RandomBatches final : public BatchSource {
 public:
  RandomBatches(int64_t batch, int64_t vocab, int64_t steps) : batch_(batch), vocab_(vocab), steps_(steps) {}
  int64_t steps() const override { return steps_; }
  int64_t step_tokens() const override { return batch_ * kLength; }
  double step_weight(int64_t) const override { return double(step_tokens()); }
  const std::vector<std::string>& source_names() const override { return names_; }
  TokenBatch at(int64_t step) const override {
    Rng rng(3, "test/batch", uint64_t(step));
    TokenBatch b;
    b.batch = batch_;
    b.length = kLength;
    for (int64_t i = 0; i < batch_; ++i) b.numbers.push_back(step * batch_ + i);
    for (int64_t i = 0; i < batch_ * (kLength + 1); ++i) b.ids.push_back(int64_t(rng.below(uint64_t(vocab_))));
    b.weight.assign(size_t(b.tokens()), 1.0f);
    b.segment.assign(size_t(b.tokens()), 0);
    for (int64_t i = 0; i < b.tokens(); ++i) b.source.push_back(int32_t(rng.below(2)));
    return b;
  }

 private:
  std::vector<std::string> names_ = {"a", "b"};
  int64_t batch_, vocab_, steps_;
};

/// A model whose weights are small enough to train.
Decoder small_model(ModelConfig config) {
  Decoder model(config, RandomSource(config));
  at::NoGradGuard no_grad;
  for (NamedTensor& t : model.parameters())
    if (t.tensor.dim() > 1) t.tensor.mul_(0.2);
  return model;
}

TrainOptions all_weights(int64_t batch, int64_t micro_batch) {
  TrainOptions options;
  options.batch_size = batch;
  options.micro_batch = micro_batch;
  options.train = {"all"};
  options.balance_rate = 1e-2;
  return options;
}

std::vector<at::Tensor> gradients(ModelConfig config, int64_t micro_batch, const TokenBatch& batch) {
  Decoder student = small_model(config);
  const auto signal = live_signal(std::make_shared<const Decoder>(small_model(random_dense_config())));
  Trainer trainer(student, all_weights(batch.batch, micro_batch));
  std::vector<at::Tensor> loads, list;
  LossOptions options;
  options.terms = {{&kForwardKl, 0.7}, {&kCrossEntropy, 0.3}};
  trainer.accumulate_gradients(
      batch,
      [&](int64_t first, int64_t count, const at::Tensor& hidden, double scale, at::Tensor* d_hidden, at::Tensor* d_head) {
        options.grad_scale = scale;
        return batch_loss(batch, *signal, first, count, hidden, student.head(), options, d_hidden, d_head);
      },
      loads);
  for (const NamedTensor& t : student.parameters())
    if (t.tensor.requires_grad()) list.push_back(t.tensor.grad().clone());
  return list;
}

double largest_difference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double scale = std::max(1e-6, a[i].abs().max().item<double>());
    most = std::max(most, (a[i] - b[i]).abs().max().item<double>() / scale);
  }
  return most;
}

/// Ranks that are threads of this process.
class ThreadGroup {
 public:
  explicit ThreadGroup(int64_t size) : size_(size), parts_(size_t(size)) {}

  /// Each rank's part in, the sums in the order of ranks out.
  template <class T>
  void sum(int64_t rank, std::span<T> values) {
    parts_[size_t(rank)] = values.data();
    wait();
    std::vector<T> total(values.begin(), values.end());
    for (size_t i = 0; i < total.size(); ++i) {
      total[i] = 0;
      for (const void* part : parts_) total[i] += static_cast<const T*>(part)[i];
    }
    wait();
    std::copy(total.begin(), total.end(), values.begin());
    wait();
  }

  class Rank final : public Group {
   public:
    Rank(ThreadGroup& all, int64_t rank) : all_(all), rank_(rank) {}
    int64_t rank() const override { return rank_; }
    int64_t size() const override { return all_.size_; }
    void all_reduce(std::span<float> values) const override { all_.sum(rank_, values); }
    void all_reduce(std::span<double> values) const override { all_.sum(rank_, values); }
    void all_reduce(std::span<int64_t> values) const override { all_.sum(rank_, values); }
    std::vector<std::vector<std::byte>> all_to_all(const std::vector<std::vector<std::byte>>&) const override {
      throw std::logic_error("the trainer needs no all_to_all");
    }
    void broadcast(std::span<std::byte>, int64_t) const override { throw std::logic_error("the trainer needs no broadcast"); }

   private:
    ThreadGroup& all_;
    int64_t rank_;
  };

 private:
  void wait() {
    std::unique_lock lock(mutex_);
    const int64_t round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    } else {
      changed_.wait(lock, [&] { return round_ != round; });
    }
  }
  int64_t size_, arrived_ = 0, round_ = 0;
  std::vector<const void*> parts_;
  std::mutex mutex_;
  std::condition_variable changed_;
};

Training make_training(int64_t micro_batch, std::shared_ptr<const Group> group, int64_t batch = 5) {
  return Training(std::make_unique<Decoder>(small_model(random_moe_config())), std::make_unique<RandomBatches>(batch, 97, 3),
                  live_signal(std::make_shared<const Decoder>(small_model(random_dense_config()))),
                  {{&kForwardKl, 0.7}, {&kCrossEntropy, 0.3}}, all_weights(batch, micro_batch), std::move(group));
}

std::vector<at::Tensor> copies(const std::vector<NamedTensor>& state) {
  std::vector<at::Tensor> list;
  for (const NamedTensor& t : state) list.push_back(t.tensor.to(at::kFloat).clone());
  return list;
}

}  // namespace

TEST_CASE("the gradient of a batch does not depend on the micro-batch") {
  // The dense model has tied embeddings: the head's gradient and the embedding's go to one tensor.
  for (const ModelConfig& config : {random_dense_config(), random_moe_config()}) {
    const TokenBatch batch = RandomBatches(4, 97, 1).at(0);
    const std::vector<at::Tensor> whole = gradients(config, 4, batch);
    CHECK(whole.size() > 10);
    for (const int64_t micro_batch : {1, 2, 3}) CHECK(largest_difference(whole, gradients(config, micro_batch, batch)) < 2e-4);
  }
}

TEST_CASE("a weight scales a token's part of the gradient, and 0 takes it out") {
  TokenBatch batch = RandomBatches(2, 97, 1).at(0);
  std::vector<at::Tensor> first_only;
  {
    TokenBatch one = batch;
    one.batch = 1;
    one.numbers.resize(1);
    one.ids.resize(size_t(kLength + 1));
    one.weight.resize(size_t(kLength));
    one.segment.resize(size_t(kLength));
    one.source.resize(size_t(kLength));
    first_only = gradients(random_dense_config(), 2, one);
  }
  std::fill(batch.weight.begin() + kLength, batch.weight.end(), 0.0f);
  CHECK(largest_difference(first_only, gradients(random_dense_config(), 2, batch)) < 2e-4);
  std::fill(batch.weight.begin(), batch.weight.begin() + kLength, 0.5f);  // only proportions matter
  CHECK(largest_difference(first_only, gradients(random_dense_config(), 2, batch)) < 2e-4);
}

TEST_CASE("balancing raises the bias of experts with less than the mean load and keeps its mean") {
  at::Tensor bias = at::zeros({4});
  balance_bias(bias, at::tensor({10, 0, 5, 5}, at::kLong), 0.1);
  CHECK(at::allclose(bias, at::tensor({-0.1f, 0.1f, 0.0f, 0.0f})));
  bias = at::tensor({0.3f, -0.1f, -0.1f, -0.1f});
  balance_bias(bias, at::tensor({100, 1, 1, 1}, at::kLong), 0.1);
  CHECK(bias[0].item<float>() < 0.3f);
  CHECK(bias[1].item<float>() > -0.1f);
  CHECK(std::abs(bias.mean().item<float>()) < 1e-6f);
}

TEST_CASE("places without an expert keep their bias, and the others their digits") {
  const auto balanced = [](float dead) {
    at::Tensor bias = at::tensor({0.25f, dead, -0.25f, dead});
    balance_bias(bias, at::tensor({10, 0, 2, 0}, at::kLong), 0.001);
    return bias;
  };
  const at::Tensor bias = balanced(kNeverChosen);
  CHECK(bias[1].item<float>() == kNeverChosen);
  CHECK(bias[3].item<float>() == kNeverChosen);
  CHECK(std::abs(bias[0].item<float>() - 0.249f) < 1e-6f);
  CHECK(std::abs(bias[2].item<float>() + 0.249f) < 1e-6f);
  // A bias that training reaches is a live one.
  CHECK(std::abs(balanced(-100.0f).sum().item<float>()) < 1e-4f);
  at::Tensor none = at::full({2}, kNeverChosen);
  balance_bias(none, at::tensor({1, 2}, at::kLong), 0.1);
  CHECK(none.eq(kNeverChosen).all().item<bool>());
}

TEST_CASE("two ranks train as one process does, and end each step with the same weights") {
  Training alone = make_training(5, single_process_group());
  std::vector<StepRecord> expected;
  for (int s = 0; s < 3; ++s) expected.push_back(alone.step());

  ThreadGroup group(2);
  std::vector<std::vector<at::Tensor>> states(2);
  std::vector<std::vector<StepRecord>> records(2);
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < 2; ++rank)
    threads.emplace_back([&, rank] {
      Training training = make_training(5, std::make_shared<ThreadGroup::Rank>(group, rank));
      for (int s = 0; s < 3; ++s) records[size_t(rank)].push_back(training.step());
      states[size_t(rank)] = copies(training.trainer().state());
    });
  for (std::thread& t : threads) t.join();
  REQUIRE(states[0].size() == states[1].size());
  for (size_t i = 0; i < states[0].size(); ++i) CHECK(at::equal(states[0][i], states[1][i]));
  CHECK(largest_difference(copies(alone.trainer().state()), states[0]) < 1e-2);
  const StepFormat format{.terms = alone.terms(), .ranks = 2};
  for (size_t s = 0; s < 3; ++s) {
    CHECK(first_difference(format, records[0][s], records[1][s]) == "");
    CHECK(records[0][s].loss == Approx(expected[s].loss).epsilon(1e-5));
    CHECK(records[0][s].grad_norm == Approx(expected[s].grad_norm).epsilon(1e-3));
    CHECK(records[0][s].balance == Approx(expected[s].balance));
  }
}

TEST_CASE("a batch of fewer sequences than ranks is refused") {
  ThreadGroup group(2);
  CHECK_THROWS_AS(make_training(1, std::make_shared<ThreadGroup::Rank>(group, 1), 1), UsageError);
}

TEST_CASE("a loss that is not finite is a divergence, and leaves the weights as they were") {
  Training training = make_training(5, single_process_group());
  {
    at::NoGradGuard no_grad;
    for (NamedTensor& t : training.student().parameters())
      if (t.name == "head") t.tensor.fill_(std::numeric_limits<float>::max());  // logits overflow
  }
  const std::vector<at::Tensor> before = copies(training.trainer().state());
  CHECK_THROWS_AS(training.step(), DivergenceError);
  CHECK(training.trainer().steps_done() == 0);
  for (size_t i = 0; i < before.size(); ++i) {
    const NamedTensor now = training.trainer().state()[i];
    if (now.name.find("router_") != 0) CHECK(at::equal(before[i], now.tensor.to(at::kFloat)));
  }
}

TEST_CASE("teacher and student with vocabularies of different sizes are refused") {
  ModelConfig other = random_dense_config();
  other.vocab_size = 98;
  CHECK_THROWS_AS(
      Training(std::make_unique<Decoder>(small_model(random_moe_config())), std::make_unique<RandomBatches>(2, 97, 1),
               live_signal(std::make_shared<const Decoder>(small_model(other))), {{&kForwardKl, 1.0}}, all_weights(2, 2)),
      MismatchError);
}

}  // namespace overproof
