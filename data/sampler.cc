#include "data/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/logits.h"

namespace overproof {
namespace {

/// Ids by falling logit, equals by number, with their cumulative mass. Only as many are sorted as were asked about.
template <class Mass>
class RankedMass {
 public:
  /// The ids with a logit above `likely` are sorted first: one pass finds them, where finding the 64 largest takes several.
  RankedMass(std::span<const float> logits, double likely, Mass mass) : logits_(logits), mass_(mass), ids_(logits.size()) {
    std::iota(ids_.begin(), ids_.end(), 0);
    const auto end = std::partition(ids_.begin(), ids_.end(), [&](int32_t id) { return double(logits_[size_t(id)]) > likely; });
    if (const auto above = size_t(end - ids_.begin()); above > 0 && above <= kMostLikely) sort_to(above, false);
  }
  /// The first place whose cumulative mass reaches `mass`; the last place when none does.
  size_t place_of(double mass) {
    while (cumulative_.size() < ids_.size() && (cumulative_.empty() || cumulative_.back() < mass)) sort_more();
    const auto found = std::lower_bound(cumulative_.begin(), cumulative_.end(), mass);
    return std::min<size_t>(size_t(found - cumulative_.begin()), ids_.size() - 1);
  }
  double cumulative(size_t place) const { return cumulative_[place]; }
  int32_t id(size_t place) const { return ids_[place]; }

 private:
  static constexpr size_t kMostLikely = 4096;

  void sort_more() { sort_to(std::min(ids_.size(), std::max<size_t>(64, 8 * cumulative_.size())), true); }
  /// `select`: the next ones up to `end` are not in front yet.
  void sort_to(size_t end, bool select) {
    const auto precedes = [&](int32_t a, int32_t b) {
      const float x = logits_[size_t(a)], y = logits_[size_t(b)];
      return x != y ? x > y : a < b;
    };
    const size_t done = cumulative_.size();
    const auto at = [&](size_t place) { return ids_.begin() + ptrdiff_t(place); };
    if (select && end < ids_.size()) std::nth_element(at(done), at(end), ids_.end(), precedes);
    std::sort(at(done), at(end), precedes);
    for (size_t place = done; place < end; ++place)
      cumulative_.push_back((place > 0 ? cumulative_.back() : 0.0) + mass_(logits_[size_t(ids_[place])]));
  }

  std::span<const float> logits_;
  Mass mass_;
  std::vector<int32_t> ids_;
  std::vector<double> cumulative_;
};

/// Each id of `before` once, however often it is there. Excluded logits stay what they are.
void penalise(std::vector<float>& logits, std::span<const int32_t> before, float penalty) {
  std::vector<int32_t> ids(before.begin(), before.end());
  std::ranges::sort(ids);
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (const int32_t id : ids) {
    if (id < 0 || size_t(id) >= logits.size()) continue;
    float& logit = logits[size_t(id)];
    if (std::isfinite(logit)) logit = std::max(kExcludedLogit, logit > 0 ? logit / penalty : logit * penalty);
  }
}

}  // namespace

int32_t sample_token(std::span<const float> logits, std::span<const int32_t> before, const SamplingOptions& options,
                     const WatermarkKey* watermark, Rng& rng) {
  std::vector<float> raised;
  if (options.repetition_penalty != 1) {
    raised.assign(logits.begin(), logits.end());
    penalise(raised, before, float(options.repetition_penalty));
    logits = raised;
  }
  if (watermark && int64_t(before.size()) >= watermark->context()) {
    const WatermarkKey::GreenList list = watermark->after(before);
    if (raised.empty()) raised.assign(logits.begin(), logits.end());
    for (size_t i = 0; i < raised.size(); ++i)
      if (list.green(int32_t(i))) raised[i] += float(options.watermark_strength);
    logits = raised;
  }
  const double most = double(checked_maximum(logits));
  if (options.temperature == 0)
    return int32_t(std::find(logits.begin(), logits.end(), float(most)) - logits.begin());  // the least id of equals
  const auto mass_of = [&](float logit) { return std::exp((double(logit) - most) / options.temperature); };
  double total = 0;
  for (const float x : logits) total += mass_of(x);
  constexpr double kLikely = 5;  // temperatures below the largest logit: beyond, an id has less than a hundredth of its probability
  RankedMass ranked(logits, most - kLikely * options.temperature, mass_of);
  const double nucleus = options.top_p < 1 ? ranked.cumulative(ranked.place_of(options.top_p * total)) : total;
  return ranked.id(ranked.place_of(rng.uniform() * nucleus));
}

}  // namespace overproof
