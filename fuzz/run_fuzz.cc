// A run with valid signatures over arbitrary statements: one artifact of a small run gets a configuration, metrics and a file of the
// fuzzer, and is signed with them, as a dishonest maker can do. Every audit answers, reports a fault or refuses with an error of
// ours, and its JSON output is valid.
//
// The input, parts apart by zero bytes: an artifact's digit with a byte for the question, the artifact's configuration, its
// metrics, a file's name, and the file.

#include <functional>

#include "audit/croissant.h"
#include "audit/diff.h"
#include "audit/eu_summary.h"
#include "audit/impact.h"
#include "audit/openlineage.h"
#include "audit/policy.h"
#include "report/report.h"
#include "audit/sbom.h"
#include "audit/statement_tool.h"
#include "audit/trace.h"
#include "audit/verify.h"
#include "core/error.h"
#include "core/json.h"
#include "fuzz/fuzz_file.h"
#include "provenance/artifact.h"

using namespace overproof;

namespace {

struct Step {
  const char *name, *stage, *kind, *config, *metrics, *file, *text;
  std::vector<std::pair<const char*, const char*>> inputs;
};

const std::vector<Step> kSteps = {
    {"teacher",
     "import",
     "imported",
     R"({"license": "Apache-2.0", "name": "Tiny"})",
     R"({"parameters": 10})",
     "config.json",
     R"({"model_type": "llama"})",
     {}},
    {"corpus",
     "corpus",
     "corpus-of",
     R"({"window-length": 4})",
     "{}",
     "licenses.json",
     R"({"licenses": {"MIT": {"bytes": 80, "documents": 1}}, "sources": {"notes": {"bytes": 80, "documents": 1}}})",
     {{"tokenizer", "teacher"}}},
    {"soft-targets",
     "teach",
     "taught",
     R"({"draws": 50, "seed": 1})",
     R"({"windows": 4})",
     "teach.json",
     "{}",
     {{"teacher", "teacher"}, {"corpus", "corpus"}}},
    {"statistics",
     "observe",
     "observed",
     R"({"seed": 1})",
     R"({"windows": 2})",
     "statistics.json",
     "{}",
     {{"teacher", "teacher"}, {"corpus", "corpus"}}},
    {"student-init",
     "student",
     "carved-from",
     "{}",
     "{}",
     "config.json",
     R"({"model_type": "glm4_moe"})",
     {{"teacher", "teacher"}, {"statistics", "statistics"}}},
    {"student",
     "distill",
     "distilled-from",
     R"({"steps": 2, "batch-size": 1})",
     R"({"expert_load": [[0.5, 0.5]], "loss": 0.5})",
     "steps.jsonl",
     "{\"step\": 0, \"loss\": 3}\n{\"step\": 1, \"loss\": 2}\n",
     {{"student", "student-init"}, {"targets", "soft-targets"}, {"corpus", "corpus"}}},
    {"calibrated",
     "calibrate",
     "calibrated-from",
     R"({"seed": 2, "steps": 1, "batch-size": 1})",
     R"({"ffn_activation": 0.25, "kl_before": 0.5, "kl_after": 0.4})",
     "config.json",
     "{}",
     {{"student", "student"}, {"teacher", "teacher"}, {"corpus", "corpus"}}},
    {"int8", "quantize", "quantized-from", R"({"scheme": "int8"})", "{}", "config.json", "{}", {{"model", "calibrated"}}},
    {"gguf",
     "export",
     "exported-from",
     "{}",
     R"({"policy": {"acknowledged": ["MIT"]}})",
     "model.gguf",
     "GGUF",
     {{"model", "int8"}}},
    {"evaluation",
     "evaluate",
     "evaluated",
     "{}",
     "{}",
     "evaluation.json",
     R"({"models": [{"name": "int8", "perplexity": 20.5, "kl_mean": 0.4, "bytes": 700}]})",
     {{"int8", "int8"}, {"corpus", "corpus"}}},
};

void seal(const fs::path& run, const Step& step, Json config, Json metrics, std::map<std::string, Lineage>& sealed) {
  static const Key key = Key::generate();
  Lineage lineage;
  lineage.kind = step.kind;
  lineage.stage = step.stage;
  lineage.name = step.name;
  lineage.config = std::move(config);
  lineage.metrics = std::move(metrics);
  lineage.builder = {{"overproof", "0.1.0"}};
  for (const auto& [slot, artifact] : step.inputs) lineage.inputs[slot] = {artifact, sealed.at(artifact).root, sealed.at(artifact).statement};
  const ArtifactRecord record = scan_artifact(run / step.name);
  sealed[step.name] = seal_artifact(run / step.name, record.files, lineage, key);
}

using Question = std::function<Answer(const fs::path&, const std::string&)>;

/// What is asked about a folder and an artifact in it.
const std::vector<Question> kQuestions = {
    [](auto& folder, auto&) { return audit_verify({}, folder); },
    [](auto& folder, auto&) { return audit_policy({}, folder); },
    [](auto& folder, auto&) { return audit_diff({}, folder, folder); },
    [](auto& folder, auto&) { return audit_summary({.eu = true}, folder); },
    [](auto& folder, auto&) { return audit_impact({.source = "notes"}, folder); },
    [](auto& folder, auto& artifact) { return audit_trace({.artifact = artifact, .reached = true}, folder); },
    [](auto& folder, auto& artifact) { return audit_trace({.step = artifact + ":0"}, folder); },
    [](auto& folder, auto&) { return audit_trace({.document = "notes/one"}, folder); },
    [](auto& folder, auto&) { return audit_report({.out = "-", .format = ReportFormat::html}, folder); },
    [](auto& folder, auto&) { return audit_report({.out = "-", .format = ReportFormat::markdown}, folder); },
    [](auto& folder, auto&) { return audit_report({.out = "-", .format = ReportFormat::json}, folder); },
    [](auto& folder, auto&) { return audit_sbom({.format = SbomConfig::Format::cyclonedx}, folder); },
    [](auto& folder, auto&) { return audit_sbom({.format = SbomConfig::Format::spdx}, folder); },
    [](auto& folder, auto&) { return audit_croissant({}, folder); },
    [](auto& folder, auto&) { return audit_openlineage({}, folder); },
    [](auto& folder, auto&) { return audit_statement({}, folder); },
};

/// Errors of ours are answers; all else is a fault of ours. What is for programs must be JSON.
void ask(const Question& question, const fs::path& folder, const std::string& artifact) {
  try {
    const Answer answer = question(folder, artifact);
    fuzz::require(Json::accept(dump_text(answer.json)));
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const std::string_view number = fuzz::take_part(rest), config = fuzz::take_part(rest), metrics = fuzz::take_part(rest);
  const std::string name(fuzz::take_part(rest));
  if (number.size() != 2 || number[0] < '0' || number[0] > '9' || !is_safe_relative_name(name) ||
      name.find('/') != std::string::npos || name.size() > 100)
    return 0;
  const Step& chosen = kSteps[size_t(number[0] - '0')];
  const fuzz::FuzzFolder run;
  std::map<std::string, Lineage> sealed;
  try {
    for (const Step& step : kSteps) {
      fs::create_directory(run.path() / step.name);
      run.put(fs::path(step.name) / step.file, step.text);
      if (&step == &chosen) run.put(fs::path(step.name) / name, rest);
      const auto json = [&](const char* usual, std::string_view given) {
        Json value = parse_json(&step == &chosen ? given : usual, "fuzz");
        if (!value.is_object()) throw FormatError("fuzz", -1, "is no object");
        return value;
      };
      seal(run.path(), step, json(step.config, config), json(step.metrics, metrics), sealed);
    }
  } catch (const Error&) {  // no configuration, or a name that no artifact may have
    return 0;
  }
  const unsigned which = static_cast<unsigned char>(number[1]);
  const Question& question = kQuestions[which / 4 % kQuestions.size()];
  ask(question, which & 2 ? run.path() : run.path() / chosen.name, chosen.name);
  return 0;
}
