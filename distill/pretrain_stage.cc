#include "distill/pretrain_stage.h"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include "core/json.h"
#include "distill/pretraining.h"
#include "distill/state_digest.h"
#include "distill/train_loop.h"
#include "distill/trained_files.h"
#include "records/step_log.h"

namespace overproof {

StageReport run_pretrain(const PretrainConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  const TrainOptions& options = config.training;
  Pretraining pretraining = make_pretraining(config, inputs);
  Training& training = pretraining.training;
  Trainer& trainer = training.trainer();
  const ModelConfig& shape = training.student().config();
  const ComputeChoice compute = use_compute(options.compute, shape.hidden_size, outputs);

  StepRecord last;
  const StepLog log = train_all(training,
                                {"pretrain", digest_interval(options.digest_every, training.step_tokens()), config.checkpoint_every,
                                 options.keep_every, pretraining.held_out.get(), config.evaluate_every},
                                outputs, last);
  const int64_t steps = trainer.steps_done(), tokens = steps * training.step_tokens();

  at::NoGradGuard no_grad;
  const DType dtype = pretrained_dtype(options.dtype);
  trainer.swap_average();
  round_weights(training.student(), dtype);
  save_decoder(training.student(), outputs.folder(), dtype);
  write_tokenizer(inputs.path("tokenizer"), options.repetition_penalty, outputs.folder());

  StageReport report;
  report.metrics() = {{"steps", steps},
                      {"batch_size", options.batch_size},
                      {"tokens", tokens},
                      {"training_windows", pretraining.windows},
                      {"trained_parameters", trainer.trained_parameters()},
                      {"final", step_log_line({.terms = training.terms()}, last)},
                      {"parameters", shape.parameters()},
                      {kComputeMetric, compute.name()}};
  write_step_log(log, outputs.folder(), report.metrics());
  record_dtype(report.metrics(), dtype);
  if (log.records && (dtype != DType::f32 || trainer.publishes_others()))
    report.metrics()[kPublishedWeights] = digest_of_weights(training.student()).hex();
  report.summary = {fmt::format("a llama of {} parameters, {:.1f} % of them in FFNs and {:.1f} % in embedding and head", shape.parameters(),
                                100.0 * double(3 * shape.layers * shape.hidden_size * shape.intermediate_size) / double(shape.parameters()),
                                100.0 * double((shape.tie_embeddings ? 1 : 2) * shape.vocab_size * shape.hidden_size) / double(shape.parameters())),
                    fmt::format("{} steps, {} tokens ({:.2f} passes over the corpus): cross-entropy {:.4f} nats a token in the last step", steps, tokens,
                                double(steps * options.batch_size) / double(pretraining.windows), last.loss),
                    compute.summary()};
  if (const HeldOutTrack& t = log.held_out; t.count > 0)
    report.summary.push_back(fmt::format("held-out cross-entropy {:.4f} nats a token at best, after step {}", t.best, t.best_step + 1));
  return report;
}

}  // namespace overproof
