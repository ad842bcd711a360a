#pragma once
// The tests on what models say, as functions of numbers alone: evidence_compare.h collects the numbers.

#include <set>
#include <span>

#include "evaluate/evidence.h"
#include "data/watermark.h"

namespace overproof {

/// Committed-order test (Kuditipudi et al. 2025, "Blackbox model provenance via palimpsestic membership inference"): a model
/// remembers best what it was trained on last. Spearman's correlation of the place of each window in the committed order of
/// training with the suspect's score on it (KL to the teacher or loss, less what teacher and a reference model explain of it by a
/// straight line, which knows as little of the order and has less noise than a difference); the test is for a negative one. The
/// order was drawn by a key after the corpus was fixed, so for a suspect that has nothing to do with it every pairing is equally
/// likely, whatever the windows are. `draws` random pairings confirm the tail (evaluate/distributions.h).
EvidenceTest order_test(std::span<const double> positions, std::span<const double> scores, int64_t draws, uint64_t seed);

/// Agreement with controls (Nikolic et al. 2025, "Model provenance testing for large language models"): on how many prompts is
/// the suspect's most probable next token that of A, and that of each control? For each control the exact sign test on prompts
/// where one of the two agrees with the suspect and the other does not, one prompt a window; Holm's correction over controls; the
/// p-value is the largest adjusted one, as A must beat them all. It takes the controls for what an unrelated model would be: with
/// few controls it finds kinship where A happens to be the likeliest stranger, so the rank of A among the controls is reported,
/// too, whose p-value, 1 / (1 + controls) at best, rests on exchangeability alone.
struct ControlAnswers {
  std::string name;
  std::vector<int32_t> tokens;
};
EvidenceTest agreement_test(std::span<const int32_t> suspect, std::span<const int32_t> a,
                            const std::vector<ControlAnswers>& controls);

/// Radioactivity (Sander et al. 2024, "Watermarking makes language models radioactive"): green tokens among the suspect's most
/// probable next tokens. Each context is scored once, where it first occurs, in the order in which the text was sampled: then no
/// green list that was looked at before has shaped what the suspect saw, and the count is binomial exactly for a suspect that
/// knows nothing of the key.
class RadioactivityCount {
 public:
  explicit RadioactivityCount(const WatermarkKey& key) : key_(key) {}
  /// Contexts that decided a green list before, without a score.
  void skip(std::span<const int32_t> context);
  /// The suspect's prediction, and the token that the text goes on with (-1: none), after a context of key.context() ids or more.
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
