#include "data/token_batch.h"

#include <algorithm>

#include "core/error.h"

namespace overproof {
namespace {

template <class T>
Digest digest_of(std::span<const T> values) {
  return sha256(std::span(reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()));
}

void put(Sha256& hash, const Digest& digest) { hash.update(digest.bytes.data(), digest.bytes.size()); }

}  // namespace

double TokenBatch::total_weight() const {
  double sum = 0;
  for (const float w : weight) sum += double(w);
  return sum;
}

TokenBatch TokenBatch::used_part(int64_t first, int64_t count) const {
  TokenBatch part{.batch = count, .length = 1};
  for (int64_t b = first; b < first + count; ++b)
    for (int64_t t = length; t > part.length; --t)
      if (weight[size_t(b * length + t - 1)] != 0) part.length = t;
  const auto take = [&](const auto& from, auto& to, int64_t width, int64_t columns) {
    for (int64_t b = first; b < first + count && !from.empty(); ++b)
      to.insert(to.end(), from.begin() + b * width, from.begin() + b * width + columns);
  };
  take(numbers, part.numbers, 1, 1);
  take(ids, part.ids, length + 1, part.length + 1);
  take(weight, part.weight, length, part.length);
  take(segment, part.segment, length, part.length);
  take(source, part.source, length, part.length);
  take(reward, part.reward, 1, 1);
  take(advantage, part.advantage, length, part.length);
  return part;
}

bool TokenBatch::uniform() const {
  return std::all_of(weight.begin(), weight.end(), [](float w) { return w == 1.0f; });
}

bool TokenBatch::one_segment() const {
  return std::all_of(segment.begin(), segment.end(), [](int32_t s) { return s == 0; });
}

Digest TokenBatch::root(std::span<const Digest> taught) const {
  OVERPROOF_CHECK(int64_t(taught.size()) == batch);
  const bool plain = uniform() && one_segment();
  Sha256 hash;
  hash.update(plain ? "overproof batch v1" : "overproof batch v2");
  std::vector<int32_t> narrow;
  for (int64_t b = 0; b < batch; ++b) {
    uint8_t number[8];
    for (int i = 0; i < 8; ++i) number[i] = uint8_t(uint64_t(numbers[size_t(b)]) >> (8 * i));
    hash.update(number, sizeof number);
    const std::span<const int64_t> wide = sequence_ids(b);
    narrow.assign(wide.begin(), wide.end());  // ids are below 2^31
    put(hash, digest_of(std::span<const int32_t>(narrow)));
    if (!plain) {
      const auto row = size_t(b * length), count = size_t(length);
      put(hash, digest_of(std::span(weight).subspan(row, count)));
      put(hash, digest_of(std::span(segment).subspan(row, count)));
    }
    put(hash, taught[size_t(b)]);
  }
  return hash.finish();
}

TokenSources::TokenSources(const Corpus& corpus) : corpus_(corpus) {
  for (const Document& d : corpus.documents()) names_.push_back(d.source);
  std::ranges::sort(names_);
  names_.erase(std::unique(names_.begin(), names_.end()), names_.end());
  source_of_.reserve(corpus.documents().size());
  for (const Document& d : corpus.documents())
    source_of_.push_back(int32_t(std::ranges::lower_bound(names_, d.source) - names_.begin()));
}

void TokenSources::read_window(Split split, int64_t window, std::span<int32_t> out) const {
  const int64_t length = corpus_.window_length();
  OVERPROOF_CHECK(int64_t(out.size()) == length);
  for (int64_t at = window * length, end = at + length; at < end;) {
    const Document& d = corpus_.document_at(split, at);
    const int64_t stop = std::min(end, d.first_token + d.tokens);
    const int32_t source = source_of_[size_t(&d - corpus_.documents().data())];
    std::fill(out.begin() + (at - window * length), out.begin() + (stop - window * length), source);
    at = stop;
  }
}

void read_segments(const Corpus& corpus, Split split, int64_t window, std::span<int32_t> out) {
  const int64_t length = corpus.window_length();
  OVERPROOF_CHECK(int64_t(out.size()) == length);
  std::ranges::fill(out, 0);
  if (!corpus.document_attention()) return;
  int32_t segment = 0;
  for (int64_t at = window * length, end = at + length; at < end; ++segment) {
    const Document& d = corpus.document_at(split, at);
    const int64_t stop = std::min(end, d.first_token + d.tokens);
    std::fill(out.begin() + (at - window * length), out.begin() + (stop - window * length), segment);
    at = stop;
  }
}

WindowSequence order_of(const TrainingOrder& order) {
  return [order](int64_t position) { return order.window_of_block(order.block_at(position)); };
}

WindowSequence order_of(const Permutation& permutation, int64_t windows) {
  return [permutation, windows](int64_t position) { return permutation.forward(position % windows); };
}

WindowBatches::WindowBatches(std::shared_ptr<const Corpus> corpus, Split split, WindowSequence order, int64_t batch_size,
                             int64_t steps)
    : corpus_(std::move(corpus)),
      sources_(*corpus_),
      split_(split),
      order_(std::move(order)),
      batch_size_(batch_size),
      steps_(steps) {}

double WindowBatches::step_weight(int64_t step) const {
  if (!corpus_->has_mask() && !corpus_->has_weights()) return double(step_tokens());
  std::vector<float> mask(size_t(corpus_->window_length()));
  double sum = 0;
  for (int64_t b = 0; b < batch_size_; ++b) {
    corpus_->read_weights(split_, order_(step * batch_size_ + b), mask);
    for (const float w : mask) sum += double(w);
  }
  return sum;
}

TokenBatch WindowBatches::at(int64_t step) const {
  OVERPROOF_CHECK(step >= 0);
  const int64_t length = corpus_->window_length();
  TokenBatch batch;
  batch.batch = batch_size_;
  batch.length = length;
  batch.numbers.resize(size_t(batch_size_));
  batch.ids.resize(size_t(batch_size_ * (length + 1)));
  batch.weight.resize(size_t(batch.tokens()));
  batch.segment.resize(size_t(batch.tokens()));
  batch.source.resize(size_t(batch.tokens()));
  for (int64_t b = 0; b < batch_size_; ++b) {
    const int64_t window = batch.numbers[size_t(b)] = order_(step * batch_size_ + b);
    corpus_->read_window(split_, window, std::span(batch.ids).subspan(size_t(b * (length + 1)), size_t(length + 1)));
    const auto row = size_t(b * length), count = size_t(length);
    sources_.read_window(split_, window, std::span(batch.source).subspan(row, count));
    corpus_->read_weights(split_, window, std::span(batch.weight).subspan(row, count));
    read_segments(*corpus_, split_, window, std::span(batch.segment).subspan(row, count));
  }
  return batch;
}

}  // namespace overproof
