#include "evidence/output_tests.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "evidence/distributions.h"

namespace overproof {

EvidenceTest order_test(std::span<const double> positions, std::span<const double> scores, int64_t draws, uint64_t seed) {
  OVERPROOF_CHECK(positions.size() == scores.size());
  EvidenceTest test;
  test.name = "committed-order";
  test.question = kOrderQuestion;
  if (positions.size() < 3)
    return not_run(test.name, test.question, fmt::format("only {} windows were trained on", positions.size()));
  if (!std::all_of(scores.begin(), scores.end(), [](double s) { return std::isfinite(s); }))
    return not_run(test.name, test.question, "the suspect's probabilities are not finite");
  std::vector<double> falling;
  for (const double s : scores) falling.push_back(-s);
  const RankTest rank = rank_test(positions, falling);
  test.statistic = "Spearman correlation of place in training with score; negative where later windows are known better";
  test.value = -rank.rho;
  test.log_p = rank.log_p;
  test.p_kind = rank.exact
                    ? "exact: all pairings were counted"
                    : "exact null distribution, its tail by the Pearson curve of the exact moments; monte_carlo_p is exact alone";
  test.cannot_show =
      "that the suspect was taught: it may be this model, or one made from it. Without significance nothing is shown; later "
      "training "
      "removes the trace. Read as significant only what is below 1e-6, since the owner of the run could have tried many keys";
  test.details = {{"windows", positions.size()}, {"draws", draws}};
  if (draws > 0) {
    const int64_t count = pairings_at_least(positions, falling, draws, seed);
    test.details["monte_carlo_p"] = double(1 + count) / double(1 + draws);
  }
  return test;
}

EvidenceTest agreement_test(std::span<const int32_t> suspect, std::span<const int32_t> a,
                            const std::vector<ControlAnswers>& controls) {
  EvidenceTest test;
  test.name = "agreement";
  test.question = kAgreementQuestion;
  if (controls.empty()) return not_run(test.name, test.question, "there is no control model (--controls)");
  if (suspect.empty()) return not_run(test.name, test.question, "there are no prompts");
  OVERPROOF_CHECK(suspect.size() == a.size());
  const auto n = int64_t(suspect.size());
  const auto agree_with = [&](std::span<const int32_t> other) {
    int64_t count = 0;
    for (size_t i = 0; i < suspect.size(); ++i) count += other[i] == suspect[i];
    return count;
  };
  const int64_t with_a = agree_with(a);
  std::vector<double> log_p;
  Json list = Json::array();
  int64_t as_close = 0;
  for (const ControlAnswers& control : controls) {
    OVERPROOF_CHECK(control.tokens.size() == suspect.size());
    int64_t only_a = 0, only_control = 0;
    for (size_t i = 0; i < suspect.size(); ++i) {
      const bool to_a = a[i] == suspect[i], to_control = control.tokens[i] == suspect[i];
      only_a += to_a && !to_control;
      only_control += to_control && !to_a;
    }
    const int64_t with_control = agree_with(control.tokens);
    as_close += with_control >= with_a;
    log_p.push_back(log_binomial_at_least(only_a, only_a + only_control, 0.5));
    // The paper's test of two proportions, for comparison: it assumes that the two sets of answers are independent.
    const double pooled = double(with_a + with_control) / double(2 * n),
                 spread = std::sqrt(2 * pooled * (1 - pooled) / double(n));
    const double z = spread > 0 ? double(with_a - with_control) / double(n) / spread : 0;
    list.push_back({{"name", control.name},
                    {"agreement", double(with_control) / double(n)},
                    {"only_a", only_a},
                    {"only_control", only_control},
                    {"log10_p", log_p.back() / std::log(10.0)},
                    {"z", z},
                    {"z_log10_p", log_normal_sf(z) / std::log(10.0)}});
  }
  const std::vector<double> adjusted = holm_adjusted(log_p);
  for (size_t i = 0; i < adjusted.size(); ++i) list[i]["holm_log10_p"] = adjusted[i] / std::log(10.0);
  test.computed_on = fmt::format("{} prompts, {} control models", n, controls.size());
  test.statistic = "share of prompts on which the suspect's next token is A's";
  test.value = double(with_a) / double(n);
  test.log_p = *std::max_element(adjusted.begin(), adjusted.end());
  test.p_kind =
      "exact sign tests against each control, Holm's correction, the largest; valid only if each control is at least as close to "
      "the suspect as "
      "an unrelated model would be. rank_p is exact without that";
  test.cannot_show =
      "that the suspect comes from A: models of the same teacher, data or family agree, too. It shows that A is closer than the "
      "controls, and its value depends on how similar they are to A in size, data and quality";
  test.details = {{"prompts", n}, {"controls", list}, {"rank_p", double(1 + as_close) / double(1 + controls.size())}};
  return test;
}

bool RadioactivityCount::fresh(std::span<const int32_t> context) {
  const auto last = context.last(size_t(key_.context()));
  return seen_.insert(std::vector<int32_t>(last.begin(), last.end())).second;
}

void RadioactivityCount::skip(std::span<const int32_t> context) {
  if (int64_t(context.size()) >= key_.context()) fresh(context);
}

void RadioactivityCount::add(std::span<const int32_t> context, int32_t predicted, int32_t actual) {
  if (int64_t(context.size()) < key_.context() || !fresh(context)) return;
  const WatermarkKey::GreenList list = key_.after(context);
  ++scored_;
  green_ += list.green(predicted);
  if (actual < 0) return;
  ++text_scored_;
  text_green_ += list.green(actual);
}

EvidenceTest RadioactivityCount::test(const std::string& computed_on) const {
  EvidenceTest test;
  test.name = "radioactivity";
  test.question = kRadioactivityQuestion;
  if (scored_ == 0) return not_run(test.name, test.question, "no text has a context to score");
  test.computed_on = computed_on;
  test.statistic = "share of the suspect's next tokens that are green";
  test.value = double(green_) / double(scored_);
  test.log_p = log_binomial_at_least(green_, scored_, key_.green_fraction());
  test.p_kind = "exact: binomial, each context scored once, where it first occurs";
  test.cannot_show =
      "how the suspect received the text: it may have been trained on documents that others published. The watermark must have "
      "been "
      "set while the teacher was sampled; without it this test finds nothing. The key must have been fixed before the suspect "
      "was "
      "examined (sampling.json has its commitment)";
  test.details = {{"scored", scored_},
                  {"green", green_},
                  {"green_fraction", key_.green_fraction()},
                  {"context", key_.context()},
                  {"key_commitment", "sha256:" + key_.commitment().hex()},
                  {"text_green", text_scored_ > 0 ? double(text_green_) / double(text_scored_) : 0.0},
                  {"text_log10_p", log_binomial_at_least(text_green_, text_scored_, key_.green_fraction()) / std::log(10.0)}};
  return test;
}

}  // namespace overproof
