#pragma once
// The content of a report as plain values. What statements, licences and evaluations state comes from LineageFacts
// (audit/facts.h); router counts, training logs and audit records are read here. json.cc and view.h write it down.
//
// Nothing is taken from an artifact that does not hold: its files are not the ones that were signed. It is listed in
// `Report::left_out`. An audit record counts only if its signature holds and the artifact that it examined is here, by root.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "audit/facts.h"
#include "audit/policy.h"
#include "audit/verify.h"
#include "records/step_log.h"
#include "report/audits.h"

namespace overproof {

/// How far a claim can be trusted. The order is that of the report's legend.
enum class ClaimStatus {
  proved,     ///< follows from what was checked while the report was made
  sampled,    ///< an audit record: a random part was repeated with the same result
  audited,    ///< an audit record: all of it was repeated with the same result
  estimated,  ///< a statistic with an error
  recorded,   ///< the signer states it; no check here shows it
  unchecked,  ///< can be checked, and was not
  failed,     ///< was checked, and does not hold
};
inline constexpr int kClaimStatuses = 7;
std::string_view status_id(ClaimStatus status);       ///< in JSON: "proved", "recorded", ...
std::string_view status_name(ClaimStatus status);     ///< "proved", "only recorded", ...
std::string_view status_meaning(ClaimStatus status);  ///< one sentence

struct ReportClaim {
  std::string id;  ///< stable, for programs: "files-unchanged"
  std::string claim;
  ClaimStatus status = ClaimStatus::recorded;
  std::string how;      ///< by which check, or why not
  std::string command;  ///< shows more; "" when no command does
};

/// A remaining way to deceive, and what it would have to defeat.
struct ReportLimit {
  std::string trick, obstacle, here;
};

struct ReportLicense {
  std::string recorded;             ///< "unspecified" when no licence was recorded
  std::string spdx;                 ///< as an SPDX expression; "NOASSERTION" when no licence was recorded
  std::vector<std::string> duties;  ///< names, each required by some licence in the expression
  bool known = false;               ///< every licence in it is in the table of audit/licenses.h
  bool choice = false;              ///< alternatives, so not every duty need apply
};
ReportLicense report_license(const std::string& recorded);

struct ReportCorpus {
  std::string artifact;
  CorpusFacts facts;  ///< licences and sources with most text first
  /// Documents by recorded licence that trainings and recoveries here read; nothing where the files that show it are not here.
  std::optional<std::map<std::string, int64_t>> reached = {};
};

/// A licence, or terms, of something that final models were made with.
struct ReportTerm {
  PolicyItem item;
  std::optional<int64_t> documents;  ///< of the corpora under it; nothing where none is
  std::optional<int64_t> reached;    ///< of them, read by a training or recovery of these models; nothing where it is not known
};

/// What the built-in policy requires before final models are given away.
struct ReportShipping {
  std::vector<std::string> models;  ///< with the same terms
  std::vector<ReportTerm> terms;    ///< by name
  bool complete = true;             ///< everything that they were made from is here and holds
  std::vector<std::string> with(PolicyState state) const;  ///< names of the terms in that state
};

struct ReportOrigin {  ///< a model that came from outside, or was drawn from a seed
  std::string artifact, name, kind;
  bool teaches = false;
  bool seeded = false;  ///< drawn from a seed: it has no licence, and recomputing makes it again
  ReportLicense license;
};

struct ReportArtifact {
  std::string name, kind, stage, root, signer;                 ///< root and signer in hex
  std::string story;                                           ///< what was done, in a sentence
  std::vector<std::pair<std::string, std::string>> made_from;  ///< slot, artifact
  std::vector<int> parents;          ///< for each of made_from: index in Report::artifacts; -1: not here
  std::vector<std::string> missing;  ///< inputs that are not here
  int64_t files = 0, bytes = 0;
  std::optional<double> ffn_activation;
  std::optional<double> parameters;  ///< of a model from outside
  bool holds = true;
  bool is_end = false;    ///< a model whose weights no other model here carries on
  bool recorded = false;  ///< of targets: rows of a teacher that is out of reach
  bool has_step_records = false;
  const LineageKind* row() const { return find_lineage_kind(kind); }  ///< nullptr where another tool signed it
  bool is_model() const { return row() && row()->is_model(); }
  bool is_shown_by(ShownBy check) const { return row() && row()->shown_by == check; }
};

struct ReportShare {
  std::string source;
  int64_t tokens = 0;
  double mass = 0, lift = 0;  ///< as `audit impact` defines them
};

struct ReportExpert {
  int64_t layer = 0, expert = 0, tokens = 0;
  std::vector<ReportShare> sources;  ///< largest mass first; the first few
};

struct ReportExperts {
  std::string artifact;
  int64_t layers = 0, experts = 0, tokens = 0;
  /// Half the sum of the differences between the shares of sources in an expert's tokens and in those of its layer, mean over
  /// tokens: 0 when the routers are blind to sources.
  double apart = 0;
  std::vector<SourceCount> sources;              ///< tokens alone; most first
  std::vector<std::vector<ReportExpert>> layer;  ///< of each, the experts that differ most from the mean mixture, then by number
  int64_t left_out = 0;                          ///< experts of each layer that are not listed
};

struct ReportQuality {
  std::string artifact;
  EvaluationFacts facts;
};

struct ReportArena {
  std::string artifact;
  Arena facts;
};

struct ReportTraining {
  std::string artifact;
  std::vector<StepSeries> losses, balance;  ///< what was computed: a term that is zero at all steps, or the loss itself, is left out
  std::string only_term;                    ///< the term that is the loss itself
  std::vector<std::vector<double>> loads;   ///< [layers][experts]
  std::string fault;                       ///< why the log could not be read; "" when it could
};

/// Errors of the FFN outputs of each layer that `recover` solved, relative to their square.
struct ReportRecovery {
  std::string artifact;
  std::vector<StepSeries> errors;  ///< before and after, on the solved and on the held-out tokens; a value a layer
  std::vector<std::string> kept;   ///< experts that kept their weights
};

/// The first line of the page. A page is not green above a claim that was not checked.
enum class Verdict {
  holds,  ///< no claim fails or is unchecked; some may be only recorded
  open,   ///< no claim fails, some are unchecked
  fails,
};
std::string_view verdict_id(Verdict verdict);  ///< in JSON: "holds", "open", "fails"

struct Report {
  std::string title;
  bool single = false, holds = true;
  bool trusted_key = false, trusted_auditor = false;
  int64_t files = 0, bytes = 0;
  std::vector<std::string> signers;       ///< key hints
  std::vector<std::string> not_signed;    ///< artifacts without valid signatures by those keys
  std::vector<ReportArtifact> artifacts;  ///< parents before children
  std::vector<std::string> left_out;
  std::vector<Finding> findings;
  std::vector<ReportOrigin> origins;
  std::vector<ReportCorpus> corpora;
  std::optional<int64_t> taught_tokens;   ///< of the corpora, that soft targets cover
  std::vector<std::string> beacons;       ///< public randomness that orders of training are bound to
  std::vector<std::string> acknowledged;  ///< "gguf: GPL-3.0-only", as signed by exports
  std::vector<ReportShipping> shipping;
  std::vector<ReportExperts> experts;
  std::vector<ReportQuality> quality;
  std::vector<ReportArena> arenas;
  std::vector<ReportRecovery> recoveries;
  std::vector<ReportTraining> training;
  ReportAudits audits;
  std::vector<ReportClaim> claims;
  std::vector<ReportLimit> limits;
  std::map<std::string, std::string> builders;  ///< programs and versions in the statements

  int64_t claims_with(ClaimStatus status) const;
  Verdict verdict() const;
};

struct ReportTrust {
  bool signer = false;               ///< the verification was made with a key that the reader trusts
  std::optional<PublicKey> auditor;  ///< the auditor whom the reader trusts
};

/// Throws IoError; faults of the artifacts become findings.
Report gather_report(const Verification& verification, const ReportTrust& trust);

/// Fills in the claims and limits from the rest of the report; gather_report calls it.
void judge_claims(Report& report);

/// The report as JSON, "format_version" 1.
Json report_json(const Report& report);

}  // namespace overproof
