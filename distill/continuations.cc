#include "distill/continuations.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/interrupt.h"
#include "data/sampler.h"
#include "model/decoder_tensors.h"
#include "model/host_values.h"

namespace overproof {

void write_on(const Decoder& student, std::vector<Continuation>& all, const std::set<int32_t>& ends, double temperature) {
  at::NoGradGuard no_grad;
  const Generator writer(student.config(), DecoderTensors(student));
  const SamplingOptions sampling{.temperature = temperature};
  const auto draw = [&](Continuation& c, const at::Tensor& logits, int64_t row) {
    const auto width = size_t(logits.size(1));
    const int32_t id = sample_token(host_values<float>(logits).subspan(size_t(row) * width, width), c.ids, sampling, nullptr, c.rng);
    c.ids.push_back(id);
    c.room = ends.contains(id) ? 0 : c.room - 1;
  };
  std::vector<char> again(all.size() + 1, 0);  // sequences with the beginning of the one before, which is read once
  for (size_t i = 1; i < all.size(); ++i) again[i] = all[i].seen == all[i - 1].seen && all[i].ids == all[i - 1].ids;
  KvCache read;
  at::Tensor logits;
  for (size_t i = 0; i < all.size(); ++i) {
    throw_if_interrupted();
    Continuation& c = all[i];
    if (again[i]) {
      c.cache = read.copy();
    } else {
      c.cache.expected = int64_t(c.ids.size()) + c.room;
      const std::vector<int64_t> seen(c.ids.begin() + ptrdiff_t(c.seen), c.ids.end());
      const at::Tensor hidden = writer.hidden_cached(at::tensor(seen, at::kLong).unsqueeze(0), c.cache);
      logits = writer.next_logits(hidden.narrow(0, hidden.size(0) - 1, 1));
      read = again[i + 1] ? c.cache.copy() : KvCache();
    }
    draw(c, logits, 0);
  }
  for (;;) {
    throw_if_interrupted();
    std::vector<Continuation*> open;
    std::vector<KvCache*> caches;
    std::vector<int64_t> last;
    for (Continuation& c : all)
      if (c.room > 0) open.push_back(&c), caches.push_back(&c.cache), last.push_back(c.ids.back());
    if (open.empty()) break;
    logits = writer.next_logits(writer.hidden_next(at::tensor(last, at::kLong), caches));
    for (size_t i = 0; i < open.size(); ++i) draw(*open[i], logits, int64_t(i));
  }
}

}  // namespace overproof
