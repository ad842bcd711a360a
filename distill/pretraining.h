#pragma once
// The training of `pretrain`, built from its inputs and configuration.

#include "distill/held_out.h"
#include "distill/pretrain_stage.h"
#include "distill/training.h"

namespace overproof {

struct Pretraining {
  Training training;
  int64_t windows;  ///< training windows of the corpus
  std::unique_ptr<HeldOutLoss> held_out;  ///< null without evaluate-every
};

/// Throws MismatchError when corpus and tokenizer do not belong together, UsageError.
Pretraining make_pretraining(const PretrainConfig& config, const Inputs& inputs);

/// A decoder with the first weights: normal with `deviation`, projections into the residual stream divided by sqrt(2 x layers), norms 1
/// (Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3; the deviation is that of its published code).
Decoder initial_decoder(const ModelConfig& shape, double deviation, uint64_t seed);

/// The type of the weights that `pretrain` writes: there is no parent to take it from.
DType pretrained_dtype(WeightDType asked);

}  // namespace overproof
