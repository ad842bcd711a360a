#include "distill/distillation.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"
#include "data/private_corpus.h"
#include "data/tokenizer.h"
#include "distill/on_policy.h"
#include "distill/task_batches.h"
#include "distill/teachers.h"
#include "formats/generation_config.h"
#include "model/adapters.h"
#include "model/open_model.h"

namespace overproof {
namespace {

/// Ids that end a text of the student.
std::set<int32_t> end_ids_of(const fs::path& student) {
  std::set<int32_t> ends;
  for (const int64_t id : end_ids(student, *open_checkpoint(student).config)) ends.insert(int32_t(id));
  if (ends.empty()) ends.insert(open_tokenizer(student)->eos_id());  // -1 where there is none
  return ends;
}

/// The draws of a training follow the order of its windows, which the corpus commits to.
uint64_t seed_of(const Digest& key) {
  uint64_t seed = 0;
  for (size_t i = 0; i < 8; ++i) seed |= uint64_t(key.bytes[i]) << (8 * i);
  return seed;
}

/// Losses of what the student draws, and where that comes from.
void require_draws(const DistillConfig& config, const LossTerms& terms, const Inputs& inputs, double temperature) {
  const OnPolicyOptions& on_policy = config.on_policy;
  if (inputs.has("command") && !inputs.has("tasks")) throw UsageError("--command judges tasks; give --tasks as well");
  if (inputs.has("tasks") && on_policy.share == 0) throw UsageError("--tasks are what the student completes in a share of the steps; give --on-policy as well");
  bool of_windows = false;
  for (const LossTerm& term : terms) of_windows |= term.weight > 0 && !term.loss->drawn;
  for (const LossTerm& term : terms) {
    if (!term.loss->drawn) continue;
    const auto refuse = [&](std::string_view cause) { throw UsageError(fmt::format("option 'loss': '{}' {}", term.loss->name, cause)); };
    if (on_policy.share == 0) refuse("is of what the student draws; give --on-policy");
    if (on_policy.temperature != 1 && !term.loss->of_repeats) refuse("needs draws from the student's own distribution, --on-policy-temperature 1");
    if (temperature != 1) refuse("needs targets at temperature 1");
    if (on_policy.share < 1 && !of_windows) refuse("trains nothing in steps of windows; give --on-policy 1 or another loss");
    if (term.loss == &kReward && !inputs.has("tasks")) refuse("needs --tasks, whose verifiers judge what the student writes");
  }
}

}  // namespace

LossTerms loss_terms(const DistillConfig& config) {
  if (!config.loss.empty()) {
    if (config.ce_weight != 0) throw UsageError("options 'loss' and 'ce-weight' both set the loss; give one of them");
    return parse_losses(config.loss);
  }
  return {{config.align == AlignTokens::bytes ? &kMergedKl : &kForwardKl, 1 - config.ce_weight}, {&kCrossEntropy, config.ce_weight}};
}

Distillation make_distillation(const DistillConfig& config, const Inputs& inputs) {
  const auto corpus = std::make_shared<const Corpus>(inputs.path("corpus"));
  const auto targets = inputs.has("targets") ? open_targets(*corpus, inputs) : nullptr;
  LossTerms losses = loss_terms(config);
  require_draws(config, losses, inputs, targets ? targets->temperature() : 1.0);
  TrainOptions options = config.training;
  const int64_t windows = corpus->windows(Split::train), taught = targets ? targets->blocks() : windows;
  if (taught < 1) throw MismatchError("the corpus has no training window");
  const Digest key = targets ? targets->order_key() : order_key(inputs.root("corpus"), config.order_seed);
  const int64_t steps = options.steps > 0 ? options.steps : (taught + options.batch_size - 1) / options.batch_size;
  auto student = std::make_unique<Decoder>(open_model_for(*corpus, inputs, "student"));
  if (config.lora.rank > 0) {
    add_adapters(*student, {config.lora.rank, config.lora.alpha, config.lora.targets});
    options.balance_rate = 0;  // the adapters on their own base are the student
  }
  Teachers teachers = open_teachers(config, inputs, corpus, targets);
  const bool measures_kl = teachers.held_out != nullptr;
  std::unique_ptr<HeldOutLoss> held_out;
  if (config.evaluate_every > 0)
    held_out = std::make_unique<HeldOutLoss>(held_out_windows(corpus, key, config.evaluate_windows), std::move(teachers.held_out));
  else if (config.patience > 0) throw UsageError("option 'patience' needs 'evaluate-every' above 0: it counts evaluations");
  std::unique_ptr<BatchSource> batches = std::make_unique<WindowBatches>(
      corpus, Split::train, order_of(TrainingOrder(key, windows, taught)), options.batch_size, steps);
  if (config.on_policy.share > 0) {
    // Stored rows are of the window's own ids.
    if (!teachers.alongside)
      throw UsageError("option 'on-policy': nothing is stored for what the student will write; give --teacher and --teacher-share 1");
    if (config.teachers.route_by != RouteField::none)
      throw UsageError("options 'on-policy' and 'route-by': what the student writes belongs to no document; give --mix instead of --route-by");
    const fs::path& folder = inputs.path("student");
    if (inputs.has("tasks")) {
      const std::shared_ptr<const Tokenizer> tokenizer = open_tokenizer(folder);
      VerifierOptions verifiers;
      if (inputs.has("command")) verifiers.command = inputs.path("command");
      batches = std::make_unique<TaskBatches>(std::move(batches), options.batch_size, *student, tokenizer,
                                              TaskPrompts(inputs.path("tasks"), 1, /*plain=*/false, folder, *tokenizer, /*examples=*/false), std::move(verifiers), end_ids_of(folder),
                                              config.on_policy, key, seed_of(key));
    } else {
      batches = std::make_unique<OnPolicyBatches>(std::move(batches), *student, end_ids_of(folder), config.on_policy, seed_of(key));
    }
  }
  Training training(std::move(student), std::move(batches), std::move(teachers.signal), std::move(losses), options);
  training.salt_batches(corpus_batch_salt(inputs.path("corpus")));
  return {std::move(training), taught, std::move(held_out), measures_kl, std::move(teachers.facts)};
}

}  // namespace overproof
