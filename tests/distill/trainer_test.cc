// The trainer alone: gradients, balancing, several ranks.

#include "distill/trainer.h"
#include "formats/never_chosen.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <set>
#include <thread>

#include "core/error.h"
#include "distill/training.h"
#include "tests/distill/random_batches.h"
#include "tests/model/random_model.h"

namespace overproof {
namespace {

TrainOptions all_weights(int64_t batch, int64_t micro_batch) {
  TrainOptions options;
  options.batch_size = batch;
  options.micro_batch = micro_batch;
  options.train = {"all"};
  options.balance_rate = 1e-2;
  return options;
}

/// Losses of a batch; the gradients are in the student's weights then.
LossSums losses_of(Decoder& student, int64_t micro_batch, const TokenBatch& batch, const LossTerms& terms) {
  const auto signal = live_signal(std::make_shared<const Decoder>(small_model(random_dense_config())));
  Trainer trainer(student, all_weights(batch.batch, micro_batch));
  signal->keep_layers();
  trainer.record_inside(any_needs(terms, Inside::router), any_needs(terms, Inside::layers));
  std::vector<at::Tensor> loads;
  LossOptions options;
  options.terms = terms;
  return trainer.accumulate_gradients(
      batch,
      [&](const Trainer::Pass& pass) {
        options.grad_scale = pass.grad_scale;
        InnerRows inner{.routing = pass.routing, .student = pass.layers};
        return batch_loss(batch, *signal, pass.first, pass.count, pass.hidden, student.head(), options, pass.d_hidden,
                          pass.d_head, &inner, pass.inner_loss);
      },
      loads);
}

std::vector<at::Tensor> gradients(ModelConfig config, int64_t micro_batch, const TokenBatch& batch,
                                  const LossTerms& terms = {{&kForwardKl, 0.7}, {&kCrossEntropy, 0.3}}) {
  Decoder student = small_model(config);
  losses_of(student, micro_batch, batch, terms);
  std::vector<at::Tensor> list;
  for (const NamedTensor& t : student.parameters())  // what no loss reaches has none
    if (t.tensor.requires_grad()) list.push_back(t.tensor.grad().defined() ? t.tensor.grad().clone() : at::zeros_like(t.tensor));
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
  for (const ModelConfig& config : {random_dense_config(), random_moe_config(), random_gated_moe_config()}) {
    const TokenBatch batch = RandomBatches(4, 97, 1).at(0);
    const std::vector<at::Tensor> whole = gradients(config, 4, batch);
    CHECK(whole.size() > 10);
    for (const int64_t micro_batch : {1, 2, 3}) CHECK(largest_difference(whole, gradients(config, micro_batch, batch)) < 2e-4);
  }
}

TEST_CASE("the gradient of no loss depends on the micro-batch, with tokens of different weight") {
  TokenBatch batch = RandomBatches(4, 97, 1).at(0);
  for (size_t i = 0; i < batch.weight.size(); ++i) batch.weight[i] = i % 5 == 0 ? 0.0f : float(i % 3 + 1) / 3;
  for (const Loss* loss : all_losses()) {
    INFO(loss->name);
    const std::vector<at::Tensor> whole = gradients(random_moe_config(), 4, batch, {{loss, 1.0}});
    for (const int64_t micro_batch : {1, 2})
      CHECK(largest_difference(whole, gradients(random_moe_config(), micro_batch, batch, {{loss, 1.0}})) < 5e-4);
  }
}

TEST_CASE("losses of layers and routers reach the weights below them with the right slope") {
  const TokenBatch batch = RandomBatches(2, 97, 1).at(0);
  for (const Loss* loss : all_losses()) {
    if (!loss->inner) continue;
    INFO(loss->name);
    Decoder student = small_model(random_moe_config());
    const LossTerms terms = {{loss, 2.0}};
    losses_of(student, 2, batch, terms);
    // Along the gradient the loss grows by its norm, by central differences.
    double square = 0;
    std::vector<std::pair<at::Tensor, at::Tensor>> along;
    for (const NamedTensor& t : student.parameters())
      if (t.tensor.requires_grad() && t.tensor.grad().defined()) {
        along.emplace_back(t.tensor.detach(), t.tensor.grad().clone());
        square += along.back().second.square().sum().item<double>();
      }
    CHECK(along.size() > 5);
    const double norm = std::sqrt(square), size = 2e-3;
    const auto value_at = [&](double offset) {
      at::NoGradGuard no_grad;
      for (auto& [weight, direction] : along) weight.add_(direction, offset / norm);
      const LossSums sums = [&] {
        at::AutoGradMode grad(true);
        return losses_of(student, 2, batch, terms);
      }();
      for (auto& [weight, direction] : along) weight.sub_(direction, offset / norm);
      return sums.total(terms) / sums.weight;
    };
    CHECK((value_at(size) - value_at(-size)) / (2 * size) == Approx(norm).epsilon(0.03));
  }
}

TEST_CASE("layers of another width are compared through matrices that are learned, and part of the state") {
  ModelConfig wide = random_dense_config();
  wide.hidden_size = 64;
  wide.heads = 8;
  wide.layers = 4;
  const auto train = [&] {
    TrainOptions options = all_weights(2, 2);
    options.learning_rate = 5e-3;
    options.schedule = Schedule::constant;
    options.train = {"norms"};  // what is learned is mostly the matrices
    return Training(std::make_unique<Decoder>(small_model(random_moe_config())), std::make_unique<RandomBatches>(2, 97, 60),
                    live_signal(std::make_shared<const Decoder>(small_model(wide))), {{&kForwardKl, 0.0}, {&kHiddenMse, 1.0}},
                    options);
  };
  Training training = train(), same = train();
  const StepRecord first = training.step();
  StepRecord last;
  for (int s = 1; s < 60; ++s) last = training.step();
  CHECK(last.terms[1] < 0.9 * first.terms[1]);
  CHECK(first.terms[1] == same.step().terms[1]);
  int64_t projections = 0, twice = 0;
  std::set<std::string> names;
  for (const NamedTensor& t : training.trainer().state()) {
    projections += t.name.rfind("projections.", 0) == 0 && t.tensor.dim() == 2 && t.name.find("adam") == std::string::npos;
    twice += !names.insert(t.name).second;
  }
  CHECK(projections == 2);
  CHECK(twice == 0);
  // Resumed from a copy of the state, the next step is the same.
  Training resumed = train();
  {
    at::NoGradGuard no_grad;
    const std::vector<NamedTensor> from = training.trainer().state(), to = resumed.trainer().state();
    REQUIRE(from.size() == to.size());
    for (size_t i = 0; i < to.size(); ++i) at::Tensor(to[i].tensor).copy_(from[i].tensor);
  }
  resumed.trainer().resume_at(59);
  training.trainer().resume_at(59);
  CHECK(resumed.step().loss == training.step().loss);
}

TEST_CASE("what a loss needs to see is refused where it is not there") {
  const auto with = [](ModelConfig student, const Loss& loss) {
    return Training(std::make_unique<Decoder>(small_model(std::move(student))), std::make_unique<RandomBatches>(2, 97, 1),
                    live_signal(std::make_shared<const Decoder>(small_model(random_dense_config()))), {{&loss, 1.0}},
                    all_weights(2, 2));
  };
  CHECK_THROWS_WITH(with(random_dense_config(), kRouterZ), Catch::Contains("'router-z' needs a student with routed experts"));
  CHECK_NOTHROW(with(random_dense_config(), kHiddenMse));
  std::vector<WeightedSignal> parts;
  const auto teacher = std::make_shared<const Decoder>(small_model(random_dense_config()));
  parts.emplace_back(0.5, live_signal(teacher));
  parts.emplace_back(0.5, live_signal(teacher));
  CHECK_THROWS_WITH(
      Training(std::make_unique<Decoder>(small_model(random_moe_config())), std::make_unique<RandomBatches>(2, 97, 1),
               mixed_signal(std::move(parts)), {{&kFfnMse, 1.0}}, all_weights(2, 2)),
      Catch::Contains("'ffn-mse'") && Catch::Contains("--teacher-share 1"));
}

TEST_CASE("the average follows its formula, and is exchanged with the weights and back") {
  TrainOptions options = all_weights(2, 2);
  options.ema = 0.5;
  Training training(std::make_unique<Decoder>(small_model(random_moe_config())), std::make_unique<RandomBatches>(2, 97, 30),
                    live_signal(std::make_shared<const Decoder>(small_model(random_dense_config()))), {{&kForwardKl, 1.0}},
                    options);
  const auto head = [&] {
    for (const NamedTensor& t : training.student().parameters())
      if (t.name == "head") return t.tensor.detach().clone();
    throw std::logic_error("no head");
  };
  at::Tensor average = head().to(at::kDouble);
  for (int n = 1; n <= 12; ++n) {
    training.step();
    const double decay = std::min(0.5, (1.0 + n) / (10.0 + n));
    average = decay * average + (1 - decay) * head().to(at::kDouble);
  }
  const at::Tensor weights = head();
  training.trainer().swap_average();
  CHECK((head() - average).abs().max().item<double>() < 1e-6);
  CHECK_FALSE(at::equal(head(), weights));
  training.trainer().swap_average();
  CHECK(at::equal(head(), weights));
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
  // An expert with less than a tenth of the mean moves by eight times the rate; the mean, 0.7 / 4, is taken out.
  CHECK(at::allclose(bias, at::tensor({-0.1f, 0.8f, 0.0f, 0.0f}) - 0.175f));
  bias = at::zeros({4});
  balance_bias(bias, at::tensor({10, 1, 5, 4}, at::kLong), 0.1);
  CHECK(at::allclose(bias, at::tensor({-0.1f, 0.1f, 0.0f, 0.1f}) - 0.025f));
  bias = at::tensor({0.3f, -0.1f, -0.1f, -0.1f});
  balance_bias(bias, at::tensor({100, 1, 1, 1}, at::kLong), 0.1);
  CHECK(bias[0].item<float>() < 0.3f);
  CHECK(bias[1].item<float>() > -0.1f);
  CHECK(std::abs(bias.mean().item<float>()) < 1e-6f);
}

TEST_CASE("a router without a selection bias is trained and not balanced, and the gate of the shared expert stays") {
  TrainOptions options = all_weights(4, 2);
  options.balance_rate = 0.1;
  Training training(std::make_unique<Decoder>(small_model(random_gated_moe_config())), std::make_unique<RandomBatches>(4, 97, 3),
                    live_signal(std::make_shared<const Decoder>(small_model(random_dense_config()))), {{&kForwardKl, 1.0}}, options);
  const LayerWeights& layer = training.student().layers()[0];
  const at::Tensor gate = layer.shared_gate.clone(), router = layer.router.detach().clone(), shared = layer.down.detach().clone();
  for (int64_t step = 0; step < 2; ++step) training.step();
  CHECK(at::equal(layer.shared_gate, gate));
  CHECK_FALSE(at::equal(layer.router.detach(), router));
  CHECK_FALSE(at::equal(layer.down.detach(), shared));
  for (const NamedTensor& t : training.trainer().state()) CHECK(t.name.find("router_bias") == std::string::npos);
  CHECK(training.trainer().recent_loads().least >= 0);
  CHECK(training.trainer().recent_loads().largest >= 1);
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

TEST_CASE("a vocabulary that is larger by padding takes no part in the training") {
  const auto first_step = [](int64_t student_vocab, int64_t teacher_vocab) {
    ModelConfig student = random_moe_config(), teacher = random_dense_config();
    student.vocab_size = student_vocab;
    teacher.vocab_size = teacher_vocab;
    Training training(std::make_unique<Decoder>(small_model(student)), std::make_unique<RandomBatches>(2, 97, 1),
                      live_signal(std::make_shared<const Decoder>(small_model(teacher))),
                      {{&kForwardKl, 0.5}, {&kCrossEntropy, 0.5}}, all_weights(2, 2));
    std::vector<at::Tensor> loads;
    StepRecord record = training.step();
    at::Tensor head_gradient;
    for (const NamedTensor& t : training.student().parameters())
      if (t.name == "head") head_gradient = t.tensor.grad().clone();
    return std::pair(record, head_gradient);
  };
  const auto [wide, gradient] = first_step(101, 97);
  CHECK(gradient.size(0) == 101);
  CHECK(gradient.narrow(0, 97, 4).abs().max().item<double>() == 0);
  CHECK(gradient.narrow(0, 0, 97).abs().max().item<double>() > 0);
  CHECK(std::isfinite(first_step(97, 101).first.loss));
}

namespace {

/// Top-k rows of two ids, of a vocabulary of any size.
class TwoIds final : public TeacherSignal {
 public:
  TwoIds(int64_t vocab, int32_t second) : vocab_(vocab), second_(second) {}
  int64_t vocab_size() const override { return vocab_; }
  double temperature() const override { return 1.0; }
  TargetKind kind() const override { return TargetKind::top_k; }
  std::vector<Targets> rows(const TokenBatch& batch, int64_t, int64_t count) const override {
    Targets targets{.kind = kind()};
    for (int64_t r = 0; r < count * batch.length; ++r) {
      targets.sparse.ids.insert(targets.sparse.ids.end(), {3, second_});
      targets.sparse.probabilities.insert(targets.sparse.probabilities.end(), {0.5f, 0.25f});
      targets.sparse.tail.push_back(0.25f);
      targets.sparse.offsets.push_back(int64_t(targets.sparse.ids.size()));
    }
    return {std::move(targets)};
  }
  std::vector<Digest> digests(const TokenBatch& batch) const override { return std::vector<Digest>(size_t(batch.batch)); }
  Evidence evidence() const override { return Evidence::recorded; }

 private:
  int64_t vocab_;
  int32_t second_;
};

}  // namespace

TEST_CASE("stored rows of a teacher that pads its vocabulary train a student that does not, unless they name padding") {
  const auto step = [](int64_t teacher_vocab, int32_t second) {
    ModelConfig student = random_moe_config();
    student.vocab_size = 97;
    Training training(std::make_unique<Decoder>(small_model(student)), std::make_unique<RandomBatches>(2, 97, 1),
                      std::make_unique<TwoIds>(teacher_vocab, second), {{&kForwardKl, 1.0}}, all_weights(2, 2));
    const StepRecord record = training.step();
    return std::pair(record.loss, record.grad_norm);
  };
  CHECK(step(101, 50) == step(97, 50));  // one tokenizer, to the bit
  CHECK_THROWS_WITH(step(101, 98), Catch::Contains("name token 98"));
}

}  // namespace overproof
