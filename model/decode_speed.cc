#include "model/decode_speed.h"

#include <ATen/ATen.h>

#include <chrono>

#include "core/interrupt.h"

namespace overproof {
namespace {

constexpr int64_t kTimedTokens = 32;

}  // namespace

double decode_speed(const Generator& model, std::span<const int32_t> prompt) {
  KvCache cache;
  cache.expected = int64_t(prompt.size()) + kTimedTokens;
  at::Tensor hidden = model.hidden_cached(at::tensor(std::vector<int64_t>(prompt.begin(), prompt.end()), at::kLong).unsqueeze(0), cache);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < kTimedTokens; ++i) {
    throw_if_interrupted();
    const at::Tensor logits = model.next_logits(hidden.narrow(0, hidden.size(0) - 1, 1));
    hidden = model.hidden_cached(logits.argmax(-1).unsqueeze(0), cache);
  }
  return double(kTimedTokens) / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace overproof
