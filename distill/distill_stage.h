#pragma once
// Stage "distill": trains a student on a teacher's soft targets. The result depends only on inputs and configuration: a run that
// was killed and started again ends with the same bytes.

#include "core/stage.h"
#include "data/document_routes.h"
#include "distill/on_policy.h"
#include "distill/train_options.h"

namespace overproof {

/// Of option teacher-share where it is not given.
inline constexpr double kUsualTeacherShare = 0.5;

/// What is done with a teacher of another tokenizer than the student's.
enum class AlignTokens { none, bytes };

/// How several teachers share the work.
struct TeacherOptions {
  StringMap mix;
  RouteField route_by = RouteField::none;
  StringMap routes;
  template <class V>
  void visit(V&& v) {
    v("mix", mix, any_value(),
      "teachers and their shares of the probabilities that the student learns, such as targets=0.5,a=0.3,b=0.2: names of --teachers, 'targets' and 'teacher'; "
      "shares are divided by their sum");
    v("route-by", route_by,
      enum_of<RouteField>({{"none", RouteField::none}, {"source", RouteField::source}, {"license", RouteField::license}, {"teacher", RouteField::teacher}}),
      "the field of a document that decides which teacher is responsible for it; 'teacher' is the member of that name of the corpus's records");
    v("routes", routes, any_value(),
      "with route-by: values of the field and names of teachers, such as manpages=a,rfc=b,*=targets; '*' are all other values. By 'teacher', a value without a "
      "route is the name itself");
  }
};

struct DistillConfig {
  TrainOptions training{.steps = 0, .learning_rate = 1e-3, .router_lr_scale = 0.1, .warmup = 10, .balance_rate = 1e-4};
  StringMap loss;  ///< empty: forward-kl=1-ce_weight,cross-entropy=ce_weight
  double ce_weight = 0.0, teacher_share = kUsualTeacherShare;
  TeacherOptions teachers;
  AlignTokens align = AlignTokens::none;
  OnPolicyOptions on_policy;
  LoraOptions lora;
  int64_t order_seed = 0;
  int64_t checkpoint_every = 50, evaluate_every = 0, evaluate_windows = 16, patience = 0;
  template <class V>
  void visit(V&& v) {
    v("steps", training.steps, in_range(0, 1e9), "steps of training; 0: one pass over the soft targets, or without any over the corpus");
    v("order-seed", order_seed, seed_value(), "without soft targets: seed of the order of windows");
    training.visit(v);
    training.visit_optimizer(v);
    lora.visit(v);
    v("loss", loss, any_value(),
      "losses and their weights, such as forward-kl=0.9,cross-entropy=0.1; some have a number, as in jensen-shannon:0.1=1. On all "
      "targets: forward-kl, cross-entropy. On top-k targets or with --teacher and --teacher-share 1: reverse-kl, jensen-shannon:0.5, "
      "total-variation, skewed-kl:0.1, skewed-reverse-kl:0.1, entropy-gated:1 (nats), top-k-kl:32 (ids). Of the student's router: "
      "router-z, balance. With --teacher and --teacher-share 1: hidden-mse, hidden-cosine, ffn-mse. With --align bytes: merged-kl, universal. Of what the student "
      "draws with --on-policy: sampled-reverse-kl:1e-4, unlikelihood:4 (ids), and with --tasks: reward. docs/distill.md has their formulas; default: forward-kl and cross-entropy by "
      "ce-weight");
    v("ce-weight", ce_weight, in_range(0, 1),
      "weight of the cross-entropy with the corpus in the default loss; 1 - ce-weight is that of the KL from the teacher");
    v("teacher-share", teacher_share, in_range(0, 1),
      "with --teacher and soft targets: its share of the probabilities that the student learns; 1 - teacher-share is that of the soft targets");
    teachers.visit(v);
    v("align", align, enum_of<AlignTokens>({{"none", AlignTokens::none}, {"bytes", AlignTokens::bytes}}),
      "a teacher of another tokenizer that runs alongside: none refuses it; bytes compares where both tokenizers have a boundary in the same byte of the "
      "text. Then the default loss is merged-kl instead of forward-kl, and universal can be used");
    v("on-policy", on_policy.share, in_range(0, 1),
      "share of the steps in which the student continues the windows, or completes --tasks, and learns at what it wrote; needs --teacher and --teacher-share 1");
    v("on-policy-prompt", on_policy.prompt, in_range(1, 1 << 20), "least ids of a window before what the student writes");
    v("on-policy-tokens", on_policy.tokens, in_range(1, 1 << 20), "most ids that the student writes in a window");
    v("on-policy-temperature", on_policy.temperature, in_range(0, 20), "divides the student's logits in draws; 0: the most probable id");
    v("on-policy-group", on_policy.group, in_range(1, 65536),
      "with --tasks: completions of a task in a step, whose rewards are compared; divides batch-size");
    v("checkpoint-every", checkpoint_every, in_range(0, 1e9),
      "steps between checkpoints from which a killed run resumes; 0: none");
    v("evaluate-every", evaluate_every, in_range(0, 1e9),
      "steps between evaluations on held-out windows of the corpus: cross-entropy, and with --teacher the KL from it; 0: none");
    v("evaluate-windows", evaluate_windows, in_range(1, 1e6), "held-out windows of an evaluation");
    v("patience", patience, in_range(0, 1e9),
      "evaluations without a lower held-out KL (without --teacher: cross-entropy) after which the training stops; 0: never");
  }
};

/// Slots: student (any decoder, dense or mixture), corpus, and of the others at least one: targets (soft targets; they also fix the
/// order of windows), teacher (a decoder that runs alongside, mixed with the targets, and that evaluations compare with). tasks: a file of
/// verify/task.h, which the student completes in on-policy steps; command: a program that judges tasks of the type `command`. Any other
/// slot is a further teacher, soft targets or a decoder, that `mix` or `routes` names. Writes a checkpoint,
/// steps.jsonl with one StepRecord a line, steps.safetensors (records/step_records.h) and, for a mixture of experts, the router counts
/// (records/router_counts.h). Throws MismatchError when targets, corpus and student do not belong together.
StageReport run_distill(const DistillConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
