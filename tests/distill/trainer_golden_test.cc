// The trainer against transformers' Glm4Moe, PyTorch's autograd and torch.optim.AdamW: tests/golden/trainer has the script.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "core/error.h"
#include "distill/training.h"
#include "formats/safetensors.h"
#include "model/adapters.h"
#include "model/decoder_tensors.h"
#include "model/generator.h"

namespace overproof {
namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/trainer";
constexpr int64_t kSteps = 3, kPlanned = 5, kBatch = 4, kLength = 16;

/// The batches and the teacher's states of steps.safetensors; the last steps of the plan are never asked for.
class GoldenBatches final : public BatchSource {
 public:
  explicit GoldenBatches(const fs::path& folder) : file_(folder / "steps.safetensors") {}
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
  SafetensorsFile file_;
  std::vector<std::string> names_ = {"golden"};
};

class GoldenTeacher final : public TeacherSignal {
 public:
  explicit GoldenTeacher(const fs::path& folder) : file_(folder / "steps.safetensors") {}
  int64_t vocab_size() const override { return file_.info("teacher_head").shape[0]; }
  double temperature() const override { return 1.0; }
  TargetKind kind() const override { return TargetKind::whole; }
  std::vector<Targets> rows(const TokenBatch& batch, int64_t first, int64_t count) const override {
    const at::Tensor all = tensor("teacher_hidden").view({kSteps * kBatch * kLength, -1});
    Targets targets;
    targets.states.push_back(
        {all.narrow(0, batch.numbers[size_t(first)] * kLength, count * kLength).contiguous(), tensor("teacher_head")});
    return {std::move(targets)};
  }
  std::vector<Digest> digests(const TokenBatch& batch) const override { return std::vector<Digest>(size_t(batch.batch)); }
  Evidence evidence() const override { return Evidence::recorded; }

 private:
  at::Tensor tensor(const std::string& name) const {
    return at::from_blob(const_cast<float*>(file_.values<float>(name).data()), file_.info(name).shape, at::kFloat).clone();
  }
  SafetensorsFile file_;
};

TrainOptions golden_options(int64_t micro_batch) {
  TrainOptions options{
      .batch_size = kBatch, .micro_batch = micro_batch, .learning_rate = 3e-3, .router_lr_scale = 0.25, .warmup = 2};
  options.weight_decay = 0.1;
  options.epsilon = 1e-6;
  options.clip = 0.5;
  options.balance_rate = 1e-2;
  options.train = {"all"};
  return options;
}

Training golden_training(const fs::path& folder, int64_t micro_batch) {
  return Training(std::make_unique<Decoder>(open_checkpoint(folder / "before")), std::make_unique<GoldenBatches>(folder),
                  std::make_unique<GoldenTeacher>(folder), {{&kForwardKl, 0.7}, {&kCrossEntropy, 0.3}},
                  golden_options(micro_batch));
}

double norm_of(const at::Tensor& t) { return t.norm().item<double>(); }

const fs::path kLora = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/lora";

/// A tensor of adapters as PEFT stores them.
at::Tensor peft_tensor(const SafetensorsFile& file, const AdapterPlace& place, const std::string& part) {
  const std::string name = "base_model.model." + place.module + ".lora_" + part + ".weight";
  return at::from_blob(const_cast<float*>(file.values<float>(name).data()), file.info(name).shape, at::kFloat).clone();
}

at::Tensor first_logits(const Decoder& model, const fs::path& folder) {
  at::NoGradGuard no_grad;
  const TokenBatch batch = GoldenBatches(folder).at(0);
  return model.logits(model.hidden(input_ids(batch, 0, kBatch)));
}

bool close(const at::Tensor& made, const SafetensorsFile& file, const std::string& name) {
  const at::Tensor wanted = at::from_blob(const_cast<float*>(file.values<float>(name).data()), made.sizes(), at::kFloat);
  return at::allclose(made, wanted, 1e-4, 1e-4);
}

}  // namespace

