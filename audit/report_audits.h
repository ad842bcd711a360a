#pragma once
// The audit records of a run, read for the report. Whoever audits may be of another version, so every field may be missing:
// what is there is taken, and what cannot be read is named.

#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "provenance/audit_record.h"
#include "provenance/run_folder.h"

namespace overproof {

enum class AuditStanding {
  counts,     ///< signed, and about an artifact that is here
  elsewhere,  ///< signed, but what was examined is not here
  forged,     ///< the signature does not hold
  unreadable,
};
std::string_view audit_standing_name(AuditStanding standing);

struct ReportSubject {
  std::string name, root;
  std::string here;  ///< the artifact of that root in this run; "" when there is none
};

struct ReportAudit {
  std::string file;  ///< its name
  std::string kind;
  AuditStanding standing = AuditStanding::unreadable;
  std::string why;        ///< of what does not count
  std::string signer;     ///< key hint, as far as read
  bool trusted = false;   ///< the reader named this auditor's key
  bool by_maker = false;  ///< the auditor's key is one that signed the run
  std::vector<ReportSubject> subjects;
  Json result = Json::object();
  bool counts() const { return standing == AuditStanding::counts; }
};

struct ReplayOdds {
  double forged_fraction = 0, caught_at_least = 0;
};

struct ReplayFinding {
  int audit = 0;  ///< index in ReportAudits::list
  std::string artifact;
  bool holds = false, bitwise = true;
  double tolerance = 0;
  std::string seed;
  int64_t steps = 0, steps_equal = 0, segments = 0, drawn = 0, drawn_equal = 0;
  std::vector<ReplayOdds> odds;
  std::vector<std::string> faults, notes;
  bool came_out() const { return holds && drawn_equal == drawn; }
};

struct RowsFinding {
  int audit = 0;
  std::string artifact;
  bool holds = false, drawn = false;  ///< drawn by a seed, or named by the auditor
  std::string seed;
  int64_t rows_total = 0, rows = 0, rows_equal = 0;
  std::vector<ReplayOdds> odds;
  std::vector<std::string> faults;
  bool came_out() const { return holds && rows > 0 && rows_equal == rows; }
};

struct RecomputedArtifact {
  std::string artifact, stage, status;  ///< "equal", "differs", "not made again"
  std::vector<std::string> details;
  bool here = false;  ///< its root is that of the artifact of this name
};

struct RecomputeFinding {
  int audit = 0;
  std::vector<RecomputedArtifact> artifacts;
  std::vector<std::string> notes;
};

struct EvidenceFinding {
  std::string name, null_hypothesis, computed_on, statistic, value, p_value, p_kind, cannot_show, not_run;
  std::vector<std::pair<std::string, std::string>> more;  ///< other p-values in it
};

struct CompareFinding {
  int audit = 0;
  std::string a, b;
  std::vector<EvidenceFinding> tests;
};

struct OtherFinding {
  int audit = 0;
  std::vector<std::pair<std::string, std::string>> values;  ///< what it says, by path within the result
};

struct ReportAudits {
  std::vector<ReportAudit> list;  ///< by file name
  std::vector<ReplayFinding> replays;
  std::vector<RowsFinding> rows;
  std::vector<RecomputeFinding> recomputes;
  std::vector<CompareFinding> compares;
  std::vector<OtherFinding> others;
  int64_t not_read = 0;  ///< files beyond the first thousand
};

/// Adds a record, and what it found if it counts; then it has a subject that is here. The result may be any JSON.
void add_audit(ReportAudits& audits, ReportAudit audit, const RunFolder& run);

/// The records beside the artifacts of `run`. `auditor`: nullptr when the reader named nobody. Throws IoError.
ReportAudits read_report_audits(const RunFolder& run, const std::vector<std::string>& makers, const PublicKey* auditor);

/// log10 of a p-value as people read it: "0.21", "3.1e-22"; also far below what a double holds.
std::string p_value_text(double log10_p);

}  // namespace overproof
