#pragma once
// Distillation losses with the gradient written down, not recorded. Logits exist for one chunk of tokens at a time and are
// overwritten by their gradient, so peak memory does not grow with tokens x vocabulary.
//
// Per token, with teacher p, student q = softmax(z / T) and label y:
//   kl   = T^2 sum_i p_i (log p_i - log q_i)      forward KL, nats (Hinton et al. 2015, section 2, for the T^2)
//   ce   = -log softmax(z)_y                      cross-entropy at temperature 1, nats
//   loss = (1 - w) kl + w ce                      w = ce_weight
// Sampled targets estimate p without bias, so the gradient is unbiased too, but the KL's value is larger than the true one
// by what sampling takes from the entropy of p: compare it along a run, not with zero.
//
// Sparse targets of kind top-k leave a tail t = 1 - sum_K p, compared with the student's own 1 - sum_K q as one more bin:
//   kl adds T^2 t (log t - log(1 - sum_K q)); the gradient in z/T is q - p inside K and q (1 - t / (1 - sum_K q)) outside.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace overproof {

/// Teacher rows in CSR form: row r has entries [offsets[r], offsets[r + 1]). `offsets` need not start at 0: it may be a
/// part of a longer list. tail has one value a row.
struct SparseTargets {
  std::span<const int64_t> offsets;
  std::span<const int32_t> ids;
  std::span<const float> probabilities;
  std::span<const float> tail;
};

struct LossOptions {
  double temperature = 1.0;
  double ce_weight = 0.0;   ///< in [0, 1]
  double grad_scale = 1.0;  ///< multiplies the gradients (1 / tokens of the whole batch), not the losses
  bool gradient = true;     ///< false: values only
};

/// Sums over the rows, nats. Divide by `tokens` for the mean.
struct LossSums {
  double kl = 0, ce = 0;
  int64_t tokens = 0;
  double loss(double ce_weight) const { return (1 - ce_weight) * kl + ce_weight * ce; }
  LossSums& operator+=(const LossSums& other);
};

/// Loss of hidden [tokens, hidden] under head [vocab, hidden] against sparse targets; labels one a token (all may be absent
/// when ce_weight is 0: then ce is 0). d_hidden [tokens, hidden] is written when options.gradient; d_head [vocab, hidden],
/// if not null, is added to: a frozen head costs nothing.
LossSums sparse_loss(const at::Tensor& hidden, const at::Tensor& head, const SparseTargets& targets,
                     std::span<const int64_t> labels, const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head);

/// The same against the teacher's whole distribution, which is made chunk by chunk from its hidden states.
LossSums dense_loss(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& teacher_hidden,
                    const at::Tensor& teacher_head, std::span<const int64_t> labels, const LossOptions& options,
                    at::Tensor* d_hidden, at::Tensor* d_head);

/// Rows of a chunk: as many as keep one buffer of logits near 16 MiB.
int64_t loss_chunk_rows(int64_t vocab_size);

}  // namespace overproof
