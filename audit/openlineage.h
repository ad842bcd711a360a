#pragma once
// OpenLineage run events (https://openlineage.io/spec/2-0-2/OpenLineage.json): what Marquez, DataHub and other lineage servers
// take. A stage is a job, an artifact a dataset whose version is its identity. Stages send them while they run
// (pipeline/lineage_events.h); `overproof audit openlineage` writes those of a finished run.

#include <string>
#include <vector>

#include "audit/facts.h"
#include "core/answer.h"

namespace overproof {

struct LineageDataset {
  std::string name;                ///< "smollm2-moe/corpus"
  std::string version;             ///< "sha256:…"; "" while it is not known
  std::string kind;                ///< lineage kind: "corpus-of"; "" where it is not known
  int64_t bytes = -1, files = -1;  ///< -1: not known
};

struct LineageEvent {
  std::string type;                        ///< START, COMPLETE, FAIL, ABORT
  std::string time;                        ///< RFC 3339
  std::string run_id;                      ///< a UUID, the same for all events of one run of a stage
  std::string job;                         ///< "smollm2-moe.corpus"
  std::string stage, kind, version, help;  ///< "corpus", "corpus-of", of this program, what the stage does
  std::string error;                       ///< of a FAIL
  Json config;                             ///< effective options
  std::vector<LineageDataset> inputs, outputs;
};

Json openlineage_event(const LineageEvent& event);

/// The namespace of jobs and datasets: $OPENLINEAGE_NAMESPACE, else "overproof".
std::string openlineage_namespace();

/// What an artifact's folder is called there: its run's name and its own, never a path. "smollm2-moe/corpus"
std::string openlineage_name(const fs::path& artifact);

struct OpenLineageConfig {
  DocumentOptions document;
  template <class V>
  void visit(V&& v) {
    document.visit(v, "file to write instead of standard output, one event a line",
                   "time of all events, such as 2026-11-24T12:00:00Z; empty: $SOURCE_DATE_EPOCH, else when each artifact was "
                   "sealed, as the file system has it");
  }
};

/// A START and a COMPLETE for each artifact, parents first.
Answer audit_openlineage(const OpenLineageConfig& config, const fs::path& folder);

}  // namespace overproof
