#include "audit/report_audits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/interrupt.h"

namespace overproof {
namespace {

constexpr size_t kMostRecords = 1000, kMostValues = 40;

const Json& member(const Json& object, const char* name) {
  static const Json nothing;
  return object.is_object() && object.contains(name) ? object[name] : nothing;
}

std::string text(const Json& object, const char* name) {
  const Json& value = member(object, name);
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::optional<double> number(const Json& object, const char* name) {
  const Json& value = member(object, name);
  if (!value.is_number() || !std::isfinite(value.get<double>())) return std::nullopt;
  return value.get<double>();
}

/// Whole numbers of what is counted; whatever else stands there is none.
int64_t count(const Json& object, const char* name) {
  const auto value = number(object, name);
  return value && *value >= 0 && *value < 9e15 ? int64_t(*value) : 0;
}

bool truth(const Json& object, const char* name) {
  const Json& value = member(object, name);
  return value.is_boolean() && value.get<bool>();
}

std::vector<std::string> texts(const Json& object, const char* name) {
  std::vector<std::string> all;
  if (const Json& list = member(object, name); list.is_array())
    for (const Json& item : list)
      if (item.is_string()) all.push_back(item.get<std::string>());
  return all;
}

/// Whether a recomputed artifact is among those that the record names by files and statement, and that are here.
bool is_here(const std::vector<ReportSubject>& subjects, const std::string& name, const std::string& root) {
  return std::any_of(subjects.begin(), subjects.end(),
                     [&](const ReportSubject& s) { return s.here == name && "sha256:" + s.root == root; });
}

std::vector<ReplayOdds> read_odds(const Json& result) {
  std::vector<ReplayOdds> odds;
  if (const Json& list = member(result, "odds"); list.is_array())
    for (const Json& o : list)
      if (const auto forged = number(o, "forged_fraction"), caught = number(o, "caught_at_least"); forged && caught)
        odds.push_back({*forged, *caught});
  return odds;
}

RowsFinding read_rows(const Json& result, int audit) {
  RowsFinding f;
  f.audit = audit;
  f.holds = truth(result, "holds");
  f.drawn = text(result, "mode") == "drawn";
  if (const Json& seed = member(result, "seed"); f.drawn && seed.is_number_integer()) f.seed = seed.dump();
  f.rows_total = count(result, "rows_total");
  f.rows_equal = count(result, "rows_equal");
  if (const Json& list = member(result, "rows"); list.is_array()) f.rows = int64_t(list.size());
  if (const Json& list = member(result, "differing"); list.is_array())
    for (const Json& row : list)
      if (row.is_number_integer()) f.faults.push_back(fmt::format("row {} is not what the teacher says", row.dump()));
  f.odds = read_odds(result);
  for (const std::string& fault : texts(result, "faults")) f.faults.push_back(fault);
  return f;
}

ReplayFinding read_replay(const Json& result, int audit) {
  ReplayFinding f;
  f.audit = audit;
  f.artifact = text(result, "artifact");
  f.holds = truth(result, "holds");
  f.tolerance = number(result, "tolerance").value_or(0);
  f.bitwise = text(result, "mode") != "tolerance" && f.tolerance == 0;
  f.seed = text(result, "seed");
  f.steps = count(result, "steps");
  f.steps_equal = count(result, "steps_planned_equal");
  f.segments = count(result, "segments_total");
  if (const Json& list = member(result, "segments"); list.is_array())
    for (const Json& segment : list) {
      ++f.drawn;
      f.drawn_equal += truth(segment, "equal");
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
  RecomputeFinding f;
  f.audit = audit;
  f.notes = texts(result, "notes");
  if (const Json& list = member(result, "artifacts"); list.is_array())
    for (const Json& item : list)
      f.artifacts.push_back({text(item, "artifact"), text(item, "stage"), text(item, "status"), texts(item, "details"),
                             is_here(subjects, text(item, "artifact"), text(item, "root"))});
  return f;
}

std::string p_of(const Json& test) {
  if (const auto log10_p = number(test, "log10_p")) return p_value_text(*log10_p);
  const auto p = number(test, "p_value");
  return p && *p > 0 ? p_value_text(std::log10(*p)) : "";
}

CompareFinding read_compare(const Json& result, int audit) {
  CompareFinding f;
  f.audit = audit;
  f.a = text(member(result, "a"), "name");
  f.b = text(member(result, "b"), "name");
  if (const Json& list = member(result, "tests"); list.is_array())
    for (const Json& test : list) {
      EvidenceFinding e;
      e.name = text(test, "name");
      e.null_hypothesis = text(test, "null_hypothesis");
      e.not_run = text(test, "not_run");
      e.computed_on = text(test, "computed_on");
      e.statistic = text(test, "statistic");
      if (const auto value = number(test, "value")) e.value = fmt::format("{:.4g}", *value);
      e.p_value = p_of(test);
      e.p_kind = text(test, "p_kind");
      e.cannot_show = text(test, "cannot_show");
      if (e.not_run.empty() && e.p_value.empty()) e.not_run = "the record holds no p-value";
      const Json& details = member(test, "details");
      for (const auto& [key, label] :
           {std::pair{"monte_carlo_p", "by random pairings"}, std::pair{"rank_p", "by rank among the controls"}})
        if (const auto p = number(details, key); p && *p > 0) e.more.emplace_back(label, p_value_text(std::log10(*p)));
      f.tests.push_back(std::move(e));
    }
  return f;
}

void flatten(const Json& value, const std::string& path, std::vector<std::pair<std::string, std::string>>& values) {
  if (values.size() >= kMostValues) return;
  if (value.is_object()) {
    for (const auto& [name, item] : value.items()) flatten(item, path.empty() ? name : path + "." + name, values);
  } else {
    values.emplace_back(
        path, value.is_string() ? value.get<std::string>() : dump_text(value));
  }
}

ReportAudit read_one(const fs::path& file, const RunFolder& run, const std::vector<std::string>& makers,
                     const PublicKey* auditor) {
  ReportAudit audit;
  audit.file = file.filename().string();
  AuditRecord record;
  try {
    record = read_audit_record(file, nullptr);
  } catch (const FormatError& e) {
    // The message names the whole path, which is this machine's affair.
    std::string why = e.what();
    if (const size_t at = why.find(file.string()); at != std::string::npos) why.replace(at, file.string().size(), audit.file);
    audit.why = why;
    return audit;
  }
  audit.kind = record.kind;
  audit.signer = record.signer_hint;
  audit.trusted = auditor && auditor->hint() == record.signer_hint;
  audit.by_maker = std::count(makers.begin(), makers.end(), record.signer_hint) > 0;
  for (const AuditSubject& subject : record.subjects) {
    std::string why;
    const ArtifactNode* node = examined_artifact(run, subject, why);
    audit.subjects.push_back({subject.name, subject.root.hex(), node ? node->name : ""});
    if (!node) audit.why += (audit.why.empty() ? "" : "; ") + why;
  }
  audit.result = std::move(record.result);
  if (!record.signature_valid) {
    audit.standing = AuditStanding::forged;
    audit.why = "its signature does not hold";
  } else if (auditor && !audit.trusted) {
    audit.standing = AuditStanding::forged;
    audit.why = "it is signed by another key than the auditor's that was given";
  } else if (std::none_of(audit.subjects.begin(), audit.subjects.end(), [](const ReportSubject& s) { return !s.here.empty(); })) {
    audit.standing = AuditStanding::elsewhere;
  } else {
    audit.standing = AuditStanding::counts;
    audit.why.clear();
  }
  return audit;
}

}  // namespace

std::string_view audit_standing_name(AuditStanding standing) {
  switch (standing) {
    case AuditStanding::counts:
      return "counts";
    case AuditStanding::elsewhere:
      return "about something else";
    case AuditStanding::forged:
      return "does not count";
    case AuditStanding::unreadable:
      break;
  }
  return "cannot be read";
}

std::string p_value_text(double log10_p) {
  if (!std::isfinite(log10_p) || log10_p > 0) log10_p = 0;
  if (log10_p > -3) return fmt::format("{:.2g}", std::pow(10.0, log10_p));
  double exponent = std::floor(log10_p), mantissa = std::pow(10.0, log10_p - exponent);
  if (mantissa >= 9.95) mantissa = 1, exponent += 1;
  return fmt::format("{:.1f}e{:.0f}", mantissa, exponent);
}

void add_audit(ReportAudits& audits, ReportAudit audit, const RunFolder& run) {
  const int index = int(audits.list.size());
  if (audit.counts()) {
    if (audit.kind == "replay") {
      ReplayFinding f = read_replay(audit.result, index);
      // The subject is what was signed as examined; a name in the result is only text.
      f.artifact = audit.subjects.front().here;
      audits.replays.push_back(std::move(f));
    } else if (audit.kind == "rows") {
      RowsFinding f = read_rows(audit.result, index);
      f.artifact = audit.subjects.front().here;
      audits.rows.push_back(std::move(f));
    } else if (audit.kind == "recompute") {
      audits.recomputes.push_back(read_recompute(audit.result, index, audit.subjects));
    } else if (audit.kind == "compare") {
      CompareFinding f = read_compare(audit.result, index);
      if (f.a.empty()) f.a = audit.subjects.front().name;
      if (f.b.empty() && audit.subjects.size() > 1) f.b = audit.subjects[1].name;
      audits.compares.push_back(std::move(f));
    } else {
      OtherFinding f{index, {}};
      flatten(audit.result, "", f.values);
      audits.others.push_back(std::move(f));
    }
  }
  audits.list.push_back(std::move(audit));
}

ReportAudits read_report_audits(const RunFolder& run, const std::vector<std::string>& makers, const PublicKey* auditor) {
  ReportAudits audits;
  std::vector<fs::path> files = audit_record_files((run.single ? run.path.parent_path() : run.path) / kAuditFolder);
  if (files.size() > kMostRecords) {
    audits.not_read = int64_t(files.size() - kMostRecords);
    files.resize(kMostRecords);
  }
  for (const fs::path& file : files) {
    throw_if_interrupted();
    add_audit(audits, read_one(file, run, makers, auditor), run);
  }
  return audits;
}

}  // namespace overproof
