#pragma once
// A run of the small recipe, and a forged copy of it: anything can be changed, and every statement is signed again so that all
// signatures and all digests between artifacts hold.

#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <map>
#include <sstream>

#include "audit/verify.h"
#include "core/json.h"
#include "core/progress.h"
#include "distill/replay.h"
#include "records/step_log.h"
#include "formats/safetensors.h"
#include "pipeline/recipe.h"
#include "pipeline/recompute.h"
#include "pipeline/torch_functions.h"
#include "provenance/artifact.h"
#include "provenance/run_folder.h"
#include "tests/support.h"

namespace overproof {

/// Made once for all tests with the same `dtype` of the students: 24 steps in segments of 4, states kept every 8.
inline const fs::path& honest_run(const std::string& dtype = "auto") {
  static const TempFolder folder;
  static std::map<std::string, fs::path> runs;
  const auto [run, first] = runs.emplace(dtype, folder / dtype / "run");
  if (first) {
    set_progress_mode(ProgressMode::off);
    bind_torch_functions();
    std::vector<std::string> overrides = {"student.steps=24",     "student.warmup=2",         "student.digest-every=4",
                                          "student.keep-every=8", "soft-targets.tokens=1280", "calibrated.digest-every=2"};
    overrides.push_back("student-init.dtype=" + dtype);  // the others follow it
    const Recipe recipe = read_recipe(fs::path(OVERPROOF_SOURCE_DIR) / "examples/kill-test.ini", overrides);
    RecipeOptions options;
    options.out = run->second;
    fs::create_directories(options.out.parent_path());
    run_recipe(recipe, options, Key::generate());
  }
  return run->second;
}

inline Replay replayed(const fs::path& run, int64_t segments, const std::string& artifact = "student",
                std::optional<double> tolerance = std::nullopt, const char* seed = "c0ffee") {
  ReplayConfig config;
  config.seed = seed;
  config.segments = segments;
  config.artifact = artifact;
  config.tolerance = tolerance;
  return replay(config, run);
}

/// Whether verify finds no failure, or, with `word`, one that contains it.
inline bool verifies(const fs::path& run, const std::string& word = "") {
  const Verification v = verify_run(run, {});
  if (word.empty()) return v.holds();
  CHECK_FALSE(v.holds());
  return std::any_of(v.findings.begin(), v.findings.end(), [&](const Finding& f) {
    return f.severity == Severity::failure && (f.artifact + "/" + f.file + ": " + f.what).find(word) != std::string::npos;
  });
}

inline bool has(const std::vector<std::string>& lines, const std::string& word) {
  return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) { return line.find(word) != std::string::npos; });
}

inline const StringList kStages = {"prune-neurons", "quantize", "carve", "observe", "tiny-teacher"};

inline Recomputation recomputed(const fs::path& folder, const StringList& stages = kStages, const StringMap& file = {}) {
  RecomputeConfig config;
  config.stages = stages;
  config.file = file;
  return recompute(config, folder);
}

inline const Recomputed& of(const Recomputation& r, const std::string& artifact) {
  for (const Recomputed& a : r.artifacts)
    if (a.artifact == artifact) return a;
  throw std::logic_error("no artifact " + artifact);
}

struct CopyOf {
  fs::path run;
};

class ForgedRun {
 public:
  explicit ForgedRun(const CopyOf& honest) { fs::copy(honest.run, path(), fs::copy_options::recursive); }
  explicit ForgedRun(const std::string& dtype = "auto") { fs::copy(honest_run(dtype), path(), fs::copy_options::recursive); }
  fs::path path() const { return folder_ / "run"; }
  fs::path operator/(const fs::path& name) const { return path() / name; }

  /// Signs every artifact again, parents first, with what their parents now are. `change` may alter each lineage.
  void reseal(const std::function<void(Lineage&)>& change = [](Lineage&) {}) const {
    std::map<std::string, Lineage> sealed;
    for (const ArtifactNode& node : load_run(path(), VerifyFiles::no, nullptr).nodes) {
      Lineage lineage = *node.lineage();
      for (auto& [slot, input] : lineage.inputs)
        input.root = sealed.at(input.name).root, input.statement = sealed.at(input.name).statement;
      if (lineage.stage == "teach")
        change_metadata(node.path, "targets.safetensors", [&](Metadata& m) {
          m["teacher_root"] = lineage.inputs.at("teacher").root.hex();
          m["corpus_root"] = lineage.inputs.at("corpus").root.hex();
        });
      if (lineage.stage == "index")
        change_metadata(node.path, "documents.safetensors",
                        [&](Metadata& m) { m["corpus_root"] = lineage.inputs.at("corpus").root.hex(); });
      if (lineage.stage == "observe")
        change_metadata(node.path, "statistics.safetensors",
                        [&](Metadata& m) { m["teacher_root"] = lineage.inputs.at("teacher").root.hex(); });
      if (fs::exists(node.path / kStepRecordsFile) && sign_chain)
        lineage.metrics["step_chain"] = SafetensorsFile(node.path / kStepRecordsFile).metadata().at("chain");
      change(lineage);
      const ArtifactRecord record = scan_artifact(node.path);
      sealed[node.name] = seal_artifact(node.path, record.files, lineage, key_);
    }
  }
  bool sign_chain = true;

  /// Writes a safetensors file again with other bytes or metadata.
  static void rewrite(
      const fs::path& folder, const std::string& name,
      const std::function<void(std::map<std::string, std::vector<uint8_t>>& tensors, Metadata& metadata)>& change) {
    std::vector<TensorInfo> infos;
    Metadata metadata;
    std::map<std::string, std::vector<uint8_t>> bytes;
    {
      const SafetensorsFile file(folder / name);
      infos = file.tensors();
      metadata = file.metadata();
      for (const TensorInfo& t : infos) bytes[t.name].assign(file.bytes(t.name).begin(), file.bytes(t.name).end());
    }
    change(bytes, metadata);
    OutputFolder out(folder);
    SafetensorsWriter writer(out, name, infos, metadata);
    for (const TensorInfo& t : infos) writer.append(bytes[t.name].data(), bytes[t.name].size());
    writer.close();
  }
  static void change_metadata(const fs::path& folder, const std::string& name, const std::function<void(Metadata&)>& change) {
    rewrite(folder, name, [&](auto&, Metadata& metadata) { change(metadata); });
  }

  /// Changes step records, chains them anew and writes the readable log to match.
  void change_records(const std::string& artifact, const std::function<void(StepRecord&)>& change) const {
    const StepRecords honest = read_step_records(path() / artifact);
    StepRecords forged(honest.format());
    std::string log;
    for (StepRecord r : honest.steps()) {
      change(r);
      forged.append(r);
      log += step_log_line(honest.format(), r).dump() + "\n";
    }
    OutputFolder out(path() / artifact);
    write_step_records(forged, out);
    write_file_atomically(path() / artifact / "steps.jsonl", log);
  }

 private:
  TempFolder folder_;
  Key key_ = Key::generate();
};

}  // namespace overproof
