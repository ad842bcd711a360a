#include "teacher/signal.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>

#include "core/error.h"
#include "teacher/teach_stage.h"
#include "tests/teacher/tiny_world.h"

namespace overproof {

TEST_CASE("a stored signal gives the rows and digests of the windows of a batch, in any order") {
  const TinyWorld world;
  TeachConfig config;
  config.tokens = 32 * 11;
  Outputs outputs = world.fresh("targets");
  run_teach(config, world.inputs(), outputs);
  const auto targets = std::make_shared<const SoftTargets>(world.path / "targets");
  const auto corpus = std::make_shared<const Corpus>(world.path / "corpus");
  const int64_t windows = corpus->windows(Split::train);
  const TrainingOrder order(targets->order_key(), windows, targets->blocks());
  const WindowBatches batches(corpus, Split::train, order_of(order), 3, 5);
  const auto signal = stored_signal(targets, windows);
  CHECK(signal->evidence() == Evidence::re_derivable);
  CHECK(signal->vocab_size() == 257);
  for (int64_t step = 0; step < batches.steps(); ++step) {
    const TokenBatch batch = batches.at(step);
    const std::vector<Digest> digests = signal->digests(batch);
    REQUIRE(digests.size() == 3);
    const Targets rows = signal->rows(batch, 1, 2).at(0);
    CHECK(rows.kind == TargetKind::sampled);
    CHECK(rows.states.empty());
    const SparseRows& both = rows.sparse;
    REQUIRE(both.rows() == 64);
    size_t entry = 0, row = 0;
    for (int64_t b = 0; b < 3; ++b) {
      const int64_t block = order.block_at(3 * step + b);
      CHECK(batch.numbers[size_t(b)] == order.window_of_block(block));
      CHECK(digests[size_t(b)] == targets->block_digest(block));
      if (b == 0) continue;
      TargetBlock expected;
      targets->read_block(block, expected);
      for (size_t r = 0; r < 32; ++r, ++row) {
        CHECK(both.offsets[row] == int64_t(entry));
        for (int64_t i = expected.offsets[r]; i < expected.offsets[r + 1]; ++i, ++entry) {
          REQUIRE(both.ids[entry] == expected.ids[size_t(i)]);
          REQUIRE(both.probabilities[entry] == expected.probabilities[size_t(i)]);
        }
        CHECK(both.tail[row] == expected.tail[r]);
      }
    }
    CHECK(both.offsets.back() == int64_t(entry));
  }
}

TEST_CASE("a live signal gives the teacher's states of the asked sequences") {
  const TinyWorld world;
  const auto corpus = std::make_shared<const Corpus>(world.path / "corpus");
  const auto teacher = std::make_shared<const Decoder>(open_checkpoint(world.path / "teacher"));
  const WindowBatches batches(corpus, Split::train, [](int64_t p) { return p; }, 3, 1);
  const TokenBatch batch = batches.at(0);
  const auto signal = live_signal(teacher);
  CHECK((signal->digests(batch) == std::vector<Digest>(3)));
  const Targets targets = signal->rows(batch, 1, 2).at(0);
  CHECK(targets.kind == TargetKind::whole);
  REQUIRE(targets.states.size() == 1);
  const DenseStates& states = targets.states[0];
  std::vector<int64_t> ids(33), inputs;
  for (const int64_t window : {1, 2}) {
    corpus->read_window(Split::train, window, ids);
    inputs.insert(inputs.end(), ids.begin(), ids.end() - 1);
  }
  at::NoGradGuard no_grad;
  CHECK(at::equal(states.hidden, teacher->hidden(at::tensor(inputs, at::kLong).view({2, 32}))));
  CHECK(states.head.is_same(teacher->head()));
}

namespace {

/// Fixed sparse rows for every sequence.
class FixedSignal final : public TeacherSignal {
 public:
  FixedSignal(Targets targets, Digest digest, int64_t vocab = 8, double temperature = 1)
      : targets_(std::move(targets)), digest_(digest), vocab_(vocab), temperature_(temperature) {}
  int64_t vocab_size() const override { return vocab_; }
  double temperature() const override { return temperature_; }
  TargetKind kind() const override { return targets_.kind; }
  std::vector<Targets> rows(const TokenBatch&, int64_t, int64_t) const override { return {targets_}; }
  std::vector<Digest> digests(const TokenBatch& batch) const override { return std::vector<Digest>(size_t(batch.batch), digest_); }
  Evidence evidence() const override { return Evidence::recorded; }

