#pragma once
// The one place that does what every stage needs: inputs are digested and their statements checked (before the stage, or, where it
// streams gigabytes, with the digests that it computes while reading), the stage writes into a temporary folder, outputs are
// digested while they are written, the signed statement is added, and the folder is moved into place in one step
// (pipeline/replace_folder.h). So every artifact has its provenance, and a crash leaves the old artifact or the new one.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/json_fwd.h"
#include "pipeline/stage_registry.h"
#include "provenance/keys.h"

namespace overproof {

class LineageEvents;

struct StageRequest {
  const StageSpec* spec = nullptr;
  StageInstance* instance = nullptr;
  std::map<std::string, fs::path> inputs;  ///< slot -> artifact folder or outside file
  fs::path out;                            ///< the artifact folder to make
  bool force = false;                      ///< make the artifact again even if nothing changed
  bool may_replace = true;                 ///< without force, too: a finished artifact of another configuration (recipes: what is
                                           ///< at a name follows the recipe)
  LineageEvents* events = nullptr;         ///< notified of its start and end; may be nullptr
  const PublicKey* trusted = nullptr;      ///< whose signature every input artifact must have, and every signed input from outside;
                                           ///< nullptr: any, each checked by the key that its statement names
};

enum class StageStatus { made, unchanged };

struct StageResult {
  StageStatus status = StageStatus::made;
  Digest root;
  double seconds = 0;
  std::string signer;                ///< hint of the key that the artifact is signed with
  std::vector<std::string> signers;  ///< hints of the keys that the input artifacts are signed with, each once
  StageReport report;                ///< of this run, or as recorded when unchanged
};

/// How a statement records the files of a slot from outside: their root in hex; where the secret that hides them is bound
/// (Slot::hidden_by), an HMAC of the root. `inputs`: slot -> path. Throws as CorpusSalt::read.
std::string recorded_outside(const StageSpec& spec, const std::string& slot, const Digest& root,
                             const std::map<std::string, fs::path>& inputs);

/// Whether `request.out` holds an intact artifact made from these inputs by this configuration. `key`: the one that run_stage() would sign
/// with; without it, whose signature the artifact has is not checked. Throws ProvenanceError as run_stage().
bool is_unchanged(const StageRequest& request, const Key* key = nullptr);

/// Throws what the stage throws; then the temporary folder is removed, the scratch folder (checkpoints) stays for the next try, and
/// an earlier artifact at `out` is unchanged. Throws ProvenanceError when an input does not match its statement or is not signed by
/// `trusted`, or when `out` would be kept and is signed by neither `trusted` nor `key`, IoError when another process is building the same artifact, UsageError when `out` and an input hold each other, when `out` holds files that no
/// stage wrote, and when it is a finished artifact of another configuration without `force` or `may_replace`.
StageResult run_stage(const StageRequest& request, const Key& key);

}  // namespace overproof
