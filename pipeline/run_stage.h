#pragma once
// The one place that does what every stage needs: inputs are hashed and their statements checked (before the stage, or, where it
// streams gigabytes, with the digests that it takes while reading), the work happens in a temporary folder, outputs are hashed
// while written, the signed statement is added, and one rename makes it all visible. So no stage can forget its provenance, and
// no crash can part an artifact from its statement.

#include <map>
#include <memory>
#include <string>

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
  bool force = false;                      ///< make it again even if nothing changed
  LineageEvents* events = nullptr;         ///< where its begin and end are told; nobody when nullptr
};

enum class StageStatus { made, unchanged };

struct StageResult {
  StageStatus status = StageStatus::made;
  Digest root;
  double seconds = 0;
  StageReport report;  ///< of this run, or as recorded when unchanged
};

/// Whether `request.out` holds an intact artifact made from these inputs by this configuration.
bool is_unchanged(const StageRequest& request);

/// Throws what the stage throws; then the temporary folder is gone, the scratch folder (checkpoints) stays for the next
/// try, and an earlier artifact at `out` is as it was. Throws ProvenanceError when an input is not what its statement says.
StageResult run_stage(const StageRequest& request, const Key& key);

}  // namespace overproof
