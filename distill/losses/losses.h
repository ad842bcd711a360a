#pragma once
// The losses of training, one file each, those of logits with the gradient written down instead of recorded. Logits exist for one chunk of rows
// at a time and are overwritten by their gradient, so peak memory does not grow with tokens x vocabulary.
//
// Per token, with teacher p, student q = softmax(z / T) and label y:
//   forward-kl       T^2 sum_i p_i (log p_i - log q_i)   nats (Hinton et al. 2015, section 2, for the T^2)
//   reverse-kl       T^2 sum_i q_i (log q_i - log p_i)   nats (Gu et al. 2024, "MiniLLM")
//   jensen-shannon   T^2 (b KL(p | m) + (1 - b) KL(q | m)), m = b p + (1 - b) q, nats; b = 0.5 unless given, as in
//                    "jensen-shannon:0.1=1" (Agarwal et al. 2024, "On-policy distillation of language models", section 2)
//   total-variation  T^2 sum_i |p_i - q_i| / 2           of at most 1 x T^2 (Wen et al. 2023, "f-divergence minimization")
//   skewed-kl        T^2 KL(p | a p + (1 - a) q)         a = 0.1 unless given (Ko et al. 2024, "DistiLLM", section 3.1)
//   skewed-reverse-kl T^2 KL(q | (1 - a) p + a q)        the same
//   entropy-gated    forward-kl where H(p) > h, reverse-kl elsewhere; h = 1 nat unless given (after Jin et al. 2026,
//                    "Entropy-aware on-policy distillation", which adds forward-kl at such tokens)
//   top-k-kl         T^2 (sum_K p_i (log p_i - log q_i) + t (log t - log r)), K the k likeliest ids of p, t = 1 - sum_K p and
//                    r = 1 - sum_K q; k = 32 unless given
//   sampled-reverse-kl  log q_y - log p_y, y drawn by the student: on average reverse-kl, with its gradient by the score function,
//                    (log q_y - log p_y) d log q_y (Gu et al. 2024, "MiniLLM", the part of a single step); and for ids with q_i < e and
//                    p_i > q_i, which it will hardly draw, forward-kl's p_i (log p_i - log q_i); e = 1e-4 unless given
//   reward           -A log q_y, y drawn by the student and A its advantage (distill/rewards.h); constant in A
//   unlikelihood     -log (1 - q_y), y drawn by the student where it completes n ids in a row that it had written before; n = 4 unless given (Welleck
//                    et al. 2020, "Neural text generation with unlikelihood training", equation 7, on what the student writes as in section 5.2)
//   merged-kl, universal  towards a teacher of another tokenizer: aligned.h. Of targets over the student's ids, merged-kl is forward-kl and
//                    universal T^2 sum_i |p_(i) - q_(i)|, both sorted
//   router-z, balance, hidden-mse, hidden-cosine, ffn-mse: inner.h
//   cross-entropy    -log softmax(z)_y                   at temperature 1, nats
//   loss             sum over the terms of weight x value
//
// What a loss needs of the teacher is in its row (`takes`); teacher/targets.h has the kinds:
//   sampled   estimates p without bias. A loss that is linear in p, but for a term without q, has a gradient without bias then: of
//             the losses above only forward-kl. Its value is larger than the true one by what sampling takes from the entropy of p:
//             compare it along a run, not with zero. Others are refused.
//   aligned   is of a teacher of another tokenizer, at places where both have read the same text.
//   top-k     leaves a tail t = 1 - sum_K p, compared with the student's own 1 - sum_K q as one more bin. No divergence of the
//             list above becomes larger by putting ids together, so the values are lower bounds of the true ones.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "teacher/targets.h"