 private:
  Targets targets_;
  Digest digest_;
  int64_t vocab_;
  double temperature_;
};

template <class... Signals>
std::unique_ptr<TeacherSignal> mix(double first_weight, Signals... signals) {
  std::vector<WeightedSignal> parts;
  (parts.emplace_back(parts.empty() ? first_weight : 1.0, std::move(signals)), ...);
  return mixed_signal(std::move(parts));
}

std::unique_ptr<TeacherSignal> sampled(SparseRows rows, std::string_view digest) {
  return std::make_unique<FixedSignal>(Targets{TargetKind::sampled, std::move(rows), {}}, sha256(digest));
}

}  // namespace

TEST_CASE("a mixture adds probabilities, each with its share") {
  TokenBatch batch{1, 3, {}, {}, {1, 1, 1}};
  const SparseRows a{{0, 2, 2, 4}, {1, 5, 0, 2}, {0.5f, 0.5f, 0.25f, 0.75f}, {0, 0, 0}};
  const SparseRows b{{0, 1, 2, 4}, {5, 7, 0, 1}, {1.0f, 1.0f, 0.5f, 0.5f}, {0, 0, 0}};
  const auto mixed = mix(3, sampled(a, "a"), sampled(b, "b"));  // 3 : 1
  const Targets targets = mixed->rows(batch, 0, 1).at(0);
  CHECK(targets.kind == TargetKind::sampled);
  CHECK(targets.sparse.offsets == std::vector<int64_t>{0, 2, 3, 6});
  CHECK(targets.sparse.ids == std::vector<int32_t>{1, 5, 7, 0, 1, 2});
  CHECK(targets.sparse.probabilities == std::vector<float>{0.375f, 0.625f, 0.25f, 0.3125f, 0.125f, 0.5625f});
  CHECK(targets.sparse.tail == std::vector<float>{0, 0, 0});
  CHECK(mixed->evidence() == Evidence::recorded);
  // Bound to the rows of both, in order.
  const std::string bytes = std::string(reinterpret_cast<const char*>(sha256("a").bytes.data()), 32) +
                            std::string(reinterpret_cast<const char*>(sha256("b").bytes.data()), 32);
  CHECK((mixed->digests(batch) == std::vector<Digest>{sha256(bytes)}));

  const auto states = [](double value) {
    return std::make_unique<FixedSignal>(Targets{.states = {{at::full({3, 2}, value), at::ones({8, 2})}}}, Digest{});
  };
  const auto dense = mix(1, states(1), mix(3, states(2), states(3)));  // a mixture of a mixture
  const Targets parts = dense->rows(batch, 0, 1).at(0);
  CHECK(parts.kind == TargetKind::whole);
  REQUIRE(parts.states.size() == 3);
  CHECK(parts.states[0].weight == 0.5);
  CHECK(parts.states[1].weight == 0.375);
  CHECK(parts.states[2].weight == 0.125);
  CHECK((dense->digests(batch) == std::vector<Digest>(1)));
  CHECK(mix(1, states(1), sampled(a, "a"))->kind() == TargetKind::sampled);
}

TEST_CASE("teachers that cannot be mixed are refused") {
  const auto signal = [](TargetKind kind, int64_t vocab, double temperature) {
    return std::make_unique<FixedSignal>(Targets{.kind = kind}, Digest{}, vocab, temperature);
  };
  const auto whole = TargetKind::whole;
  CHECK_NOTHROW(mix(1, signal(whole, 8, 1), signal(whole, 8, 1)));
  CHECK(mix(1, signal(whole, 9, 1), signal(whole, 8, 1))->vocab_size() == 8);  // the larger is padding
  CHECK_THROWS_AS(mix(1, signal(whole, 8, 1), signal(whole, 8, 2)), MismatchError);
  CHECK_THROWS_AS(mix(1, signal(whole, 8, 1), signal(TargetKind::top_k, 8, 1)), MismatchError);
}

}  // namespace overproof
