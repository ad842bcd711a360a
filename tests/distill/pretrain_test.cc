// The training of `pretrain` against transformers' Llama, PyTorch's autograd and torch.optim.AdamW (tests/golden/pretrain has the script), and the
// first weights.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "core/error.h"
#include "distill/labels_signal.h"
#include "distill/pretraining.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

const fs::path kPretrainGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/pretrain";

/// The batches of steps.safetensors; the last steps of the plan are never asked for.
class PretrainBatches final : public BatchSource {
 public:
  static constexpr int64_t kBatch = 4, kLength = 16, kPlanned = 5;
  int64_t steps() const override { return kPlanned; }
  int64_t step_tokens() const override { return kBatch * kLength; }
  double step_weight(int64_t) const override { return double(step_tokens()); }
  const std::vector<std::string>& source_names() const override { return names_; }
  TokenBatch at(int64_t step) const override {
    constexpr int64_t kIds = kBatch * (kLength + 1);
    const auto ids = file_.values<int64_t>("ids").subspan(size_t(step * kIds), size_t(kIds));
    TokenBatch b{.batch = kBatch, .length = kLength};
    for (int64_t i = 0; i < kBatch; ++i) b.numbers.push_back(step * kBatch + i);
    b.ids.assign(ids.begin(), ids.end());
    b.weight.assign(size_t(b.tokens()), 1.0f);
    b.segment.assign(size_t(b.tokens()), 0);
    b.source.assign(size_t(b.tokens()), 0);
    return b;
  }

 private:
  SafetensorsFile file_{kPretrainGolden / "steps.safetensors"};
  std::vector<std::string> names_ = {"golden"};
};

}  // namespace

TEST_CASE("three steps on labels alone are those of transformers and torch.optim.AdamW") {
  const int64_t micro_batch = GENERATE(1, 4);
  TrainOptions options{.batch_size = 4, .micro_batch = micro_batch, .learning_rate = 3e-3, .warmup = 2, .schedule = Schedule::linear};
  options.weight_decay = 0.1;
  options.epsilon = 1e-6;
  options.clip = 0.5;
  options.train = {"all"};
  auto student = std::make_unique<Decoder>(open_checkpoint(kPretrainGolden / "before"));
  const int64_t vocab = student->config().vocab_size;
  Training training(std::move(student), std::make_unique<PretrainBatches>(), labels_signal(vocab), {{&kCrossEntropy, 1.0}}, options);
  const SafetensorsFile file(kPretrainGolden / "steps.safetensors");
  const auto numbers = file.values<double>("numbers");
  for (size_t s = 0; s < 3; ++s) {
    const StepRecord record = training.step();
    CHECK(record.loss == Approx(numbers[3 * s]).epsilon(1e-5));
    CHECK(record.terms[0] == record.loss);
    CHECK(record.grad_norm == Approx(numbers[3 * s + 1]).epsilon(1e-4));
    CHECK(record.learning_rate == Approx(numbers[3 * s + 2]).epsilon(1e-12));
  }
  const Decoder before(open_checkpoint(kPretrainGolden / "before")), after(open_checkpoint(kPretrainGolden / "after"));
  const std::vector<NamedTensor> made = training.student().parameters(), first = before.parameters(), wanted = after.parameters();
  REQUIRE(made.size() == wanted.size());
  for (size_t i = 0; i < made.size(); ++i) {
    INFO("weights of " << made[i].name);
    const double movement = (wanted[i].tensor - first[i].tensor).norm().item<double>();
    CHECK(movement > 1e-4);
    CHECK((made[i].tensor - wanted[i].tensor).norm().item<double>() < 2e-3 * movement);
  }
}

TEST_CASE("first weights have the deviation of GPT-2, smaller into the residual stream, and depend on the seed") {
  const ModelConfig shape = PretrainConfig{.layers = 8, .hidden_size = 64, .intermediate_size = 192}.shape(257);
  const Decoder model = initial_decoder(shape, 0.02, 1), again = initial_decoder(shape, 0.02, 1), other = initial_decoder(shape, 0.02, 2);
  const auto close_to = [](const at::Tensor& t, double deviation) {
    CHECK(t.std().item<double>() == Approx(deviation).epsilon(0.05));
    CHECK(std::abs(t.mean().item<double>()) < 5 * deviation / std::sqrt(double(t.numel())));
    CHECK(t.abs().max().item<double>() < 6 * deviation);
  };
  close_to(model.weights().embedding, 0.02);
  CHECK_FALSE(model.weights().head.defined());
  for (const LayerWeights& layer : model.layers()) {
    close_to(layer.gate_up, 0.02);
    close_to(layer.down, 0.02 / 4);  // the root of 2 x 8 layers
    CHECK(at::equal(layer.post_norm, at::ones({64})));
  }
  CHECK_FALSE(at::equal(model.layers()[0].down, model.layers()[1].down));
  const std::vector<NamedTensor> a = model.parameters(), b = again.parameters(), c = other.parameters();
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK(at::equal(a[i].tensor, b[i].tensor));
    CHECK(at::equal(a[i].tensor, c[i].tensor) == (a[i].tensor.dim() == 1));
  }
}

TEST_CASE("a shape whose numbers do not fit each other is refused") {
  CHECK_THROWS_AS((PretrainConfig{.hidden_size = 100, .heads = 3}.shape(257)), UsageError);
  CHECK_THROWS_AS((PretrainConfig{.hidden_size = 96, .heads = 3, .kv_heads = 2}.shape(257)), UsageError);
  const ModelConfig untied = PretrainConfig{.untied = true}.shape(257), tied = PretrainConfig{}.shape(257);
  CHECK(untied.parameters() - tied.parameters() == 257 * 256);
}

}  // namespace overproof
