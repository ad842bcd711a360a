#include "pipeline/stage_registry.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "data/corpus_stage.h"
#include "data/index_stage.h"
#include "distill/calibrate_stage.h"
#include "distill/distill_stage.h"
#include "distill/pretrain_stage.h"
#include "evaluate/activations_stage.h"
#include "evaluate/arena_stage.h"
#include "evaluate/evaluate_stage.h"
#include "pipeline/export_policy.h"
#include "pipeline/import_stage.h"
#include "pipeline/quantize_checked.h"
#include "pipeline/torch_functions.h"
#include "prune/experts_stage.h"
#include "prune/neurons_stage.h"
#include "prune/source_stage.h"
#include "prune/weights_stage.h"
#include "quantize/export_stage.h"
#include "records/merge_targets_stage.h"
#include "remote/capture_samples_stage.h"
#include "remote/capture_stage.h"
#include "remote/connect_stage.h"
#include "remote/import_samples_stage.h"
#include "remote/import_targets_stage.h"
#include "student/carve_stage.h"
#include "student/observe_stage.h"
#include "student/recover_stage.h"
#include "student/shrink_stage.h"
#include "student/tiny_teacher_stage.h"
#include "student/upcycle_stage.h"
#include "teacher/sample_stage.h"
#include "teacher/teach_stage.h"
#include "verify/verify_samples_stage.h"

