#pragma once
// The losses of training, one file each, with the gradient written down instead of recorded. Logits exist for one chunk of rows
// at a time and are overwritten by their gradient, so peak memory does not grow with tokens x vocabulary.
//
// Per token, with teacher p, student q = softmax(z / T) and label y:
//   forward-kl     T^2 sum_i p_i (log p_i - log q_i)   nats (Hinton et al. 2015, section 2, for the T^2)
//   cross-entropy  -log softmax(z)_y                   at temperature 1, nats
//   loss           sum over the terms of weight x value
//
// Sparse targets of kind sample estimate p without bias, so the gradient is unbiased too, but the KL's value is larger than the
// true one by what sampling takes from the entropy of p: compare it along a run, not with zero.
// Sparse targets of kind top-k leave a tail t = 1 - sum_K p, compared with the student's own 1 - sum_K q as one more bin.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"

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

/// A chunk of rows with the teacher's whole distribution.
struct DenseRows {
  const at::Tensor &log_q, &log_p, &p;  ///< F32 [rows, vocabulary]
  const at::Tensor& weight;             ///< F64 [rows], or undefined: all 1
};

/// Gradient of a chunk in z / T: q_scale q + p_scale p.
struct DenseGradient {
  double q = 0, p = 0;
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

/// A loss. Each function returns the value, for several rows their weighted sum, and adds `weight` x gradient to `gradient`
/// unless that is null. A loss has either both functions of teacher rows, or the one of labels.
struct Loss {
  std::string_view name;  ///< in --loss and in step records
  std::string_view help;
  double (*sparse)(const SparseRow& row, double weight, SparseGradient* gradient) = nullptr;
  double (*dense)(const DenseRows& rows, double weight, DenseGradient* gradient) = nullptr;
  double (*labels)(const LabelRows& rows, double weight, LabelGradient* gradient) = nullptr;
};

extern const Loss kForwardKl, kCrossEntropy;

/// Every loss, in the order in which terms are summed and recorded.
const std::vector<const Loss*>& all_losses();

/// A loss and its weight in the sum. A term of weight 0 is computed and recorded, but does not train.
struct LossTerm {
  const Loss* loss;
  double weight;
};
using LossTerms = std::vector<LossTerm>;

/// From an option such as "forward-kl=0.9,cross-entropy=0.1". Throws UsageError for an unknown loss, a weight that is not a
/// number of at least 0, and when no weight is above 0.
LossTerms parse_losses(const StringMap& weights);

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

/// Sparse rows in CSR form: row r has entries [offsets[r], offsets[r + 1]). `offsets` need not start at 0: it may be a part of a
/// longer list. tail has one value a row.
struct SparseTargets {
  std::span<const int64_t> offsets;
  std::span<const int32_t> ids;
  std::span<const float> probabilities;
  std::span<const float> tail;
};

/// Labels and weights of the rows. `labels` may be empty when no term needs them; `weight` empty: all 1.
struct RowLabels {
  std::span<const int64_t> labels;
  std::span<const float> weight;
};

/// Losses of hidden [rows, hidden] under head [vocabulary, hidden] against sparse targets. d_hidden [rows, hidden] is written
/// when options.gradient; d_head [vocabulary, hidden], if not null, is added to: a frozen head costs nothing.
LossSums sparse_loss(const at::Tensor& hidden, const at::Tensor& head, const SparseTargets& targets, const RowLabels& rows,
                     const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head);

/// The same against the teacher's whole distribution, which is made chunk by chunk from its hidden states.
LossSums dense_loss(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& teacher_hidden,
                    const at::Tensor& teacher_head, const RowLabels& rows, const LossOptions& options, at::Tensor* d_hidden,
                    at::Tensor* d_head);

}  // namespace overproof
