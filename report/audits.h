#pragma once
// The audit records of a run, as a report shows them. An auditor may use another version of this program, so every field may be
// missing: what is there is taken, and a file that cannot be read is listed with the reason.

#include <string>
#include <vector>

#include "audit/facts.h"
#include "core/json.h"

namespace overproof {

enum class RecordStatus {
  counts,     ///< signed, and about an artifact that is here
  elsewhere,  ///< signed, but what was examined is not here, by files and statement
  forged,     ///< the signature does not hold, or is not that of the auditor whom the reader named
  unreadable,
};

struct ReportSubject {
  std::string name, root;
  std::string here;  ///< the artifact with those files and that statement in this run; "" when there is none
};

struct ReportAudit {
  std::string file;  ///< its name
  std::string kind;
  RecordStatus status = RecordStatus::unreadable;
  std::string why;        ///< it does not count
  std::string signer;     ///< key hint, as far as read
  bool trusted = false;   ///< the reader named this auditor's key
  bool by_maker = false;  ///< the auditor's key is one that signed the run
  std::vector<ReportSubject> subjects;
  Json result = Json::object();
  bool counts() const { return status == RecordStatus::counts; }
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
  bool by_chance = false;  ///< the seed is hex and too long to be tried beforehand
  int64_t steps = 0, steps_equal = 0, segments = 0;
  int64_t made = 0, made_equal = 0;  ///< segments made again
  int64_t drawn = 0;                 ///< of those, by the seed: all but the last, which is always made
  bool files_equal = false;   ///< configuration, tokenizer and templates were made again; records of 0.1 did not compare them
  bool counts_equal = false;  ///< router counts, too
  std::vector<ReplayOdds> odds;
  std::vector<std::string> faults, notes;
  bool is_equal() const { return holds && made_equal == made; }
};

struct RowsFinding {
  int audit = 0;
  std::string artifact;
  bool holds = false, drawn = false;  ///< drawn by a seed, or named by the auditor
  std::string seed;
  bool by_chance = false;  ///< the seed is hex and too long to be tried beforehand
  int64_t rows_total = 0, rows = 0, rows_equal = 0;
  std::vector<ReplayOdds> odds;
  std::vector<std::string> faults;
  bool is_equal() const { return holds && rows > 0 && rows_equal == rows; }
};

struct RecomputedArtifact {
  std::string artifact, stage, status;  ///< "equal", "differs", "left", "not made again"
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
  std::vector<std::pair<std::string, std::string>> values;  ///< path within the result, value
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

/// Adds a record, and its findings if it counts; then it has a subject that is here. The result may be any JSON.
void add_audit(ReportAudits& audits, ReportAudit audit);

/// The records of the run. `makers`: hints of the keys that signed the run; `auditor`: nullptr when the reader named none.
ReportAudits report_audits(const LineageFacts& facts, const std::vector<std::string>& makers, const PublicKey* auditor);

/// A p-value from its log10: "0.21", "3.1e-22"; also far below what a double holds.
std::string p_value_text(double log10_p);

}  // namespace overproof
