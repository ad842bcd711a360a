#include "pipeline/stage_registry.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"
#include "data/corpus_stage.h"
#include "data/index_stage.h"
#include "pipeline/export_policy.h"
#include "pipeline/import_stage.h"
#include "prune/static_stage.h"
#include "quantize/export_stage.h"
#include "quantize/quantize_stage.h"
#ifdef OVERPROOF_WITH_TORCH
#include "distill/calibrate_stage.h"
#include "distill/distill_stage.h"
#include "evaluate/activations_stage.h"
#include "evaluate/evaluate_stage.h"
#include "pipeline/quantize_checked.h"
#include "student/carve_stage.h"
#include "student/observe_stage.h"
#include "student/tiny_stage.h"
#include "teacher/sample_stage.h"
#include "teacher/teach_stage.h"
#endif

namespace overproof {
namespace {

using Kind = Slot::Kind;

std::vector<StageSpec> make_stages() {
  const Slot teacher{"teacher", "the teacher: a checkpoint folder, safetensors or GGUF"};
  const Slot corpus{"corpus", "the corpus artifact"};
  std::vector<StageSpec> list;
  list.push_back({"import",
                  "imported",
                  "Brings a model from outside into a run, checked against its published digest.",
                  "overproof import --path SmolLM2-135M-Instruct.Q4_1.gguf --out runs/mine/teacher",
                  {{"path", "a .gguf file, or a folder with config.json and safetensors", Kind::file}},
                  false,
                  stage_maker<ImportConfig>(run_import)});
#ifdef OVERPROOF_WITH_TORCH
  list.push_back({"tiny-teacher",
                  "seeded",
                  "Makes a small random teacher from a seed, for tests and examples.",
                  "overproof tiny-teacher --seed 1 --out runs/mine/teacher",
                  {},
                  false,
                  stage_maker<TinyTeacherConfig>(run_tiny_teacher)});
#endif
  list.push_back(
      {"corpus",
       "corpus-of",
       "Reads documents with their licences and cuts them into tokens and windows.",
       "overproof corpus --source texts --tokenizer runs/mine/teacher --out runs/mine/corpus",
       {{"source", "folder of text files with their copyright files, or with documents.jsonl, which may hold the texts itself",
         Kind::file},
        {"tokenizer", "what to cut text with: any artifact with a tokenizer"},
        {"salt", "makes the corpus private: a secret made by 'audit salt'", Kind::file, false}},
       false,
       stage_maker<CorpusConfig>(run_corpus)});
  list.push_back({"index",
                  "indexed",
                  "Sorts a corpus's texts, so that audit trace --span finds where a passage stands.",
                  "overproof index --corpus runs/mine/corpus --out runs/mine/index",
                  {corpus},
                  false,
                  stage_maker<IndexConfig>(run_index)});
#ifdef OVERPROOF_WITH_TORCH
  list.push_back({"teach",
                  "taught",
                  "Writes the teacher's answers to a corpus as compact soft targets.",
                  "overproof teach --teacher runs/mine/teacher --corpus runs/mine/corpus --out runs/mine/soft-targets",
                  {teacher, corpus},
                  false,
                  stage_maker<TeachConfig>(run_teach)});
  list.push_back({"sample",
                  "sampled-from",
                  "Samples documents from a teacher, with a watermark in them if a key is given.",
                  "overproof sample --teacher runs/mine/teacher --corpus runs/mine/corpus --count 1000 --out runs/mine/samples",
                  {teacher,
                   {"corpus", "a corpus whose documents' beginnings are the prompts", Kind::artifact, false},
                   {"watermark-key", "a secret made by 'watermark-key'", Kind::file, false}},
                  false,
                  stage_maker<SampleConfig>(run_sample)});
  list.push_back({"observe",
                  "observed",
                  "Records what the teacher's FFN layers see, for carving and pruning.",
                  "overproof observe --teacher runs/mine/teacher --corpus runs/mine/corpus --out runs/mine/statistics",
                  {teacher, corpus},
                  false,
                  stage_maker<ObserveConfig>(run_observe)});
  list.push_back({"student",
                  "carved-from",
                  "Deals a dense teacher's FFN out to experts, with a certificate that nothing was lost.",
                  "overproof student --teacher runs/mine/teacher --statistics runs/mine/statistics --out runs/mine/student-init",
                  {teacher, {"statistics", "what observe recorded"}},
                  false,
                  stage_maker<StudentConfig>(run_student)});
  list.push_back({"distill",
                  "distilled-from",
                  "Trains a student on soft targets; a killed run goes on where it was.",
                  "overproof distill --student runs/mine/student-init --targets runs/mine/soft-targets --corpus runs/mine/corpus "
                  "--out runs/mine/student",
                  {{"student", "the model to train"}, {"targets", "the teacher's soft targets"}, corpus},
                  false,
                  stage_maker<DistillConfig>(run_distill)});
#endif
  list.push_back(
      {"prune",
       "pruned-from",
       "Keeps a dense model's most active FFN neurons, or drops the experts that a source shaped most.",
       "overproof prune --student runs/mine/calibrated --drop-source manpages-dev --out runs/mine/without-manpages",
       {{teacher.name, teacher.help, Kind::artifact, true, false, "student"},
        {"statistics", "what observe recorded", Kind::artifact, true, false, "student"},
        {"student", "with drop-source: the mixture of experts to take them from", Kind::artifact, false},
        {"counts", "with drop-source: an artifact whose router counts decide; else the student's own", Kind::artifact, false}},
       false,
       stage_maker<PruneConfig>(run_prune)});
#ifdef OVERPROOF_WITH_TORCH
  list.push_back({"calibrate",
                  "calibrated-from",
                  "Sets how many neurons a token uses, and tunes the router to it.",
                  "overproof calibrate --student runs/mine/student --teacher runs/mine/teacher --corpus runs/mine/corpus "
                  "--target-activation 0.25 --out runs/mine/calibrated",
                  {{"student", "the model to calibrate"}, teacher, corpus},
                  false,
                  stage_maker<CalibrateConfig>(run_calibrate)});
#endif
#ifdef OVERPROOF_WITH_TORCH
  list.push_back(
      {"activations",
       "observed",
       "Records what a model's Linear layers are given, for 8-bit calibration.",
       "overproof activations --model runs/mine/calibrated --corpus runs/mine/corpus --hessians --out runs/mine/activations",
       {{"model", "the checkpoint that will be quantised"}, corpus},
       false,
       stage_maker<ActivationsConfig>(run_activations)});
#endif
  std::vector<Slot> quantize_slots = {
      {"model", "the checkpoint to compress: a folder, safetensors or GGUF", Kind::artifact, true, true},
      {"activations", "what `activations` recorded of the same model, for smooth, gptq and static activations", Kind::artifact,
       false}};
#ifdef OVERPROOF_WITH_TORCH
  quantize_slots.push_back({"corpus", "a corpus, to measure quality on its held-out documents", Kind::artifact, false});
  quantize_slots.push_back({"text", "a text or a folder of texts, to measure quality on instead", Kind::file, false});
  const auto make_quantize = stage_maker<CheckedQuantizeConfig>(run_quantize_checked);
#else
  const auto make_quantize = stage_maker<QuantizeConfig>(run_quantize);
#endif
  list.push_back({"quantize", "quantized-from", "Compresses a checkpoint to 8 bits in a format that other runtimes load.",
                  "overproof quantize --scheme fp8 runs/mine/calibrated runs/mine/fp8", quantize_slots, false, make_quantize});
  list.push_back({"export",
                  "exported-from",
                  "Writes a checkpoint as GGUF, for llama.cpp and what is built on it.",
                  "overproof export --type bf16 runs/mine/calibrated runs/mine/gguf",
                  {{"model", "the checkpoint to write", Kind::artifact, true, true},
                   {"policy", "policy file about licences and terms (docs/audit.md); else the built-in one", Kind::file, false}},
                  false,
                  stage_maker<ExportConfig>(run_export),
                  check_export_policy});
#ifdef OVERPROOF_WITH_TORCH
  list.push_back({"evaluate",
                  "evaluated",
                  "Measures models against their teacher on held-out documents.",
                  "overproof evaluate --teacher runs/mine/teacher --corpus runs/mine/corpus --int8 runs/mine/int8 --out "
                  "runs/mine/evaluation",
                  {teacher, corpus},
                  true,
                  stage_maker<EvaluateConfig>(run_evaluate)});
#endif
  return list;
}

}  // namespace

const std::vector<StageSpec>& stages() {
  static const std::vector<StageSpec> list = make_stages();
  return list;
}

const StageSpec& find_stage(std::string_view name, std::string_view where) {
  std::vector<std::string> names;
  for (const StageSpec& s : stages()) {
    if (s.name == name) return s;
    names.push_back(s.name);
  }
  const std::string near = nearest(name, names);
  throw UsageError(
      fmt::format("{}: there is no stage '{}'; {}", where, name,
                  near.empty() ? fmt::format("stages are {}", fmt::join(names, ", ")) : "did you mean '" + near + "'?"));
}

}  // namespace overproof
