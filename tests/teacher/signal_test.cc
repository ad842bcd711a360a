#include "teacher/signal.h"

#include <ATen/ATen.h>

#include <catch2/catch.hpp>

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
    const auto both = std::get<SparseRows>(signal->rows(batch, 1, 2));
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
  const auto states = std::get<DenseStates>(signal->rows(batch, 1, 2));
  std::vector<int64_t> ids(33), inputs;
  for (const int64_t window : {1, 2}) {
    corpus->read_window(Split::train, window, ids);
    inputs.insert(inputs.end(), ids.begin(), ids.end() - 1);
  }
  at::NoGradGuard no_grad;
  CHECK(at::equal(states.hidden, teacher->hidden(at::tensor(inputs, at::kLong).view({2, 32}))));
  CHECK(states.head.is_same(teacher->head()));
}

}  // namespace overproof
