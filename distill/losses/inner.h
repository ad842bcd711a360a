#pragma once
// Losses of what is inside the models: the student's router, and layers compared with the teacher's. Unlike losses of logits they are
// small next to the pass that makes them, so autograd has their gradient.
//
// Per token; layers are those of the student, each with the teacher's layer at the same relative depth:
//   router-z       mean over layers of (log sum_e exp z_e)^2, z the router's scores (Zoph et al. 2022, "ST-MoE", eq. 5)
//   balance        mean over layers of sum_e f_e P_e over the sequence: f_e = E / (k W) x weight of the tokens sent to expert e, P_e =
//                  weighted mean of sigmoid(z_e) / sum sigmoid(z); 1 where loads are even (DeepSeek-AI 2024, "DeepSeek-V3", eq. 17-20)
//   hidden-mse     mean over layers of |M h - t|^2 / |t|^2, h and t the residual streams after the layer
//   hidden-cosine  mean over layers of 1 - cos(M h, t)
//   ffn-mse        hidden-mse of what the layer's FFN adds to the residual stream
// M is the identity where both models have one width, else a matrix for each layer that is learned with the student and then dropped
// (Jiao et al. 2020, "TinyBERT", eq. 8). Divided by |t|^2 because a few dimensions and first tokens of a residual stream are larger than
// all others by orders of magnitude.

#include <ATen/core/Tensor.h>

#include <span>

#include "distill/losses/losses.h"
#include "model/decoder.h"

namespace overproof {

/// Layers of one model in one forward pass of `tokens` rows.
struct InnerRows {
  std::span<const RouterRecord> routing;          ///< with scores; empty unless a loss needs them
  std::span<const LayerStates> student, teacher;  ///< empty unless a loss needs them
  std::span<const at::Tensor> projections;  ///< M of each layer of the student, [width of the teacher, width]; empty: identity
  at::Tensor weight;                        ///< F32 [tokens]
  int64_t length = 0;                       ///< of a sequence; the rows are whole sequences
};

/// The teacher's layer that is compared with the student's `layer`.
int64_t teacher_layer(int64_t layer, int64_t student_layers, int64_t teacher_layers);

/// Adds the values of the inner terms to `sums`, as chunked_loss() adds those of the others. Returns the sum of weight x value, with
/// autograd's record; undefined without such a term.
at::Tensor inner_losses(const InnerRows& rows, const LossTerms& terms, LossSums& sums);

/// What any of the terms needs to see.
bool any_needs(const LossTerms& terms, Inside what);

}  // namespace overproof
