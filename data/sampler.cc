#include "data/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace overproof {

int32_t sample_token(std::span<const float> logits, std::span<const int32_t> before, const SamplingOptions& options,
                     const WatermarkKey* watermark, Rng& rng) {
  std::vector<float> raised;
  if (watermark && int64_t(before.size()) >= watermark->context()) {
    const WatermarkKey::GreenList list = watermark->after(before);
    raised.assign(logits.begin(), logits.end());
    for (size_t i = 0; i < raised.size(); ++i)
      if (list.green(int32_t(i))) raised[i] += float(options.watermark_strength);
    logits = raised;
  }
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto precedes = [&](int32_t a, int32_t b) {
    return logits[size_t(a)] != logits[size_t(b)] ? logits[size_t(a)] > logits[size_t(b)] : a < b;
  };
  if (options.temperature == 0) return *std::min_element(ids.begin(), ids.end(), precedes);
  std::sort(ids.begin(), ids.end(), precedes);
  std::vector<double> cumulative;
  double total = 0;
  for (const int32_t id : ids)
    cumulative.push_back(total += std::exp((double(logits[size_t(id)]) - double(logits[size_t(ids[0])])) / options.temperature));
  const auto reaches = [&](double mass) {
    return std::min<size_t>(size_t(std::lower_bound(cumulative.begin(), cumulative.end(), mass) - cumulative.begin()),
                            ids.size() - 1);
  };
  const double nucleus = cumulative[reaches(options.top_p * total)];
  return ids[reaches(rng.uniform() * nucleus)];
}

}  // namespace overproof