TEST_CASE("adapters are trained as PEFT and torch.optim.AdamW train them, and merged as PEFT runs them") {
  const fs::path folder = kLora / GENERATE("dense", "attention", "mixture");
  const int64_t micro_batch = GENERATE(1, 4);
  INFO(folder << ", micro-batch " << micro_batch);
  const bool every = folder.filename() != "attention";  // of a mixture of experts those of its attention
  auto student = std::make_unique<Decoder>(open_checkpoint(folder / "base"));
  add_adapters(*student, {3, 8, every ? kLoraTargets : std::vector<std::string>{"q", "v"}});
  const std::vector<AdapterPlace> places = adapter_places(*student);
  const SafetensorsFile before(folder / "before/adapter_model.safetensors"), after(folder / "after/adapter_model.safetensors"),
      file(folder / "steps.safetensors");
  REQUIRE(2 * places.size() == before.tensors().size());
  const Decoder base(open_checkpoint(folder / "base"));
  CHECK(at::allclose(first_logits(*student, folder), first_logits(base, folder), 1e-5, 1e-5));  // new adapters change nothing
  for (const AdapterPlace& place : places) {
    CHECK(place.adapter.a.abs().max().item<double>() <= 1 / std::sqrt(double(place.weight.size(1))));
    CHECK(place.adapter.a.abs().max().item<double>() > 0.5 / std::sqrt(double(place.weight.size(1))));
    at::Tensor(place.adapter.a).copy_(peft_tensor(before, place, "A"));
    at::Tensor(place.adapter.b).copy_(peft_tensor(before, place, "B"));
  }
  CHECK(close(first_logits(*student, folder), file, "logits_before"));

  TrainOptions options = golden_options(micro_batch);
  options.balance_rate = 0;
  Training training(std::move(student), std::make_unique<GoldenBatches>(folder), std::make_unique<GoldenTeacher>(folder),
                    {{&kForwardKl, 0.7}, {&kCrossEntropy, 0.3}}, options);
  int64_t numbers_trained = 0;
  for (const AdapterPlace& place : places) numbers_trained += place.adapter.a.numel() + place.adapter.b.numel();
  CHECK(training.trainer().trained_parameters() == numbers_trained);
  const auto numbers = file.values<double>("numbers");
  for (int64_t s = 0; s < kSteps; ++s) {
    const StepRecord record = training.step();
    const auto expected = numbers.subspan(size_t(5 * s), 5);
    CHECK(record.loss == Approx(expected[0]).epsilon(1e-5));
    CHECK(record.terms[0] == Approx(expected[1]).epsilon(1e-5));
    CHECK(record.terms[1] == Approx(expected[2]).epsilon(1e-5));
    CHECK(record.grad_norm == Approx(expected[3]).epsilon(1e-4));
    CHECK(record.learning_rate == Approx(expected[4]).epsilon(1e-12));
  }
  for (const NamedTensor& p : training.student().parameters()) {
    CHECK_FALSE(p.tensor.requires_grad());
    CHECK_FALSE(p.tensor.grad().defined());  // no gradient as large as a weight
  }
  for (const AdapterPlace& place : places)
    for (const char* part : {"A", "B"}) {
      INFO(place.module << " " << part);
      const at::Tensor made = (*part == 'A' ? place.adapter.a : place.adapter.b).detach(), wanted = peft_tensor(after, place, part);
      const double movement = norm_of(wanted - peft_tensor(before, place, part));
      CHECK(movement > 1e-4);
      CHECK(norm_of(made - wanted) < 2e-3 * movement);
    }
  CHECK(close(first_logits(training.student(), folder), file, "logits_after"));
  {  // what writes batches of the student's own reads the adapters along
    at::NoGradGuard no_grad;
    const Generator writer(training.student().config(), DecoderTensors(training.student()));
    const TokenBatch batch = GoldenBatches(folder).at(0);
    KvCache cache;
    const at::Tensor logits = writer.next_logits(writer.hidden_cached(input_ids(batch, 0, 1), cache));
    CHECK(at::allclose(logits, first_logits(training.student(), folder).narrow(0, 0, kLength), 1e-4, 1e-4));
  }

  std::vector<at::Tensor> weights;
  for (const AdapterPlace& place : places) weights.push_back(place.weight.clone());
  training.trainer().swap_adapters();
  CHECK(adapter_places(training.student()).empty());
  CHECK(training.trainer().adapts());
  CHECK(close(first_logits(training.student(), folder), file, "logits_after"));  // merged
  training.trainer().swap_adapters();
  for (size_t i = 0; i < places.size(); ++i) CHECK(at::equal(places[i].weight, weights[i]));
  CHECK(close(first_logits(training.student(), folder), file, "logits_after"));
}

TEST_CASE("three steps are those of transformers and torch.optim.AdamW, in any micro-batches, tied or not") {
  const fs::path folder = kGolden / GENERATE("untied", "tied");
  const int64_t micro_batch = GENERATE(1, 2, 4);
  INFO(folder << ", micro-batch " << micro_batch);
  Training training = golden_training(folder, micro_batch);
  const Decoder before(open_checkpoint(folder / "before")), gradient(open_checkpoint(folder / "gradient")),
      after(open_checkpoint(folder / "after"));
  REQUIRE(before.config().tie_embeddings == (folder.filename() == "tied"));
  const SafetensorsFile file(folder / "steps.safetensors");
  const auto numbers = file.values<double>("numbers");
  for (int64_t s = 0; s < kSteps; ++s) {
    const StepRecord record = training.step();
    const auto expected = numbers.subspan(size_t(6 * s), 6);
    CHECK(record.loss == Approx(expected[0]).epsilon(1e-5));
    CHECK(record.terms[0] == Approx(expected[1]).epsilon(1e-5));
    CHECK(record.terms[1] == Approx(expected[2]).epsilon(1e-5));
    CHECK(record.grad_norm == Approx(expected[3]).epsilon(1e-4));
    CHECK(record.learning_rate == Approx(expected[4]).epsilon(1e-12));
    CHECK(record.balance == Approx(expected[5]).epsilon(1e-6));
    if (s > 0) continue;
    const std::vector<NamedTensor> made = training.student().parameters(), wanted = gradient.parameters();
    REQUIRE(made.size() == wanted.size());
    for (size_t i = 0; i < made.size(); ++i) {
      INFO("gradient of " << made[i].name);
      REQUIRE(made[i].tensor.requires_grad() == (made[i].name.find("router_bias") == std::string::npos));
      if (!made[i].tensor.requires_grad()) continue;
      const double scale = norm_of(wanted[i].tensor);
      // A bias of the keys moves all scores of a query alike: its gradient is zero but for rounding where no norm or rotation follows.
      CHECK(norm_of(made[i].tensor.grad() - wanted[i].tensor) < 1e-4 * scale + 1e-6);
    }
  }
  const std::vector<NamedTensor> made = training.student().parameters(), first = before.parameters(), wanted = after.parameters();
  for (size_t i = 0; i < made.size(); ++i) {
    INFO("weights of " << made[i].name);
    const double movement = norm_of(wanted[i].tensor - first[i].tensor);
    CHECK(movement > 1e-4);
    CHECK(norm_of(made[i].tensor - wanted[i].tensor) < 2e-3 * movement);
  }
}

}  // namespace overproof
