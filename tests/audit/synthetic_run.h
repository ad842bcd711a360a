#pragma once
// A run folder with every kind of artifact, small and sealed, as the pipeline would leave it.

#include <cmath>
#include <functional>

#include "core/json.h"
#include "data/corpus.h"
#include "data/corpus_tally.h"
#include "data/order.h"
#include "records/router_counts.h"
#include "formats/safetensors.h"
#include "provenance/artifact.h"
#include "provenance/oms.h"
#include "tests/support.h"

namespace overproof {

struct SyntheticRun {
  TempFolder folder;
  Key key = Key::generate();
  std::string evidence;  ///< that soft targets name; "": none, as in version 0.1
  static constexpr int64_t kWindowLength = 8, kTaught = 9, kSeed = 3, kSteps = 10, kBatch = 2;

  fs::path path() const { return folder.path(); }
  Digest root(const std::string& name) const { return scan_artifact(path() / name).root; }
  /// Nothing where the artifact is not sealed.
  std::optional<Digest> statement(const std::string& name) const {
    const auto lineage = check_artifact(path() / name, VerifyFiles::no, nullptr).lineage;
    return lineage ? std::optional(lineage->statement) : std::nullopt;
  }

  void seal(const std::string& name, const std::string& stage, const std::string& kind, std::map<std::string, std::string> inputs,
            Json config = Json::object(), Json metrics = Json::object()) const {
    Lineage lineage;
    lineage.kind = kind;
    lineage.stage = stage;
    lineage.name = name;
    lineage.config = std::move(config);
    lineage.metrics = std::move(metrics);
    lineage.builder = {{"overproof", "0.1.0"}};
    for (const auto& [slot, artifact] : inputs) lineage.inputs[slot] = {artifact, root(artifact), statement(artifact)};
    seal_artifact(path() / name, scan_artifact(path() / name).files, lineage, key);
  }

  static std::string table() {
    std::string lines;
    for (const auto& [name, license, bytes] : {std::tuple{"a", "GPL-2+", 70}, {"b", "GPL-2+", 50}, {"c", "<b>MIT</b>", 80}})
      lines += Json{{"name", name}, {"source", "manpages"}, {"license", license}, {"license_rule", "given"}, {"digest", sha256(name).hex()},
                    {"bytes", bytes}, {"first_token", 0}, {"tokens", 0}, {"split", "train"}}
                   .dump() +
               "\n";
    return lines;
  }

