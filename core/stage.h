#pragma once
// The interface of a stage: finished artifact folders in, one new artifact folder out. A stage is a function
//
//   StageReport run_teach(const TeachConfig& config, const Inputs& inputs, Outputs& outputs);
//
// and nothing else. pipeline/run_stage does the rest: temporary folder, digests, signed statement, rename.

#include <map>
#include <string>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "core/json_fwd.h"

namespace overproof {

/// Where a run keeps large files that belong to no artifact. They are not trusted: a reader knows their digests from elsewhere.
inline constexpr const char* kKeptFolder = "checkpoints";
/// Where a run keeps the logs of its trainings, a folder for each artifact: for people and their plots, part of no artifact.
inline constexpr const char* kLogsFolder = "training-logs";

/// One finished input, bound to a slot such as "teacher" or "corpus".
struct InputArtifact {
  fs::path path;  ///< a folder, or (for an import) a single file
  Digest root;    ///< OMS root of its files: the identity
};

class Inputs {
 public:
  explicit Inputs(std::map<std::string, InputArtifact> slots) : slots_(std::move(slots)) {}
  bool has(const std::string& slot) const { return slots_.contains(slot); }
  const fs::path& path(const std::string& slot) const;  ///< throws UsageError naming a slot that is not bound
  /// Of an input that the stage digests while it reads (Slot::streamed): what its statement claims, or zeros.
  const Digest& root(const std::string& slot) const;
  const std::map<std::string, InputArtifact>& all() const { return slots_; }

 private:
  std::map<std::string, InputArtifact> slots_;
};

/// Where a stage writes. Everything below folder() becomes the artifact, and must be written through it.
class Outputs {
 public:
  /// `kept`: see kept(); empty: `checkpoints` next to the folder. `stage_key`: see stage_key(). `logs`: see logs(); empty: named after
  /// the folder, next to it.
  Outputs(fs::path folder, fs::path scratch, fs::path kept = {}, const Digest& stage_key = {}, fs::path logs = {})
      : folder_(std::move(folder)),
        scratch_(std::move(scratch)),
        kept_(kept.empty() ? folder_.path().parent_path() / kKeptFolder : std::move(kept)),
        logs_(logs.empty() ? folder_.path().parent_path() / kLogsFolder / folder_.path().filename() : std::move(logs)),
        stage_key_(stage_key) {}
  OutputFolder& folder() { return folder_; }
  const OutputFolder& folder() const { return folder_; }
  /// A folder that outlives a kill of the same stage with the same inputs and configuration (checkpoints go there);
  /// it is removed when the stage finishes.
  const fs::path& scratch() const { return scratch_; }
  /// Identity of what is being made: stage, version, configuration and inputs. A stage resumes only from what was left under the
  /// same key (records/resume.h); with zeros it resumes from nothing.
  const Digest& stage_key() const { return stage_key_; }
  /// A folder next to the artifacts of a run, for large files that belong to no artifact and are found by their digests.
  const fs::path& kept() const { return kept_; }
  /// The folder for logs of this artifact. It may not exist; writing there may fail without consequence.
  const fs::path& logs() const { return logs_; }

  /// Digest of one whole file of an input that the stage digests while it reads (Slot::streamed). The file is named relative to
  /// the input's folder, or as the file itself. A file without a digest here is read once more after the stage.
  void note_input_digest(const std::string& slot, FileRecord record) { input_digests_[slot].push_back(std::move(record)); }
  const std::vector<FileRecord>& input_digests(const std::string& slot) const;

 private:
  OutputFolder folder_;
  fs::path scratch_, kept_, logs_;
  Digest stage_key_;
  std::map<std::string, std::vector<FileRecord>> input_digests_;
};

/// The result of a stage. `metrics` is recorded in the signed statement and printed with --json; `summary` is for people.
struct StageReport {
  StageReport();
  StageReport(const StageReport&);
  StageReport(StageReport&&) noexcept;
  StageReport& operator=(StageReport&&) noexcept;
  ~StageReport();
  std::unique_ptr<Json> metrics_ptr;  // an object; behind a pointer to keep the JSON header out of this one
  Json& metrics() { return *metrics_ptr; }
  const Json& metrics() const { return *metrics_ptr; }
  std::vector<std::string> summary;
};

}  // namespace overproof
