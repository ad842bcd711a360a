#pragma once
// Losses towards a teacher of another tokenizer. Both have read the same text where a span of tokens begins that spell the same
// (data/token_alignment.h), so what they expect next can be compared there.
//
// Of a span let s_1 ... s_m be the student's labels, t_1 ... t_n the teacher's, q and p the distributions at its first row of each,
// C the pairs of ids that spell the same.
//
//   merged-kl    KL between two lists of probabilities of the same texts: each pair c of C', the span E, and all the rest R.
//                  q_E = prod_k q_k(s_k), p_E = prod_k p_k(t_k): the conditional probabilities of a span's tokens make that of the merged
//                  token. R is what is left to 1. C' is C without pairs that have s_1 or t_1, whose texts E is a part of; where E is a
//                  pair of C itself (m = n = 1), C' with E is C.
//                  No divergence of this form becomes larger by putting texts together, so it is at most that over all texts. Where
//                  both vocabularies are one, R is empty and this is forward KL.
//                (Merging by conditional probabilities: GOLD, Patino et al. 2025, "Unlocking on-policy distillation for any model family".)
//   universal    sum_i |p_(i) - q_(i)| of both lists sorted, the shorter ended with zeros (Boizard et al. 2024, "Towards cross-tokenizer
//                distillation", section 3)
//
// A span counts with the least weight of its rows, and is one row of the sum; rows in no span add nothing but to `weight`.

#include <ATen/core/Tensor.h>

#include <utility>

#include "distill/losses/losses.h"

namespace overproof {

/// As chunked_loss, of which it has the arguments, with `states` for the whole of `hidden`. At temperature 1.
LossSums aligned_loss(const at::Tensor& hidden, const at::Tensor& head, const AlignedStates& states, const RowLabels& rows,
                      const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head);

/// Of q F32 [rows, ids] and p [rows, other ids], each row sorted: |q - p|, of which only sums over a row have a meaning, and its slope at
/// the places of q, both [rows, ids].
std::pair<at::Tensor, at::Tensor> sorted_difference(const at::Tensor& q, const at::Tensor& p);

}  // namespace overproof
