#include "distill/on_policy.h"

#include <algorithm>

#include "distill/continuations.h"

namespace overproof {
namespace {

/// How many ids of a window come before the first that the student writes.
size_t prompt_length(const TokenBatch& batch, int64_t row, int64_t least) {
  const auto weight = std::span(batch.weight).subspan(size_t(row * batch.length), size_t(batch.length));
  const auto counted = std::ranges::find_if(weight, [](float w) { return w > 0; });
  const auto before = counted == weight.end() ? size_t(0) : size_t(counted - weight.begin()) + 1;
  return std::min(std::max(size_t(least), before), size_t(batch.length));
}

/// Puts what was written behind the first `prompt` ids into the batch.
void replace(TokenBatch& batch, int64_t row_number, const std::vector<int32_t>& ids, size_t prompt) {
  const auto row = size_t(row_number * batch.length), written = ids.size() - prompt;
  const auto weight = std::span(batch.weight).subspan(row, size_t(batch.length));
  const auto segment = std::span(batch.segment).subspan(row, size_t(batch.length));
  std::ranges::fill(weight, 0.0f);
  std::ranges::fill(weight.subspan(prompt - 1, written), 1.0f);
  std::copy(ids.begin() + ptrdiff_t(prompt), ids.end(), batch.ids.begin() + row_number * (batch.length + 1) + ptrdiff_t(prompt));
  const size_t end = std::min(ids.size(), size_t(batch.length));  // the last id of a full window is a label only
  std::fill(segment.begin() + ptrdiff_t(prompt), segment.begin() + ptrdiff_t(end), segment[prompt - 1]);
}

}  // namespace

OnPolicyBatches::OnPolicyBatches(std::unique_ptr<BatchSource> windows, const Decoder& student, std::set<int32_t> ends,
                                 const OnPolicyOptions& options, uint64_t seed)
    : windows_(std::move(windows)), student_(student), ends_(std::move(ends)), options_(options), seed_(seed) {}

bool OnPolicyBatches::follows(int64_t step) const { return options_.written_before(step + 1) == options_.written_before(step); }

TokenBatch OnPolicyBatches::at(int64_t step) const {
  TokenBatch batch = windows_->at(step);
  if (follows(step)) return batch;
  std::vector<Continuation> all;
  std::vector<size_t> prompts;
  for (int64_t b = 0; b < batch.batch; ++b) {
    const size_t prompt = prompt_length(batch, b, options_.prompt);
    const auto begin = batch.sequence_ids(b).begin();
    const auto segment = std::span(batch.segment).subspan(size_t(b * batch.length), size_t(batch.length));
    size_t seen = prompt - 1;  // the student sees the document that it continues, not those before it
    while (seen > 0 && segment[seen - 1] == segment[prompt - 1]) --seen;
    prompts.push_back(prompt);
    all.push_back({.ids = {begin, begin + ptrdiff_t(prompt)},
                   .seen = seen,
                   .room = std::min(options_.tokens, batch.length + 1 - int64_t(prompt)),
                   .rng = Rng(seed_, "distill/on-policy", uint64_t(step * batch.batch + b))});
  }
  write_on(student_, all, ends_, options_.temperature);
  for (int64_t b = 0; b < batch.batch; ++b) replace(batch, b, all[size_t(b)].ids, prompts[size_t(b)]);
  batch.advantage.assign(size_t(batch.tokens()), 0.0f);
  return batch;
}

}  // namespace overproof
