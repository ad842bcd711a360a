#pragma once
// Batches and models of random numbers, to train without a corpus.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <string>
#include <vector>

#include "core/rng.h"
#include "data/token_batch.h"
#include "model/decoder.h"
#include "tests/model/random_model.h"

namespace overproof {

inline constexpr int64_t kLength = 16;

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
inline Decoder small_model(ModelConfig config) {
  Decoder model(config, RandomSource(config));
  at::NoGradGuard no_grad;
  for (NamedTensor& t : model.parameters())
    if (t.tensor.dim() > 1) t.tensor.mul_(0.2);
  return model;
}

}  // namespace overproof
