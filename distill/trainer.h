#pragma once
// One training step: forward, hand-written loss gradient, backward, clipping, AdamW, expert balancing. In addition
// to the weights it holds one gradient and two moments for each trained tensor, and with `ema` an average.
//
// With several processes each rank takes its part of the batch's sequences, [batch x rank / size, batch x (rank + 1) / size);
// gradients, losses and counts are added up in the order of ranks, so every rank ends a step with the same weights.

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/group.h"
#include "core/json_fwd.h"
#include "data/token_batch.h"
#include "distill/losses/losses.h"
#include "distill/router_counter.h"
#include "distill/train_options.h"
#include "formats/safetensors.h"
#include "model/adapters.h"
#include "model/decoder.h"
#include "model/torch_setup.h"
#include "records/step_records.h"

namespace overproof {

/// The group of a parameter: "ffn", "router", "norms", "attention", "embeddings", "head", or "" for what is never trained by
/// gradient (the router's balancing bias).
std::string trained_group(const std::string& parameter);

/// Learning rate of step (from 0).
double learning_rate_at(const TrainOptions& options, int64_t step);

/// New balancing bias [experts] of a router: bias + rate x sign(mean load - load), less its mean; eight times the rate for an expert with
/// less than a tenth of the mean, which otherwise would get tokens again only after hundreds of steps. `load` [experts], of any unit.
void balance_bias(const at::Tensor& bias, const at::Tensor& load, double rate);

class Trainer {
 public:
  /// Marks the chosen groups of `model` (which must outlive this) as trained; of a model with adapters these, and nothing else. Throws
  /// UsageError when the model has no weight of the chosen groups.
  Trainer(Decoder& model, const TrainOptions& options, std::shared_ptr<const Group> group = single_process_group());

  /// The student's forward pass of the sequences [first, first + count) of a batch.
  struct Pass {
    const TokenBatch& batch;            ///< the step's; where the student wrote that, a part without the columns behind what it wrote
    int64_t first = 0, count = 0;
    at::Tensor hidden;                  ///< [count x length, hidden], without autograd's record
    std::vector<RouterRecord> routing;  ///< with it
    std::vector<LayerStates> layers;    ///< with it; empty unless asked for
    double grad_scale = 1;              ///< of all gradients
    at::Tensor* d_hidden = nullptr;     ///< written by the loss
    at::Tensor* d_head = nullptr;       ///< added to, unless null
    at::Tensor* inner_loss = nullptr;   ///< a scalar with autograd's record, or left undefined
  };
  using LossFunction = std::function<LossSums(const Pass& pass)>;

  /// From now on counts which experts each source's tokens are sent to. `counter`, which must outlive this, becomes part of
  /// state().
  void count_routing(RouterCounter& counter) { counter_ = &counter; }

  /// From now on passes have the scores of routers, the states of layers.
  void record_inside(bool scores, bool layers) { record_scores_ = scores, record_layers_ = layers; }
  /// Trains a tensor that is no weight of the model, with its rate and without decay.
  void add_trained(const std::string& name, at::Tensor tensor);

  /// The gradient of a batch, in the grad() of the trained tensors; `micro_batch` sequences in memory at a time. `loads` gets the
  /// tokens sent to each expert, a tensor I64 [experts] a layer.
  LossSums accumulate_gradients(const TokenBatch& batch, const LossFunction& loss, std::vector<at::Tensor>& loads);

  /// One step. The caller fills in the record's position, count of tokens so far and digests. Throws DivergenceError when loss or
  /// gradient are not finite; the weights then are those before the step.
  StepRecord step(const TokenBatch& batch, const LossTerms& terms, const LossFunction& loss);

  int64_t steps_done() const { return steps_done_; }
  int64_t trained_parameters() const;
  /// Tokens sent to each expert so far, I64 [layers, experts]; undefined for a dense model.
  const at::Tensor& expert_tokens() const { return expert_tokens_; }
  /// Load fractions [[per layer]] that sum to one.
  Json expert_load() const;
  /// Loads at the end, over the layer's mean, of about the last eight steps: the largest as a mean over layers and of all experts, and the least.
  struct Loads {
    double largest_mean = 1, largest = 1, least = 1;
  };
  Loads recent_loads() const;

  /// Exchanges the trained weights and their averages; a second call undoes it. Does nothing without `ema`.
  void swap_average();
  bool averages() const { return options_.ema > 0; }
  /// Merges the adapters into the weights and takes them off the model; a second call undoes it, to the bit. Does nothing without adapters.
  void swap_adapters();
  bool adapts() const { return !merged_weights_.empty() || !adapter_places(model_).empty(); }
  /// Whether other weights are published than those of the last step record.
  bool publishes_others() const { return averages() || adapts(); }

  /// Everything a later step depends on, as named tensors that remain the trainer's: weights being trained, moments, averages,
  /// router biases, load counts. Copying values into them and calling resume_at() continues bitwise.
  std::vector<NamedTensor> state() const;
  void resume_at(int64_t steps_done) { steps_done_ = steps_done; }
  /// The part of state() that is no weight of the model: moments, averages, tensors of add_trained() and load counts.
  std::vector<NamedTensor> optimizer_state() const;

 private:
  struct Trained {
    std::string name;
    at::Tensor weight, first, second, average;  // moments of AdamW; average undefined without ema
    bool decayed, router;
    bool of_model = true;    // a weight, else a tensor of its own that optimizer_state() has
    bool published = true;   // it, or what it makes, is in the student: it is averaged
  };
  void add_up_ranks(LossSums& sums, std::vector<at::Tensor>& loads);
  double gradient_norm() const;
  void update_weights(double rate, double gradient_scale);
  double balance_experts(const std::vector<at::Tensor>& loads);

  KeepFreedMemory keep_freed_memory_;
  Decoder& model_;
  TrainOptions options_;
  std::shared_ptr<const Group> group_;
  std::vector<Trained> trained_;
  at::Tensor expert_tokens_;
  at::Tensor recent_loads_;  ///< f32 [layers, experts]: over the layer's mean, a trailing mean of the steps with weight 1 / kRecentSteps
  RouterCounter* counter_ = nullptr;
  std::vector<at::Tensor> merged_weights_;  ///< while adapters are merged: the weights before
  std::vector<std::shared_ptr<LayerAdapters>> taken_off_;  ///< and the adapters
  int64_t steps_done_ = 0;
  bool record_scores_ = false, record_layers_ = false;
};

}  // namespace overproof
