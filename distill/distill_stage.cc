#include "distill/distill_stage.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "data/order.h"
#include "distill/checkpoint.h"
#include "distill/router_counts.h"
#include "distill/trainer.h"
#include "student/ffn.h"
#include "teacher/soft_targets.h"

namespace overproof {
namespace {

void require_same_origin(const SoftTargets& targets, const Corpus& corpus, const Inputs& inputs, const ModelConfig& student) {
  if (targets.corpus_root() != inputs.root("corpus")) throw UsageError("the soft targets were taught on another corpus; teach this one first");
  if (targets.tokenizer_probe() != corpus.tokenizer_probe()) throw UsageError("soft targets and corpus were made with different tokenizers");
  if (targets.window_length() != corpus.window_length())
    throw UsageError(fmt::format("soft targets have windows of {} tokens, the corpus of {}", targets.window_length(), corpus.window_length()));
  if (targets.vocab_size() != student.vocab_size)
    throw UsageError(fmt::format("the teacher speaks of {} ids, the student of {}", targets.vocab_size(), student.vocab_size));
  if (targets.blocks() < 1 || targets.blocks() > corpus.windows(Split::train))
    throw UsageError(fmt::format("{} blocks were taught but the corpus has {} training windows", targets.blocks(), corpus.windows(Split::train)));
}

// The windows, labels and teacher rows of one step, in the committed order.
struct Batch {
  at::Tensor windows;                // I64 [batch, length]
  std::vector<int64_t> labels;       // [batch x length]
  std::vector<int32_t> sources;      // [batch x length], of the inputs
  std::vector<TargetBlock> targets;  // [batch]
};

Batch read_batch(const Corpus& corpus, const TokenSources& sources, const SoftTargets& targets, const TrainingOrder& order, int64_t step,
                 int64_t size) {
  const int64_t length = corpus.window_length();
  Batch batch{at::empty({size, length}, at::kLong), {}, std::vector<int32_t>(size_t(size * length)), std::vector<TargetBlock>(size_t(size))};
  batch.labels.reserve(size_t(size * length));
  std::vector<int64_t> ids(size_t(length) + 1);
  for (int64_t b = 0; b < size; ++b) {
    const int64_t block = order.block_at(step * size + b), window = order.window_of_block(block);
    corpus.read_window(Split::train, window, ids);
    sources.read_window(Split::train, window, std::span(batch.sources).subspan(size_t(b * length), size_t(length)));
    std::copy_n(ids.begin(), length, batch.windows.data_ptr<int64_t>() + b * length);
    batch.labels.insert(batch.labels.end(), ids.begin() + 1, ids.end());
    targets.read_block(block, batch.targets[size_t(b)]);
  }
  return batch;
}

// Loss of windows [first, first + count): one call a window, since each has rows of its own.
LossSums batch_loss(const Batch& batch, int64_t first, int64_t count, const at::Tensor& hidden, const at::Tensor& head,
                    const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head) {
  const int64_t length = batch.windows.size(1);
  *d_hidden = at::empty_like(hidden);
  LossSums sums;
  for (int64_t b = 0; b < count; ++b) {
    const TargetBlock& t = batch.targets[size_t(first + b)];
    const std::span<const int64_t> labels(batch.labels.data() + (first + b) * length, size_t(length));
    at::Tensor part;
    sums += sparse_loss(hidden.narrow(0, b * length, length), head, {t.offsets, t.ids, t.probabilities, t.tail}, labels, options, &part,
                        d_head);
    d_hidden->narrow(0, b * length, length).copy_(part);
  }
  return sums;
}

}  // namespace

StageReport run_distill(const DistillConfig& config_in, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  DistillConfig config = config_in;
  const Corpus corpus(inputs.path("corpus"));
  const SoftTargets targets(inputs.path("targets"));
  require_tokenizer(inputs.path("student"), corpus.tokenizer_probe(), "the corpus");
  Decoder student(open_checkpoint(inputs.path("student")));
  const ModelConfig& shape = student.config();
  require_same_origin(targets, corpus, inputs, shape);

  const TrainingOrder order(targets.order_key(), corpus.windows(Split::train), targets.blocks());
  if (config.steps == 0) config.steps = (targets.blocks() + config.batch_size - 1) / config.batch_size;
  TrainOptions options;
  options.train = config.train;
  options.steps = config.steps;
  options.warmup = config.warmup;
  options.schedule = config.schedule;
  options.learning_rate = config.learning_rate;
  options.router_lr_scale = config.router_lr_scale;
  options.weight_decay = config.weight_decay;
  options.beta1 = config.beta1;
  options.beta2 = config.beta2;
  options.epsilon = config.epsilon;
  options.clip = config.clip;
  options.balance_rate = config.balance_rate;
  Trainer trainer(student, options);
  const TokenSources sources(corpus);
  RouterCounter counter(sources.names(), shape.layers, shape.n_routed_experts);
  if (shape.is_moe()) trainer.count_routing(counter);

  Json run = to_json(options_of(config));
  for (const auto& [slot, input] : inputs.all()) run["inputs"][slot] = input.root.hex();
  std::string log;
  resume_checkpoint(outputs.scratch(), trainer, log, run.dump());

  const int64_t step_tokens = config.batch_size * corpus.window_length();
  LossOptions loss_options;
  loss_options.temperature = targets.temperature();
  loss_options.ce_weight = config.ce_weight;
  StepRecord last;
  {
    Progress progress("distill", config.steps * step_tokens, "tokens", trainer.steps_done() * step_tokens);
    while (trainer.steps_done() < config.steps) {
      throw_if_interrupted();
      const Batch batch = read_batch(corpus, sources, targets, order, trainer.steps_done(), config.batch_size);
      last = trainer.step(batch.windows, config.micro_batch, config.ce_weight,
                          [&](int64_t first, int64_t count, const at::Tensor& hidden, double grad_scale, at::Tensor* d_hidden, at::Tensor* d_head) {
                            LossOptions scaled = loss_options;
                            scaled.grad_scale = grad_scale;
                            return batch_loss(batch, first, count, hidden, student.head(), scaled, d_hidden, d_head);
                          },
                          batch.sources);
      log += last.to_json().dump() + "\n";
      progress.update(trainer.steps_done() * step_tokens, fmt::format("loss {:.3f}, balance {:.2f}", last.loss, last.balance));
      if (config.checkpoint_every > 0 && trainer.steps_done() % config.checkpoint_every == 0 && trainer.steps_done() < config.steps)
        save_checkpoint(outputs.scratch(), trainer, log, run.dump());
    }
  }

  at::NoGradGuard no_grad;
  save_decoder(student, outputs.folder(), save_dtype(config.dtype));
  copy_tokenizer(inputs.path("student"), outputs.folder());
  outputs.folder().write_file("steps.jsonl", log);
  if (shape.is_moe()) write_router_counts(outputs.folder(), counter, inputs.path("student"));

  const double active = double(shape.active_parameters()) / double(shape.parameters());
  StageReport report;
  report.metrics() = {{"steps", config.steps},
                      {"batch_size", config.batch_size},
                      {"tokens", config.steps * step_tokens},
                      {"taught_windows", targets.blocks()},
                      {"trained_parameters", trainer.trained_parameters()},
                      {"final", last.to_json()},
                      {"parameters", shape.parameters()},
                      {"active_fraction", active},
                      {"ffn_activation", shape.ffn_activation()},
                      {"expert_load", trainer.expert_load()}};
  report.summary = {fmt::format("{} steps, {} tokens: loss {:.4f} nats a token (KL {:.4f}, cross-entropy {:.4f})", config.steps,
                                config.steps * step_tokens, last.loss, last.kl, last.ce),
                    fmt::format("trained {:.1f} of {:.1f} million parameters", double(trainer.trained_parameters()) / 1e6,
                                double(shape.parameters()) / 1e6),
                    fmt::format("activation: {:.1f} % of the FFN neurons, {:.1f} % of all parameters", 100 * shape.ffn_activation(), 100 * active)};
  return report;
}

}  // namespace overproof
