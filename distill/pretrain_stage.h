#pragma once
// Stage "pretrain": makes a small dense model from nothing but a corpus and a tokenizer, by the cross-entropy with the next token. The result
// depends only on inputs and configuration: a run that was killed and started again ends with the same bytes.

#include "core/stage.h"
#include "distill/train_options.h"
#include "formats/model_config.h"

namespace overproof {

struct PretrainConfig {
  TrainOptions training{
      .steps = 0, .batch_size = 16, .micro_batch = 8, .warmup = 100, .weight_decay = 0.1, .train = {"all"}};
  int64_t layers = 6, hidden_size = 256, heads = 4, kv_heads = 2, intermediate_size = 1024, context = 2048;
  double rope_theta = 10000, initial_deviation = 0.02;
  bool untied = false;
  int64_t seed = 0;
  int64_t checkpoint_every = 50, evaluate_every = 0, evaluate_windows = 16;
  template <class V>
  void visit(V&& v) {
    v("layers", layers, in_range(1, 256), "decoder layers");
    v("hidden-size", hidden_size, in_range(8, 16384), "width of the residual stream; a multiple of heads x 2");
    v("heads", heads, in_range(1, 256), "query heads");
    v("kv-heads", kv_heads, in_range(1, 256), "key and value heads; divides heads");
    v("intermediate-size", intermediate_size, in_range(8, 65536), "neurons of each FFN");
    v("context", context, in_range(1, 1 << 20), "max_position_embeddings, at least the window length of the corpus");
    v("rope-theta", rope_theta, in_range(1, 1e9), "base of the rotary frequencies");
    v("untied", untied, any_value(), "an output head of its own; else the head is the embedding");
    v("initial-deviation", initial_deviation, in_range(1e-6, 10),
      "standard deviation of the first weights; of output projections divided by the root of 2 x layers (GPT-2)");
    v("seed", seed, in_range(0, 9007199254740991.0), "of the first weights and of the order of windows");
    v("steps", training.steps, in_range(0, 1e9), "steps of training; 0: one pass over the training windows of the corpus");
    training.visit(v);
    training.visit_optimizer(v);
    v("checkpoint-every", checkpoint_every, in_range(0, 1e9),
      "steps between checkpoints from which a killed run resumes; 0: none");
    v("evaluate-every", evaluate_every, in_range(0, 1e9),
      "steps between evaluations of the cross-entropy on held-out windows of the corpus; 0: none");
    v("evaluate-windows", evaluate_windows, in_range(1, 1e6), "held-out windows of an evaluation");
  }
  /// The model with a vocabulary of `vocab` ids. Throws UsageError when the numbers do not fit each other.
  ModelConfig shape(int64_t vocab) const;
};

/// Slots: corpus, tokenizer (any model or artifact with the tokenizer of the corpus, of which nothing else is used). Writes a llama checkpoint with
/// that tokenizer, F32 unless the user asks otherwise, steps.jsonl and steps.safetensors (records/step_records.h). Windows are read in the
/// order of one keyed permutation, over and over. Throws MismatchError when corpus and tokenizer do not belong together.
StageReport run_pretrain(const PretrainConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
