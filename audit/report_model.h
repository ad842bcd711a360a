#pragma once
// What a report says, gathered once as plain values; report_html.h, report_markdown.h and report_json.h only write it down.
//
// Nothing of an artifact that does not hold is taken in: its files are not what was signed. Such an artifact is named in
// `Report::left_out`. An audit record counts only when its signature holds and the artifact that it examined is the one that is
// here, by root.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "audit/report_audits.h"
#include "audit/verify.h"

namespace overproof {

/// How far a claim may be trusted. The order is that of the report's legend.
enum class Standing {
  proved,     ///< follows from what was checked while the report was made
  sampled,    ///< an audit record says that a random part of it was made again and came out the same
  audited,    ///< an audit record says that all of it was made again and came out the same
  estimated,  ///< a statistic, true up to its error
  recorded,   ///< whoever signed says so, and nothing here can show it
  unchecked,  ///< could be checked, and nobody here did
  failed,     ///< was checked, and does not hold
};
inline constexpr int kStandings = 7;
/// "proved", "only recorded", ...
std::string_view standing_name(Standing standing);
/// What it means, in a sentence.
std::string_view standing_meaning(Standing standing);

struct ReportClaim {
  std::string id;  ///< stable, for programs: "files-unchanged"
  std::string claim;
  Standing standing = Standing::recorded;
  std::string how;      ///< by what check, or why not
  std::string command;  ///< that would show more; "" when there is none
};

/// What the sources of untruth are that remain, and what each would have to get past.
struct ReportLimit {
  std::string trick, obstacle, here;
};

struct ReportTally {
  std::string name;
  int64_t documents = 0, tokens = 0, bytes = 0;
};

struct ReportLicense {
  ReportTally tally;
  std::string spdx;                 ///< as an SPDX expression; "NOASSERTION" when nothing was recorded
  std::vector<std::string> duties;  ///< names, each of which some licence in the expression asks for
  bool known = false;               ///< the table (audit/licenses.h) knows every licence in it
  bool choice = false;              ///< licences in it are alternatives, so not every duty need apply
};

struct ReportCorpus {
  std::string artifact;
  ReportTally total;
  std::vector<ReportLicense> licenses;  ///< most text first
  std::vector<ReportTally> sources;     ///< most text first
  bool committed = false;               ///< to its documents, for proofs of presence and absence
};

struct ReportOrigin {  ///< a model that came from outside, or was drawn from a seed
  std::string artifact, name, kind;
  bool teaches = false;
  ReportLicense license;
};

struct ReportArtifact {
  std::string name, kind, stage, root, signer;                 ///< root and signer in hex
  std::string story;                                           ///< what was done, in words
  std::vector<std::pair<std::string, std::string>> made_from;  ///< slot, artifact
  std::vector<int> parents;                                    ///< beside made_from: index in Report::artifacts; -1: not here
  std::vector<std::string> missing;                            ///< inputs that are not here
  int64_t files = 0, bytes = 0;
  std::optional<double> ffn_activation;
  bool holds = true, is_model = false, is_end = false;  ///< is_end: nothing else here was made from it; measuring makes nothing
};

struct ReportShare {
  std::string source;
  int64_t tokens = 0;
  double mass = 0, lift = 0;  ///< as audit impact says them
};

struct ReportExpert {
  int64_t layer = 0, expert = 0, tokens = 0;
  std::vector<ReportShare> sources;  ///< largest mass first; the first few
};

struct ReportExperts {
  std::string artifact;
  int64_t layers = 0, experts = 0, tokens = 0;
  std::vector<ReportTally> sources;              ///< tokens alone; most first
  std::vector<std::vector<ReportExpert>> layer;  ///< of each, the experts that are furthest from the mean mixture, then by number
  int64_t left_out = 0;                          ///< experts of each layer that are not listed
};

struct ReportQualityRow {
  std::string name;
  std::optional<double> perplexity, kl_mean, kl_p99, top1_agreement, ffn_activation, parameter_activation, bytes;
};

struct ReportQuality {
  std::string artifact;
  std::optional<double> tokens;
  std::vector<ReportQualityRow> rows;
};

struct ReportSeries {
  std::string name;
  std::vector<double> values;  ///< NaN where a step says nothing
};

struct ReportTraining {
  std::string artifact;
  std::vector<ReportSeries> losses, balance;
  std::vector<std::vector<double>> loads;  ///< [layers][experts]
  std::string fault;                       ///< why the log could not be read; "" when it could
};

struct Report {
  std::string title;
  bool single = false, holds = true;
  bool trusted_key = false, trusted_auditor = false;
  int64_t files = 0, bytes = 0;
  std::vector<std::string> signers;       ///< key hints
  std::vector<ReportArtifact> artifacts;  ///< parents before children
  std::vector<std::string> left_out;
  std::vector<Finding> findings;
  std::vector<ReportOrigin> origins;
  std::vector<ReportCorpus> corpora;
  std::optional<int64_t> taught_tokens, taught_windows;  ///< of the corpora, that the teacher answered
  std::vector<std::string> beacons;                      ///< public randomness that orders of training are bound to
  std::vector<std::string> acknowledged;                 ///< "gguf: GPL-3.0-only", as signed by exports
  std::vector<ReportExperts> experts;
  std::vector<ReportQuality> quality;
  std::vector<ReportTraining> training;
  ReportAudits audits;
  std::vector<ReportClaim> claims;
  std::vector<ReportLimit> limits;
  std::map<std::string, std::string> builders;  ///< what it was made with
};

struct ReportTrust {
  bool signer = false;               ///< the verification was made with a key that the reader trusts
  std::optional<PublicKey> auditor;  ///< whose records count as somebody's whom the reader trusts
};

/// `run_name` stands in the commands that the report proposes; it is not a path of this machine.
Report gather_report(const Verification& verification, const ReportTrust& trust);

/// The claims and limits of everything else in the report; gather_report calls it.
void judge_claims(Report& report);

}  // namespace overproof