namespace overproof {

/// One row of sparse targets.
struct SparseRow {
  std::span<const float> p;      ///< the teacher's probabilities of the ids that the row names
  std::span<const float> log_q;  ///< the student's log-probabilities of the same ids
  double tail;                   ///< the teacher's probability of all other ids
};

/// Gradient of a row in z / T: rest q_v at ids that the row does not name, named q_i + at[i] at those that it names.
struct SparseGradient {
  double rest = 0, named = 0;
  std::vector<double> at;  ///< [ids of the row]
};

/// A chunk of rows with a probability of the teacher for every id.
struct DenseRows {
  const at::Tensor &log_q, &log_p, &p;  ///< F32 [rows, vocabulary]
  const at::Tensor& weight;             ///< F64 [rows], or undefined: all 1
  const at::Tensor &drawn, &advantage;  ///< I64 [rows, 1] the labels and F32 [rows, 1] their advantages; undefined where the student drew none
  const at::Tensor& repeated;           ///< F32 [rows, 1] 1 where such a label completes a run that was there before, else 0; or undefined
  /// Sum over rows of weight x values F64 [rows].
  double total(const at::Tensor& values) const;
};

/// Gradient of a chunk in z / T: q times the student's probabilities, p times the teacher's, and `other`. The first two cost no
/// memory.
struct DenseGradient {
  double q = 0, p = 0;
  at::Tensor other;  ///< F32 [rows, vocabulary], or undefined
  /// Adds weight x rows to `other`; may take the memory of `rows`.
  void add(at::Tensor rows, double weight);
};

/// A chunk of rows compared with their labels.
struct LabelRows {
  const at::Tensor& log_q;   ///< F32 [rows, 1] the student's log-probability of the label, at temperature 1
  const at::Tensor& weight;  ///< F64 [rows], or undefined: all 1
};

/// Gradient of a chunk in z: q_scale q, and `label` added at the label.
struct LabelGradient {
  double q = 0, label = 0;
};

/// How much a term counts, and the number after the loss's name.
struct TermFactors {
  double weight = 1, parameter = 0;
};

struct InnerRows;  // inner.h

/// What a loss needs to see inside the models.
enum class Inside { nothing, router, layers };

/// A loss. Each function returns the value, for several rows their weighted sum, and adds factors.weight x gradient to `gradient`
/// unless that is null. A loss has functions of teacher rows, or the one of labels, or the one of what is inside the models (inner.h),
/// whose value, a scalar F64, has autograd's record.
struct Loss {
  std::string_view name;  ///< in --loss and in step records
  std::string_view help;
  std::vector<TargetKind> takes = {};  ///< kinds of targets; of no meaning for labels
  /// A number that the user may give as "name:number=weight": its value if not given, and its limits. Without limits: none.
  double parameter = 0, least = 0, most = 0;
  bool integer = false;  ///< the number is a whole one
  double (*sparse)(const SparseRow& row, const TermFactors& factors, SparseGradient* gradient) = nullptr;
  double (*dense)(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) = nullptr;
  double (*labels)(const LabelRows& rows, const TermFactors& factors, LabelGradient* gradient) = nullptr;
  bool drawn = false;  ///< is of labels that the student drew: zero where it drew none
  bool of_repeats = false;  ///< and only of those that complete a run of `parameter` ids that was there before; of draws at any temperature
  Inside inside = Inside::nothing;
  at::Tensor (*inner)(const InnerRows& rows) = nullptr;
  /// Whether it compares with the teacher's distribution.
  bool of_targets() const { return dense != nullptr && !drawn; }
};

extern const Loss kForwardKl, kCrossEntropy, kReverseKl, kJensenShannon, kTotalVariation, kSkewedKl, kSkewedReverseKl,
    kEntropyGated, kTopKKl, kMergedKl, kUniversal, kRouterZ, kBalance, kHiddenMse, kHiddenCosine, kFfnMse, kSampledReverseKl, kReward, kUnlikelihood;

/// Every loss, in the order in which terms are summed and recorded.
const std::vector<const Loss*>& all_losses();

/// A loss and its weight in the sum. A term of weight 0 is computed and recorded, but does not train.
struct LossTerm {
  const Loss* loss;
  double weight;
  double parameter = loss->parameter;
};
using LossTerms = std::vector<LossTerm>;

/// From an option such as "forward-kl=0.9,cross-entropy=0.1" or "jensen-shannon:0.1=1". Throws UsageError for an unknown loss or
/// one that is given twice, a weight that is not a number of at least 0, a parameter out of range, and when no weight is above 0.
LossTerms parse_losses(const StringMap& weights);

/// Throws UsageError, naming loss and targets, where a term cannot use targets of this kind.
void require_targets(const LossTerms& terms, TargetKind kind);

struct LossOptions {
  LossTerms terms = {{&kForwardKl, 1.0}};
  double temperature = 1.0;
  double grad_scale = 1.0;  ///< multiplies the gradients (1 / weight of the whole batch), not the values
  bool gradient = true;     ///< false: values only
};

/// Sums over rows, each row times its weight, nats. Divide by `weight` for the mean.
struct LossSums {
  std::vector<double> values;  ///< by term
  double weight = 0;           ///< sum of the rows' weights
  double total(const LossTerms& terms) const;
  LossSums& operator+=(const LossSums& other);
};

/// Labels and weights of the rows. `labels` may be empty when no term needs them; `weight` empty: all 1; `advantage` empty: the student
/// did not draw the labels. `repeated` empty: none completes a run that was there before.
struct RowLabels {
  std::span<const int64_t> labels;
  std::span<const float> weight;
  std::span<const float> advantage = {}, repeated = {};
};

/// Losses of hidden [rows, hidden] under head [vocabulary, hidden] against the rows of `targets` from `first_target` on, which are
/// made chunk by chunk where they are states; ids of a teacher beyond `head` are padding, with logits of minus infinity. d_hidden
/// [rows, hidden] is written when options.gradient; d_head [vocabulary, hidden], if not null, is added to: a frozen head costs nothing.
/// Throws UsageError as require_targets().
LossSums chunked_loss(const at::Tensor& hidden, const at::Tensor& head, const Targets& targets, int64_t first_target,
                      const RowLabels& rows, const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head);

}  // namespace overproof