  /// `corpus_files` fills the corpus folder; the default is a table that only verify looks at.
  explicit SyntheticRun(const std::function<void(const fs::path&)>& corpus_files = {}) {
    write_text(path() / "teacher/teacher.gguf", std::string(3000, 't'));
    seal("teacher", "import", "imported", {}, {{"license", "Apache-2.0"}, {"name", "Tiny <teacher> & co"}},
         {{"parameters", 135000000}});

    if (corpus_files) corpus_files(path() / "corpus");
    else write_text(path() / "corpus/documents.jsonl", table());
    CorpusTally tally;
    for_each_line(MappedFile(path() / "corpus/documents.jsonl"),
                  [&](std::string_view line, int64_t offset) { tally.add(parse_document(line, "documents.jsonl", offset)); });
    write_text(path() / "corpus/licenses.json", tally.licenses().dump());
    write_text(path() / "corpus/texts/one.txt", "some text");
    seal("corpus", "corpus", "corpus-of", {{"tokenizer", "teacher"}}, {{"window-length", kWindowLength}});

    write_text(path() / "statistics/statistics.json", "{\"tokens\": 64}");
    seal("statistics", "observe", "observed", {{"teacher", "teacher"}, {"corpus", "corpus"}}, {{"seed", 1}}, {{"windows", 4}});
    write_targets();
    seal("soft-targets", "teach", "taught", {{"teacher", "teacher"}, {"corpus", "corpus"}}, {{"draws", 50}});
    write_text(path() / "student-init/model.safetensors", std::string(2000, 'i'));
    seal("student-init", "student", "carved-from", {{"teacher", "teacher"}, {"statistics", "statistics"}});

    std::string steps;
    for (int64_t i = 0; i < kSteps; ++i)
      steps += Json{{"step", i},
                    {"loss", 3.0 / double(1 + i)},
                    {"kl", 2.0 / double(1 + i)},
                    {"ce", 4.0 / std::sqrt(double(1 + i))},
                    {"lr", 1e-3},
                    {"grad_norm", 1.0},
                    {"tokens", 512},
                    {"balance", 1.0 + 1.0 / double(1 + i)}}
                   .dump() +
               "\n";
    write_text(path() / "student/steps.jsonl", steps);
    write_text(path() / "student/model.safetensors", std::string(2000, 's'));
    write_counts("student", 1);
    seal("student", "distill", "distilled-from", {{"student", "student-init"}, {"targets", "soft-targets"}, {"corpus", "corpus"}},
         {{"steps", kSteps}, {"batch-size", kBatch}},
         {{"expert_load", {{0.5, 0.25, 0.125, 0.125}, {0.25, 0.25, 0.25, 0.25}, {0.0, 0.5, 0.5, 0.0}}}, {"loss", 0.3}});
    write_text(path() / "calibrated/model.safetensors", std::string(2000, 'c'));
    write_counts("calibrated", 2);
    seal("calibrated", "calibrate", "calibrated-from", {{"student", "student"}, {"teacher", "teacher"}, {"corpus", "corpus"}},
         {{"seed", 2}, {"steps", 3}, {"batch-size", 2}}, {{"ffn_activation", 0.25}, {"kl_before", 0.5}, {"kl_after", 0.4}});
    write_text(path() / "int8/model.safetensors", std::string(700, 'q'));
    write_text(path() / "int8/config.json", "{}");
    seal("int8", "quantize", "quantized-from", {{"model", "calibrated"}});
    write_text(path() / "static-init/model.safetensors", std::string(1500, 'p'));
    seal("static-init", "prune", "pruned-from", {{"teacher", "teacher"}, {"statistics", "statistics"}});
    write_text(path() / "evaluation/evaluation.json",
               R"({"models":[{"name":"teacher","perplexity":12.5,"kl_mean":0,"kl_p99":0,"top1_agreement":1,"bytes":3000,)"
               R"("ffn_activation":1,"parameter_activation":1,"tokens_per_second":300},)"
               R"({"name":"int8","perplexity":20.25,"kl_mean":0.41,"kl_p99":3.5,"top1_agreement":0.71,"bytes":700,)"
               R"("ffn_activation":0.25,"parameter_activation":0.6,"tokens_per_second":410}]})");
    seal("evaluation", "evaluate", "evaluated", {{"teacher", "teacher"}, {"corpus", "corpus"}, {"int8", "int8"}}, Json::object(), read_json(path() / "evaluation/evaluation.json"));
  }

  /// Of two sources over 3 layers of 4 experts: expert e took (e + 1) x (layer + 1) tokens of "pack" and 10 of "other", each
  /// `times`.
  void write_counts(const std::string& name, int64_t times) const {
    RouterCounts counts{{"other", "pack"}, 3, 4, {40 * times, 60 * times}, {}};
    for (int64_t i = 0; i < 12; ++i) counts.counts.push_back(10 * times);
    for (int64_t l = 0; l < 3; ++l)
      for (int64_t e = 0; e < 4; ++e) counts.counts.push_back((e + 1) * (l + 1) * times);
    OutputFolder out(path() / name);
    write_router_counts(out, counts);
  }

  void write_targets() const {
    OutputFolder out(path() / "soft-targets");
    Metadata metadata = {{"kind", "sample"},
                               {"corpus_root", root("corpus").hex()},
                               {"teacher_root", root("teacher").hex()},
                               {"order_key", order_key(root("corpus"), kSeed).hex()},
                               {"seed", std::to_string(kSeed)},
                               {"window_length", std::to_string(kWindowLength)}};
    if (!evidence.empty()) metadata["evidence"] = evidence;
    const std::vector<int64_t> offsets(kTaught + 1, 0);
    SafetensorsWriter writer(out, "targets.safetensors", {{"block_offsets", DType::i64, {kTaught + 1}}}, metadata);
    writer.append(offsets.data(), offsets.size() * sizeof(int64_t));
    writer.close();
  }
};

}  // namespace overproof
