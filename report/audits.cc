#include "report/audits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/public_draw.h"
#include "report/json_values.h"

namespace overproof {
namespace {

using namespace json_values;

constexpr size_t kMostValues = 40;

/// Whether a recomputed artifact is among those that the record names by files and statement, and that are here.
bool is_here(const std::vector<ReportSubject>& subjects, const std::string& name, const std::string& root) {
  return std::any_of(subjects.begin(), subjects.end(),
                     [&](const ReportSubject& s) { return s.here == name && "sha256:" + s.root == root; });
}

std::vector<ReplayOdds> read_odds(const Json& result) {
  std::vector<ReplayOdds> odds;
  for (const Json& o : elements(result, "odds"))
    if (const auto forged = number(o, "forged_fraction"), caught = number(o, "caught_at_least"); forged && caught)
      odds.push_back({*forged, *caught});
  return odds;
}

RowsFinding read_rows(const Json& result, int audit) {
  RowsFinding f;
  f.audit = audit;
  f.holds = truth(result, "holds");
  f.drawn = text(result, "mode") == "drawn";
  // Records of 0.1 have a number, with a default that any maker knew.
  if (const Json& seed = member(result, "seed"); f.drawn) f.seed = seed.is_number_integer() ? seed.dump() : text(result, "seed");
  f.by_chance = f.drawn && member(result, "seed").is_string() && is_public_seed(f.seed);
  f.rows_total = count(result, "rows_total");
  f.rows_equal = count(result, "rows_equal");
  f.rows = int64_t(elements(result, "rows").size());
  f.odds = read_odds(result);
  for (const Json& row : elements(result, "differing"))
    if (row.is_number_integer()) f.faults.push_back(fmt::format("row {} differs from the teacher's output", row.dump()));
  for (const std::string& fault : texts(result, "faults")) f.faults.push_back(fault);
  return f;
}

ReplayFinding read_replay(const Json& result, int audit) {
  ReplayFinding f;
  f.audit = audit;
  f.holds = truth(result, "holds");
  f.tolerance = number(result, "tolerance").value_or(0);
  f.bitwise = text(result, "mode") != "tolerance" && f.tolerance == 0;
  f.seed = text(result, "seed");
  f.by_chance = is_public_seed(f.seed);
  f.steps = count(result, "steps");
  f.steps_equal = count(result, "steps_planned_equal");
  f.segments = count(result, "segments_total");
  f.files_equal = count(result, "files_equal") > 0;
  f.counts_equal = text(result, "router_counts") == "equal";
  for (const Json& segment : elements(result, "segments")) {
    ++f.made;
    f.made_equal += truth(segment, "equal");
    f.drawn += !segment.is_object() || !segment.contains("drawn") || segment["drawn"] != false;
    if (const std::string difference = text(segment, "difference"); !difference.empty())
      f.faults.push_back(fmt::format("steps {} to {}: {}", count(segment, "first_step"),
                                     std::max<int64_t>(count(segment, "end_step"), 1) - 1, difference));
  }
  f.odds = read_odds(result);
  for (const std::string& fault : texts(result, "faults")) f.faults.push_back(fault);
  f.notes = texts(result, "notes");
  return f;
}

RecomputeFinding read_recompute(const Json& result, int audit, const std::vector<ReportSubject>& subjects) {
  RecomputeFinding f{audit, {}, texts(result, "notes")};
  for (const Json& item : elements(result, "artifacts"))
    f.artifacts.push_back({text(item, "artifact"), text(item, "stage"), text(item, "status"), texts(item, "details"),
                           is_here(subjects, text(item, "artifact"), text(item, "root"))});
  return f;
}

/// "" unless the value is a probability above 0.
std::string p_of(const Json& object, const char* name) {
  const auto p = number(object, name);
  return p && *p > 0 ? p_value_text(std::log10(*p)) : "";
}

CompareFinding read_compare(const Json& result, int audit) {
  CompareFinding f{audit, text(member(result, "a"), "name"), text(member(result, "b"), "name"), {}};
  for (const Json& test : elements(result, "tests")) {
    EvidenceFinding e;
    e.name = text(test, "name");
    e.null_hypothesis = text(test, "null_hypothesis");
    e.not_run = text(test, "not_run");
    e.computed_on = text(test, "computed_on");
    e.statistic = text(test, "statistic");
    if (const auto value = number(test, "value")) e.value = fmt::format("{:.4g}", *value);
    const auto log10_p = number(test, "log10_p");
    e.p_value = log10_p ? p_value_text(*log10_p) : p_of(test, "p_value");
    e.p_kind = text(test, "p_kind");
    e.cannot_show = text(test, "cannot_show");
    if (e.not_run.empty() && e.p_value.empty()) e.not_run = "the record holds no p-value";
    for (const auto& [key, label] :
         {std::pair{"monte_carlo_p", "by random pairings"}, std::pair{"rank_p", "by rank among the controls"}})
      if (const std::string p = p_of(member(test, "details"), key); !p.empty()) e.more.emplace_back(label, p);
    f.tests.push_back(std::move(e));
  }
  return f;
}

void flatten(const Json& value, const std::string& path, std::vector<std::pair<std::string, std::string>>& values) {
  if (values.size() >= kMostValues) return;
  if (value.is_object()) {
    for (const auto& [name, item] : value.items()) flatten(item, path.empty() ? name : path + "." + name, values);
  } else {
    values.emplace_back(path, value.is_string() ? value.get<std::string>() : dump_text(value));
  }
}

ReportAudit audit_of(const AuditFacts& facts, const std::vector<std::string>& makers, const PublicKey* auditor) {
  ReportAudit audit;
  audit.file = facts.file;
  audit.why = facts.unreadable;
  if (!facts.unreadable.empty()) return audit;
  const AuditRecord& record = facts.record;
  audit.kind = record.kind;
  audit.signer = record.signer_hint;
  audit.trusted = auditor && auditor->hint() == record.signer_hint;
  audit.by_maker = std::count(makers.begin(), makers.end(), record.signer_hint) > 0;
  audit.result = record.result;
  bool any_here = false;
  for (size_t i = 0; i < record.subjects.size(); ++i) {
    audit.subjects.push_back({record.subjects[i].name, record.subjects[i].root.hex(), facts.here[i]});
    any_here |= !facts.here[i].empty();
  }
  if (!record.signature_valid) {
    audit.status = RecordStatus::forged;
    audit.why = "its signature does not hold";
  } else if (auditor && !audit.trusted) {
    audit.status = RecordStatus::forged;
    audit.why = "it is signed by another key than the given auditor's";
  } else if (!any_here) {
    audit.status = RecordStatus::elsewhere;
    audit.why = facts.not_here;
  } else {
    audit.status = RecordStatus::counts;
  }
  return audit;
}

}  // namespace

std::string p_value_text(double log10_p) {
  if (!std::isfinite(log10_p) || log10_p > 0) log10_p = 0;
  if (log10_p > -3) return fmt::format("{:.2g}", std::pow(10.0, log10_p));
  double exponent = std::floor(log10_p), mantissa = std::pow(10.0, log10_p - exponent);
  if (mantissa >= 9.95) mantissa = 1, exponent += 1;
  return fmt::format("{:.1f}e{:.0f}", mantissa, exponent);
}

void add_audit(ReportAudits& audits, ReportAudit audit) {
  const int index = int(audits.list.size());
  if (audit.counts()) {
    // The subject is what was signed as examined; a name in the result is only text.
    const std::string& examined = audit.subjects.front().here;
    if (audit.kind == "replay") {
      audits.replays.push_back(read_replay(audit.result, index));
      audits.replays.back().artifact = examined;
    } else if (audit.kind == "rows") {
      audits.rows.push_back(read_rows(audit.result, index));
      audits.rows.back().artifact = examined;
    } else if (audit.kind == "recompute") {
      audits.recomputes.push_back(read_recompute(audit.result, index, audit.subjects));
    } else if (audit.kind == "compare") {
      CompareFinding f = read_compare(audit.result, index);
      if (f.a.empty()) f.a = audit.subjects.front().name;
      if (f.b.empty() && audit.subjects.size() > 1) f.b = audit.subjects[1].name;
      audits.compares.push_back(std::move(f));
    } else {
      audits.others.push_back({index, {}});
      flatten(audit.result, "", audits.others.back().values);
    }
  }
  audits.list.push_back(std::move(audit));
}

ReportAudits report_audits(const LineageFacts& facts, const std::vector<std::string>& makers, const PublicKey* auditor) {
  ReportAudits audits;
  audits.not_read = facts.audits_not_read;
  for (const AuditFacts& a : facts.audits) add_audit(audits, audit_of(a, makers, auditor));
  return audits;
}

}  // namespace overproof
