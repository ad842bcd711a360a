#pragma once
// The tests on outputs of models, as functions of numbers alone: evaluate/evidence_compare.h collects the numbers.

#include <set>
#include <span>

#include "data/watermark.h"
#include "evidence/evidence.h"

namespace overproof {

/// Committed-order test (Kuditipudi et al. 2025, "Blackbox model provenance via palimpsestic membership inference"): a model
/// fits best what it was trained on last. Spearman's correlation of the place of each window in the committed order of
/// training with the suspect's score on it (KL to the teacher or loss, minus its linear regression on the scores of teacher and
/// reference model, which are independent of the order; this has less noise than a difference); the test is for a negative one. The
/// order was drawn by a key after the corpus was fixed, so for a suspect that is independent of it every pairing is equally likely,
/// for any windows. `draws` random pairings confirm the tail (evidence/distributions.h).
EvidenceTest order_test(std::span<const double> positions, std::span<const double> scores, int64_t draws, uint64_t seed);

/// Agreement with controls (Nikolic et al. 2025, "Model provenance testing for large language models"): on how many prompts is
/// the suspect's most probable next token that of A, and that of each control? For each control the exact sign test on prompts
/// where one of the two agrees with the suspect and the other does not, one prompt a window; Holm's correction over controls; the
/// p-value is the largest adjusted one, since A must be closer than every control. It assumes that a control is as close as an
/// unrelated model would be: with few controls it also finds an unrelated A that happens to be closest. So the rank of A among the
/// controls is reported, too, whose p-value, 1 / (1 + controls) at best, assumes exchangeability only.
struct ControlAnswers {
  std::string name;
  std::vector<int32_t> tokens;
};
EvidenceTest agreement_test(std::span<const int32_t> suspect, std::span<const int32_t> a,
                            const std::vector<ControlAnswers>& controls);

/// Radioactivity (Sander et al. 2024, "Watermarking makes language models radioactive"): green tokens among the suspect's most
/// probable next tokens. Each context is scored once, where it first occurs, in the order in which the text was sampled: then no
/// green list that was used before has influenced the suspect's input, and the count is exactly binomial for a suspect that is
/// independent of the key.
class RadioactivityCount {
 public:
  explicit RadioactivityCount(const WatermarkKey& key) : key_(key) {}
  /// A context whose green list was used before: it is not scored.
  void skip(std::span<const int32_t> context);
  /// The suspect's prediction after a context of key.context() ids or more, and the next token of the text (-1: none).
  void add(std::span<const int32_t> context, int32_t predicted, int32_t actual);
  int64_t scored() const { return scored_; }
  EvidenceTest test(const std::string& computed_on) const;

 private:
  bool fresh(std::span<const int32_t> context);
  const WatermarkKey& key_;
  std::set<std::vector<int32_t>> seen_;
  int64_t scored_ = 0, green_ = 0, text_scored_ = 0, text_green_ = 0;
};

inline constexpr const char* kOrderQuestion =
    "the suspect does not depend on the order of training, which a key drew after the corpus was fixed";
inline constexpr const char* kAgreementQuestion =
    "the suspect is no closer to A than to a control model (by rank: A and the controls are exchangeable to it)";
inline constexpr const char* kRadioactivityQuestion = "the suspect does not depend on the watermark's key";

}  // namespace overproof
