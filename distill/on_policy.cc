#include "distill/on_policy.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "core/interrupt.h"
#include "core/rng.h"
#include "data/sampler.h"
#include "model/decoder_tensors.h"
#include "model/generator.h"
#include "model/host_values.h"

namespace overproof {
namespace {

/// A window that is being continued.
struct Continuation {
  int64_t row = 0;    // in the batch
  size_t prompt = 0;  // ids of the window that the student has not written
  int64_t room = 0;   // ids that it may still write
  std::vector<int32_t> ids;
  Rng rng;
  KvCache cache;
};

/// How many ids of a window come before the first that the student writes.
size_t prompt_length(const TokenBatch& batch, int64_t row, int64_t least) {
  const auto weight = std::span(batch.weight).subspan(size_t(row * batch.length), size_t(batch.length));
  const auto counted = std::ranges::find_if(weight, [](float w) { return w > 0; });
  const auto before = counted == weight.end() ? size_t(0) : size_t(counted - weight.begin()) + 1;
  return std::min(std::max(size_t(least), before), size_t(batch.length));
}

/// Puts what was written into the batch.
void replace(TokenBatch& batch, const Continuation& c) {
  const auto row = size_t(c.row * batch.length), written = c.ids.size() - c.prompt;
  const auto weight = std::span(batch.weight).subspan(row, size_t(batch.length));
  const auto segment = std::span(batch.segment).subspan(row, size_t(batch.length));
  std::ranges::fill(weight, 0.0f);
  std::ranges::fill(weight.subspan(c.prompt - 1, written), 1.0f);
  std::copy(c.ids.begin() + ptrdiff_t(c.prompt), c.ids.end(), batch.ids.begin() + c.row * (batch.length + 1) + ptrdiff_t(c.prompt));
  const size_t end = std::min(c.ids.size(), size_t(batch.length));  // the last id of a full window is a label only
  std::fill(segment.begin() + ptrdiff_t(c.prompt), segment.begin() + ptrdiff_t(end), segment[c.prompt - 1]);
}

}  // namespace

OnPolicyBatches::OnPolicyBatches(std::unique_ptr<BatchSource> windows, const Decoder& student, std::set<int32_t> ends,
                                 const OnPolicyOptions& options, uint64_t seed)
    : windows_(std::move(windows)), student_(student), ends_(std::move(ends)), options_(options), seed_(seed) {}

bool OnPolicyBatches::follows(int64_t step) const {
  return std::floor(double(step + 1) * options_.share) == std::floor(double(step) * options_.share);
}

TokenBatch OnPolicyBatches::at(int64_t step) const {
  TokenBatch batch = windows_->at(step);
  if (follows(step)) return batch;
  at::NoGradGuard no_grad;
  const Generator writer(student_.config(), DecoderTensors(student_));
  const SamplingOptions sampling{.temperature = options_.temperature};
  std::vector<Continuation> all;
  const auto draw = [&](Continuation& c, const at::Tensor& logits, int64_t row) {
    const auto width = size_t(logits.size(1));
    const int32_t id = sample_token(host_values<float>(logits).subspan(size_t(row) * width, width), c.ids, sampling, nullptr, c.rng);
    c.ids.push_back(id);
    c.room = ends_.contains(id) ? 0 : c.room - 1;
  };
  for (int64_t b = 0; b < batch.batch; ++b) {
    throw_if_interrupted();
    const size_t prompt = prompt_length(batch, b, options_.prompt);
    const auto begin = batch.sequence_ids(b).begin();
    Continuation& c = all.emplace_back(Continuation{.row = b,
                                                    .prompt = prompt,
                                                    .room = std::min(options_.tokens, batch.length + 1 - int64_t(prompt)),
                                                    .ids = {begin, begin + ptrdiff_t(prompt)},
                                                    .rng = Rng(seed_, "distill/on-policy", uint64_t(step * batch.batch + b)),
                                                    .cache = {}});
    c.cache.expected = int64_t(prompt) + c.room;
    const auto segment = std::span(batch.segment).subspan(size_t(b * batch.length), size_t(batch.length));
    size_t read = prompt - 1;  // the student sees the document that it continues, not those before it
    while (read > 0 && segment[read - 1] == segment[prompt - 1]) --read;
    const std::vector<int64_t> seen(begin + ptrdiff_t(read), begin + ptrdiff_t(prompt));
    const at::Tensor tokens = at::tensor(seen, at::kLong).unsqueeze(0);
    const at::Tensor hidden = writer.hidden_cached(tokens, c.cache);
    draw(c, writer.next_logits(hidden.narrow(0, hidden.size(0) - 1, 1)), 0);
  }
  for (;;) {
    throw_if_interrupted();
    std::vector<Continuation*> open;
    std::vector<KvCache*> caches;
    std::vector<int64_t> last;
    for (Continuation& c : all)
      if (c.room > 0) open.push_back(&c), caches.push_back(&c.cache), last.push_back(c.ids.back());
    if (open.empty()) break;
    const at::Tensor logits = writer.next_logits(writer.hidden_next(at::tensor(last, at::kLong), caches));
    for (size_t i = 0; i < open.size(); ++i) draw(*open[i], logits, int64_t(i));
  }
  for (const Continuation& c : all) replace(batch, c);
  return batch;
}

}  // namespace overproof