namespace overproof {
namespace {

using Kind = Slot::Kind;

std::vector<StageSpec> make_stages() {
  const Slot teacher = {.name = "teacher", .help = "the teacher: a checkpoint folder, safetensors or GGUF"};
  const Slot corpus = {.name = "corpus", .help = "the corpus artifact"};
  const Slot statistics = {.name = "statistics", .help = "the artifact that observe made of the same teacher"};
  return {
      {.name = "import",
       .kind = "imported",
       .help = "Copies a model from outside into a run and checks it against its published digest.",
       .example = "overproof import --path SmolLM2-135M-Instruct.Q4_1.gguf --out runs/mine/teacher",
       .slots = {{.name = "path", .help = "a GGUF file, or a folder with config.json and safetensors", .kind = Kind::file}},
       .make = stage_maker<ImportConfig>(run_import)},
      {.name = "tiny-teacher",
       .kind = "seeded",
       .help = "Makes a small random teacher from a seed, for tests and examples.",
       .example = "overproof tiny-teacher --seed 1 --out runs/mine/teacher",
       .slots = {},
       .needs = Needs::torch,
       .make = stage_maker<TinyTeacherConfig>(torch_function<decltype(run_tiny_teacher)>)},
      {.name = "corpus",
       .kind = "corpus-of",
       .help = "Reads documents with their licences and splits them into tokens and windows.",
       .example = "overproof corpus --source texts --tokenizer runs/mine/teacher --out runs/mine/corpus",
       .slots = {{.name = "source",
                  .help = "texts: a folder of .txt and .md files (packages with copyright files), documents.jsonl with or without the texts, or a "
                          "single file of either kind",
                  .kind = Kind::file,
                  .required = false,
                  .hidden_by = "salt"},
                 {.name = "samples", .help = "an artifact made by sample, whose documents come in as well, or instead of source", .required = false},
                 {.name = "tokenizer", .help = "the tokenizer to use: any artifact that has one"},
                 {.name = "chat-template",
                  .help = "a Jinja file that renders conversations, instead of the template of the tokenizer's model",
                  .kind = Kind::file,
                  .required = false},
                 {.name = "salt",
                  .help = "makes the corpus private: a secret file made by 'audit salt'",
                  .kind = Kind::file,
                  .required = false}},
       .make = stage_maker<CorpusConfig>(run_corpus)},
      {.name = "pretrain",
       .kind = "pretrained-on",
       .help = "Trains a small model from random weights on a corpus: a teacher of your own.",
       .example = "overproof pretrain --corpus runs/mine/corpus --tokenizer runs/mine/tokenizer --steps 1000 --out runs/mine/teacher",
       .slots = {corpus, {.name = "tokenizer", .help = "the tokenizer that made the corpus: any artifact or model that has it"}},
       .needs = Needs::torch,
       .make = stage_maker<PretrainConfig>(torch_function<decltype(run_pretrain)>)},
      {.name = "index",
       .kind = "indexed",
       .help = "Sorts the texts of a corpus, so that 'audit trace --span' finds a passage.",
       .example = "overproof index --corpus runs/mine/corpus --out runs/mine/index",
       .slots = {corpus},
       .make = stage_maker<IndexConfig>(run_index)},
      {.name = "teach",
       .group = VerbGroup::teacher,
       .kind = "taught",
       .help = "Runs the teacher on a corpus and writes its outputs as compact soft targets.",
       .example = "overproof teach --teacher runs/mine/teacher --corpus runs/mine/corpus --out runs/mine/soft-targets",
       .slots = {teacher, corpus},
       .needs = Needs::torch,
       .make = stage_maker<TeachConfig>(torch_function<decltype(run_teach)>)},
      {.name = "connect",
       .group = VerbGroup::teacher,
       .kind = "connected",
       .help = "Finds out what a teacher behind a URL gives, and records server, model and terms; its artifact is a teacher for capture.",
       .example = "overproof connect --url http://127.0.0.1:8000/v1 --model NAME --tokenizer models/NAME --license LicenseRef-terms --out "
                  "runs/mine/server",
       .slots = {{.name = "tokenizer", .help = "a model with the tokenizer of the teacher: a folder, or a GGUF file", .kind = Kind::file}},
       .asks_server = true,
       .make = stage_maker<ConnectConfig>(run_connect)},
      {.name = "capture",
       .group = VerbGroup::teacher,
       .kind = "taught",
       .help = "Asks a teacher behind a URL about a corpus and writes its log-probabilities as soft targets; nothing is paid for twice.",
       .example = "overproof capture --teacher runs/mine/server --corpus runs/mine/corpus --token-budget 2000000 --out runs/mine/soft-targets",
       .slots = {{.name = "teacher", .help = "the artifact that connect made"}, corpus},
       .asks_server = true,
       .make = stage_maker<CaptureConfig>(run_capture)},
      {.name = "teach-shard",
       .group = VerbGroup::teacher,
       .kind = "taught-part",
       .help = "Does one part of the work of teach, for several machines; merge-targets puts the parts together.",
       .example = "overproof teach-shard --shard 2/4 --teacher runs/mine/teacher --corpus runs/mine/corpus --out runs/mine/part-2",
       .slots = {teacher, corpus},
       .needs = Needs::torch,
       .make = stage_maker<TeachShardConfig>(torch_function<decltype(run_teach_shard)>)},
      {.name = "merge-targets",
       .group = VerbGroup::teacher,
       .kind = "merged-targets",
       .help = "Puts the parts of soft targets together that teach-shard made.",
       .example = "overproof merge-targets --teacher runs/mine/teacher --corpus runs/mine/corpus --parts a=runs/mine/part-1,b=runs/mine/part-2 "
                  "--out runs/mine/soft-targets",
       .slots = {teacher, corpus},
       .more_models = true,
       .more_option = "parts",
       .more_help = "all parts",
       .make = stage_maker<MergeTargetsConfig>(run_merge_targets)},
      {.name = "import-targets",
       .group = VerbGroup::teacher,
       .kind = "taught",
       .help = "Takes log-probabilities that a teacher gave elsewhere as soft targets of a corpus.",
       .example = "overproof import-targets --source rows.jsonl --teacher runs/mine/server --corpus runs/mine/corpus --out runs/mine/soft-targets",
       .slots = {{.name = "source", .help = "JSON Lines of ids and log-probabilities (docs/teachers.md)", .kind = Kind::file},
                 {.name = "teacher", .help = "the teacher that gave them: an artifact of connect or import"},
                 corpus},
       .make = stage_maker<ImportTargetsConfig>(run_import_targets)},
      {.name = "capture-samples",
       .group = VerbGroup::teacher,
       .kind = "sampled-from",
       .help = "Asks a teacher behind a URL to answer prompts and writes its texts as samples; nothing is paid for twice.",
       .example = "overproof capture-samples --teacher runs/mine/server --prompts prompts.jsonl --token-budget 2000000 --out runs/mine/samples",
       .slots = {{.name = "teacher", .help = "the artifact that connect made"},
                 {.name = "prompts",
                  .help = "JSON Lines of what to ask: 'prompt', or 'messages' that end with the question",
                  .kind = Kind::file,
                  .required = false},
                 {.name = "corpus", .help = "or a corpus: the beginnings of its training documents are the prompts", .required = false}},
       .asks_server = true,
       .make = stage_maker<CaptureSamplesConfig>(run_capture_samples)},
      {.name = "import-samples",
       .kind = "sampled-from",
       .help = "Takes texts that a teacher wrote elsewhere as samples, with their lineage; corpus --samples reads them.",
       .example = "overproof import-samples --source answers.jsonl --teacher runs/mine/server --license LicenseRef-terms --out runs/mine/samples",
       .slots = {{.name = "source", .help = "JSON Lines: conversations, prompt and completion, or text", .kind = Kind::file},
                 {.name = "teacher", .help = "the teacher that wrote them: an artifact of connect or import"}},
       .make = stage_maker<ImportSamplesConfig>(run_import_samples)},
      {.name = "sample",
       .group = VerbGroup::teacher,
       .kind = "sampled-from",
       .help = "Samples documents from a teacher, or completions of tasks, with a watermark in them if a key is given.",
       .example = "overproof sample --teacher runs/mine/teacher --corpus runs/mine/corpus --count 1000 --out runs/mine/samples",
       .slots = {teacher,
                 {.name = "corpus", .help = "a corpus whose documents' beginnings are the prompts", .required = false},
                 {.name = "tasks",
                  .help = "JSON Lines of tasks, whose prompts are completed, for verify-samples (docs/verified.md)",
                  .kind = Kind::file,
                  .required = false},
                 {.name = "watermark-key",
                  .help = "a secret file made by 'watermark-key'",
                  .kind = Kind::file,
                  .required = false}},
       .needs = Needs::torch,
       .make = stage_maker<SampleConfig>(torch_function<decltype(run_sample)>)},
      {.name = "verify-samples",
       .group = VerbGroup::teacher,
       .kind = "verified-from",
       .help = "Judges completions of tasks (exact mathematics, patterns, programs in a sandbox) and keeps those that are correct.",
       .example = "overproof verify-samples --samples runs/mine/samples --out runs/mine/verified",
       .slots = {{.name = "samples", .help = "an artifact that `sample --tasks FILE` made"},
                 {.name = "command",
                  .help = "a program that judges tasks of the type 'command' (docs/verified.md); it runs with your rights",
                  .kind = Kind::file,
                  .required = false}},
       .make = stage_maker<VerifySamplesConfig>(run_verify_samples)},
      {.name = "observe",
       .group = VerbGroup::student,
       .kind = "observed",
       .help = "Records what a model's layers receive and do, once for carving, pruning and quantizing.",
       .example = "overproof observe --teacher runs/mine/teacher --corpus runs/mine/corpus --out runs/mine/statistics",
       .slots = {teacher, corpus},
       .needs = Needs::torch,
       .make = stage_maker<ObserveConfig>(torch_function<decltype(run_observe)>)},
      {.name = "carve",
       .group = VerbGroup::student,
       .kind = "carved-from",
       .help = "Regroups the FFN neurons of a dense teacher into experts, with a certificate that no neuron was lost.",
       .example = "overproof carve --teacher runs/mine/teacher --statistics runs/mine/statistics --out runs/mine/student-init",
       .slots = {teacher, statistics},
       .needs = Needs::torch,
       .make = stage_maker<CarveConfig>(torch_function<decltype(run_carve)>)},
      {.name = "upcycle",
       .group = VerbGroup::student,
       .kind = "upcycled-from",
       .help = "Makes a mixture of experts of copies of a dense model's FFNs: more weights, as many active ones.",
       .example = "overproof upcycle --teacher runs/mine/teacher --copies 8 --split 4 --out runs/mine/upcycled",
       .slots = {teacher},
       .needs = Needs::torch,
       .make = stage_maker<UpcycleConfig>(torch_function<decltype(run_upcycle)>)},
      {.name = "shrink",
       .group = VerbGroup::student,
       .kind = "shrunk-from",
       .help = "Makes a smaller dense model of the layers, neurons, heads and dimensions of a dense model that matter most on a corpus.",
       .example = "overproof shrink --teacher runs/mine/teacher --corpus runs/mine/corpus --layers 24 --intermediate-size 1024 --out runs/mine/small",
       .slots = {teacher, corpus},
       .needs = Needs::torch,
       .make = stage_maker<ShrinkConfig>(torch_function<decltype(run_shrink)>)},
      {.name = "recover",
       .group = VerbGroup::student,
       .kind = "recovered-from",
       .help = "Solves the FFN output projections of a carved or pruned student by least squares towards its parent, without training.",
       .example = "overproof recover --student runs/mine/student-init --teacher runs/mine/teacher --corpus runs/mine/corpus "
                  "--out runs/mine/recovered",
       .slots = {{.name = "student", .help = "the carved, pruned or merged model"},
                 {.name = "teacher", .help = "the model that the student was made from"},
                 corpus},
       .needs = Needs::torch,
       .make = stage_maker<RecoverConfig>(torch_function<decltype(run_recover)>)},
      {.name = "distill",
       .group = VerbGroup::student,
       .kind = "distilled-from",
       .help = "Trains a student on soft targets, or on a teacher run alongside; a killed run resumes from its last checkpoint.",
       .example = "overproof distill --student runs/mine/student-init --targets runs/mine/soft-targets --corpus runs/mine/corpus "
                  "--out runs/mine/student",
       .slots = {{.name = "student", .help = "the model to train"},
                 {.name = "targets",
                  .help = "the teacher's soft targets; they also fix the order of the windows, else order-seed does",
                  .required = false},
                 corpus,
                 {.name = "teacher",
                  .help = "a model that runs alongside, instead of soft targets or mixed with them",
                  .required = false},
                 {.name = "tasks",
                  .help = "JSON Lines of tasks that the student completes in on-policy steps, and verifiers judge (docs/verified.md)",
                  .kind = Kind::file,
                  .required = false},
                 {.name = "command",
                  .help = "a program that judges tasks of the type 'command'; it runs with your rights",
                  .kind = Kind::file,
                  .required = false}},
       .more_models = true,
       .more_option = "teachers",
       .more_help = "further teachers, models that run alongside or soft targets of the same windows, for --mix and --route-by",
       .more_by_name = false,
       .needs = Needs::torch,
       .make = stage_maker<DistillConfig>(torch_function<decltype(run_distill)>)},
      {.name = "prune-neurons",
       .group = VerbGroup::prune,
       .kind = "pruned-from",
       .help = "Keeps the most important FFN neurons of a dense model and removes the others.",
       .example = "overproof prune-neurons --teacher runs/mine/teacher --statistics runs/mine/statistics --out runs/mine/pruned",
       .slots = {teacher, statistics},
       .make = stage_maker<PruneNeuronsConfig>(run_prune_neurons)},
      {.name = "prune-weights",
       .group = VerbGroup::prune,
       .kind = "weights-pruned-from",
       .help = "Sets weights of the Linear layers to zero, unstructured or 2:4.",
       .example = "overproof prune-weights --method wanda --sparsity 2:4 --model runs/mine/teacher --statistics runs/mine/statistics "
                  "--out runs/mine/sparse",
       .slots = {{.name = "model", .help = "the checkpoint to prune"},
                 {.name = "statistics",
                  .help = "the artifact that observe --linears (or --hessians) or activations made of the same model; magnitude needs none",
                  .required = false}},
       .make = stage_maker<PruneWeightsConfig>(run_prune_weights)},
      {.name = "prune-experts",
       .group = VerbGroup::prune,
       .kind = "experts-pruned-from",
       .help = "Removes or merges experts of a mixture by what they did on a sample.",
       .example = "overproof prune-experts --method reap --keep 0.5 --student runs/mine/student --statistics runs/mine/expert-statistics "
                  "--out runs/mine/fewer-experts",
       .slots = {{.name = "student", .help = "the mixture of experts"},
                 {.name = "statistics", .help = "the artifact that observe made of it"}},
       .make = stage_maker<PruneExpertsConfig>(run_prune_experts)},
      {.name = "prune-source",
       .group = VerbGroup::prune,
       .kind = "experts-dropped-from",
       .help = "Removes the experts that one source of the corpus shaped most.",
       .example = "overproof prune-source --student runs/mine/calibrated --drop-source manpages-dev --out runs/mine/without-manpages",
       .slots = {{.name = "student", .help = "the mixture of experts to remove them from"},
                 {.name = "counts",
                  .help = "an artifact whose router counts are used; else the student's own",
                  .required = false}},
       .make = stage_maker<PruneSourceConfig>(run_prune_source)},
      {.name = "calibrate",
       .group = VerbGroup::student,
       .kind = "calibrated-from",
       .help = "Sets how many FFN neurons a token uses, and tunes the router for that number.",
       .example = "overproof calibrate --student runs/mine/student --teacher runs/mine/teacher --corpus runs/mine/corpus "
                  "--target-activation 0.25 --out runs/mine/calibrated",
       .slots = {{.name = "student", .help = "the model to calibrate"},
                 teacher,
                 corpus,
                 {.name = "targets",
                  .help = "the teacher's soft targets, to tune on them instead of running the teacher; it still measures",
                  .required = false},
                 {.name = "original",
                  .help = "of a student in 8 bits: the model before quantization, to report whether both choose the same experts",
                  .required = false}},
       .needs = Needs::torch,
       .make = stage_maker<CalibrateConfig>(torch_function<decltype(run_calibrate)>)},
      {.name = "activations",
       .group = VerbGroup::result,
       .kind = "observed",
       .help = "Records the inputs of a model's Linear layers, for 8-bit calibration.",
       .example = "overproof activations --model runs/mine/calibrated --corpus runs/mine/corpus --hessians --out runs/mine/activations",
       .slots = {{.name = "model", .help = "the checkpoint that will be quantized"}, corpus},
       .needs = Needs::torch,
       .make = stage_maker<ActivationsConfig>(torch_function<decltype(run_activations)>)},
      {.name = "quantize",
       .group = VerbGroup::result,
       .kind = "quantized-from",
       .help = "Compresses a checkpoint to 8 bits in a format that other runtimes load.",
       .example = "overproof quantize --scheme fp8 runs/mine/calibrated runs/mine/fp8",
       .slots = {{.name = "model", .help = "the checkpoint to compress: a folder, safetensors or GGUF", .streamed = true},
                 {.name = "activations",
                  .help = "the artifact that `activations` made of the same model, for smooth, gptq and static activations",
                  .required = false},
                 {.name = "corpus", .help = "a corpus, to measure quality on its held-out documents", .required = false},
                 {.name = "text",
                  .help = "a text or a folder of texts, to measure quality on instead",
                  .kind = Kind::file,
                  .required = false},
                 {.name = "policy",
                  .help = "q8_0: policy file about licences and terms (docs/audit.md); else the built-in one",
                  .kind = Kind::file,
                  .required = false}},
       .needs = Needs::torch,
       .make = stage_maker<CheckedQuantizeConfig>(run_quantize_checked),
       .admit = check_quantize_policy},
      {.name = "export",
       .group = VerbGroup::result,
       .kind = "exported-from",
       .help = "Writes a checkpoint as GGUF, for llama.cpp and programs built on it.",
       .example = "overproof export --type bf16 runs/mine/calibrated runs/mine/gguf",
       .slots = {{.name = "model", .help = "the checkpoint to write", .streamed = true},
                 {.name = "policy",
                  .help = "policy file about licences and terms (docs/audit.md); else the built-in one",
                  .kind = Kind::file,
                  .required = false}},
       .make = stage_maker<ExportConfig>(run_export),
       .admit = check_export_policy},
      {.name = "evaluate",
       .group = VerbGroup::result,
       .kind = "evaluated",
       .help = "Measures models against their teacher on held-out documents.",
       .example = "overproof evaluate --teacher runs/mine/teacher --corpus runs/mine/corpus --int8 runs/mine/int8 --out "
                  "runs/mine/evaluation",
       .slots = {teacher,
                 corpus,
                 {.name = "questions",
                  .help = "JSON Lines of multiple-choice questions, scored by likelihood (docs/evaluate.md)",
                  .kind = Kind::file,
                  .required = false}},
       .more_models = true,
       .needs = Needs::torch,
       .make = stage_maker<EvaluateConfig>(torch_function<decltype(run_evaluate)>)},
      {.name = "arena",
       .group = VerbGroup::result,
       .kind = "arena-of",
       .help = "Lets models answer the same prompts and rates them by battles of their answers.",
       .example = "overproof arena --tasks tasks.jsonl --judge verifier --student runs/mine/student --int8 runs/mine/int8 --out runs/mine/arena",
       .slots = {{.name = "tasks", .help = "JSON Lines of prompts, with verifiers where they judge (docs/verified.md)", .kind = Kind::file},
                 {.name = "judge-model",
                  .help = "likelihood: a checkpoint; openai-url: an artifact that connect made of the server",
                  .required = false},
                 {.name = "command",
                  .help = "verifier: a program that judges tasks of the type 'command'; it runs with your rights",
                  .kind = Kind::file,
                  .required = false}},
       .more_models = true,
       .needs = Needs::torch,
       .make = stage_maker<ArenaConfig>(torch_function<decltype(run_arena)>)},
  };
}

}  // namespace

const Slot* StageSpec::find_slot(std::string_view slot) const {
  const auto found = std::ranges::find(slots, slot, &Slot::name);
  return found == slots.end() ? nullptr : &*found;
}

bool StageSpec::is_file(std::string_view slot) const {
  const Slot* found = find_slot(slot);
  return found != nullptr && found->kind == Kind::file;
}

const std::vector<StageSpec>& stages() {
  static const std::vector<StageSpec> list = make_stages();
  return list;
}

std::string_view renamed_stage(std::string_view name) {
  if (name == "student") return "'carve'";
  if (name == "prune") return "'prune-neurons', or 'prune-source' with --drop-source";
  return "";
}

const StageSpec& find_stage(std::string_view name, std::string_view where) {
  std::vector<std::string> names;
  for (const StageSpec& s : stages()) {
    if (s.name == name) return s;
    names.push_back(s.name);
  }
  const std::string near = nearest(name, names);
  std::string hint = fmt::format("stages are {}", fmt::join(names, ", "));
  if (const std::string_view renamed = renamed_stage(name); !renamed.empty()) hint = fmt::format("it is now {}", renamed);
  else if (!near.empty()) hint = fmt::format("did you mean '{}'?", near);
  throw UsageError(fmt::format("{}: there is no stage '{}'; {}", where, name, hint));
}

Needs needs_of(const StageSpec& spec, const StageInstance& instance) { return instance.needs().value_or(spec.needs); }

}  // namespace overproof
