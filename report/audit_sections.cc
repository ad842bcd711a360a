// The sections on audit records.

#include <fmt/format.h>

#include <algorithm>

#include "report/view.h"

namespace overproof {
namespace {

void add_signer(Section& s, const Report& r, int audit) {
  const ReportAudit& a = r.audits.list[size_t(audit)];
  s.quiet("Signed with " + key_hint(a.signer) +
          (a.by_maker  ? " (the maker's own key)."
           : a.trusted ? " (the auditor whom the reader trusts)."
                       : " (not a key that the reader named; --auditor-key names the trusted one)."));
}

void add_odds(Table& table, const std::vector<ReplayOdds>& odds, const char* what) {
  for (const ReplayOdds& o : odds)
    table.add({fmt::format("probability of finding a forged one, if {:g} % of the {} were forged, at least",
                           100 * o.forged_fraction, what),
               percent(o.caught_at_least)});
}

Phrase outcome(bool equal) { return equal ? Phrase("equal to what is recorded") : badge(ClaimStatus::failed); }

Section replay(const Report& r) {
  Section s("replay", "Replay of the training");
  for (const ReportArtifact& a : r.artifacts) {
    if (!a.is_shown_by(ShownBy::replay)) continue;
    for (const ReplayFinding& f : r.audits.replays) {
      if (f.artifact != a.name) continue;
      Table table(fmt::format("Replay of ‘{}’", a.name), {"item", "result"});
      table.add({"outcome", outcome(f.is_equal())});
      table.add({"steps whose order, rate and batch follow from the statement",
                 fmt::format("{} of {}", grouped(f.steps_equal), grouped(f.steps))});
      table.add({"segments repeated",
                 fmt::format("{} of {}, of which {} were equal", grouped(f.made), grouped(f.segments), grouped(f.made_equal))});
      table.add({"compared", f.bitwise ? "bit for bit" : fmt::format("within {:g} of the weights' movement", f.tolerance)});
      if (!f.seed.empty()) table.add({"seed of the draw", code(f.seed)});
      if (f.made > f.drawn) table.add({"of them drawn by the seed", grouped(f.drawn) + "; the last is always repeated"});
      if (f.made > 0 && f.made >= f.segments) table.add({"not repeated", "none: every segment was repeated"});
      if (f.made < f.segments) add_odds(table, f.odds, "segments");
      s.table(table);
      s.list("Differences:", f.faults);
      s.list("Notes of the auditor:", f.notes);
      add_signer(s, r, f.audit);
    }
  }
  if (!r.audits.replays.empty())
    s.quiet(
        "A replay shows nothing of segments that were not drawn, of whether the soft targets are the teacher's, or of the origin "
        "of the documents.");
  return s;
}

Section rows(const Report& r) {
  Section s("rows", "Teacher outputs computed again");
  for (const RowsFinding& f : r.audits.rows) {
    Table table(fmt::format("Rows of ‘{}’", f.artifact), {"item", "result"});
    table.add({"outcome", outcome(f.is_equal())});
    table.add({"rows computed again", fmt::format("{} of {}, of which {} were equal byte for byte", grouped(f.rows),
                                                  grouped(f.rows_total), grouped(f.rows_equal))});
    table.add({"seed of the draw", f.drawn ? code(f.seed) : "none: the auditor chose the row"});
    add_odds(table, f.odds, "rows");
    s.table(table);
    s.list("Differences:", f.faults);
    add_signer(s, r, f.audit);
  }
  return s;
}

Section recompute(const Report& r) {
  Section s("recompute", "Artifacts made again from their parents");
  for (const RecomputeFinding& f : r.audits.recomputes) {
    Table table(fmt::format("Made again: {}", r.audits.list[size_t(f.audit)].file), {"artifact", "stage", "result", "details"});
    for (const RecomputedArtifact& a : f.artifacts) {
      constexpr size_t kMost = 20;
      std::string details = a.here ? "" : "not the artifact that is here now, so this shows nothing about it";
      for (size_t i = 0; i < std::min(a.details.size(), kMost); ++i) details += (details.empty() ? "" : "; ") + a.details[i];
      if (a.details.size() > kMost) details += fmt::format("; and {} more", a.details.size() - kMost);
      table.add({name(a.artifact), name(a.stage),
                 a.status == "differs" ? badge(ClaimStatus::failed) + " differs"
                 : a.status == "equal" ? "equal byte for byte"
                 : a.status == "left"  ? "left to another check"
                                       : (a.status.empty() ? "?" : a.status),
                 details.empty() ? "–" : details});
    }
    s.table(table, "the record");
    s.list("Notes of the auditor:", f.notes);
    add_signer(s, r, f.audit);
  }
  return s;
}

Section evidence(const Report& r) {
  Section s("evidence", "Evidence between two models");
  for (const CompareFinding& f : r.audits.compares) {
    s.heading(fmt::format("‘{}’ and ‘{}’", f.a, f.b));
    Table table(fmt::format("Tests between ‘{}’ and the suspect ‘{}’", f.a, f.b),
                {"test", "p", "result", "null hypothesis: a small p is evidence against it", "cannot show"});
    std::vector<std::string> not_run;
    for (const EvidenceFinding& e : f.tests) {
      if (!e.not_run.empty()) {
        not_run.push_back(fmt::format("{}: {}", e.name, e.not_run));
        continue;
      }
      std::string kind = fmt::format(" {}.", e.p_kind.empty() ? "The record does not state its assumptions" : e.p_kind);
      for (const auto& [label, value] : e.more) kind += fmt::format(" {}: {}.", label, value);
      table.add({name(e.name), strong(e.p_value) + kind, fmt::format("{}: {}. On {}.", e.statistic, e.value, e.computed_on),
                 e.null_hypothesis, e.cannot_show});
    }
    s.table(table, "the record");
    s.list("Not run:", not_run);
    add_signer(s, r, f.audit);
  }
  if (!r.audits.compares.empty())
    s.quiet(
        "A p-value is the probability of a statistic at least as extreme if the null hypothesis were true. Read as evidence only "
        "what is below one in a million. Neither one test nor all together are a verdict.");
  return s;
}

Section records(const Report& r) {
  Section s("records", "Audit records");
  if (r.audits.list.empty()) {
    s.quiet("The run has no audit records. Audits write one with --record; the commands are in " + link("the list of claims", "claims") + ".");
    return s;
  }
  std::string none;
  for (const auto& [empty, what] :
       {std::pair{r.audits.replays.empty(), "of a replay"}, std::pair{r.audits.rows.empty(), "of rows computed again"},
        std::pair{r.audits.recomputes.empty(), "of artifacts made again"}, std::pair{r.audits.compares.empty(), "of a comparison"}})
    if (empty) none += fmt::format("{}{}", none.empty() ? "" : ", ", what);
  if (!none.empty()) s.quiet("No record that counts is here " + none + ". The commands that make them are in " + link("the list of claims", "claims") + ".");
  Table table("Records in the folder audits", {"record", "kind", "examined", "signer", "counts"});
  for (const ReportAudit& a : r.audits.list) {
    constexpr size_t kMost = 12;
    std::string examined;
    for (size_t i = 0; i < std::min(a.subjects.size(), kMost); ++i)
      examined += fmt::format("{}‘{}’{}", i ? ", " : "", a.subjects[i].name, a.subjects[i].here.empty() ? " (not here)" : "");
    if (a.subjects.size() > kMost) examined += fmt::format(" and {} more", a.subjects.size() - kMost);
    table.add({name(a.file), a.kind.empty() ? "?" : name(a.kind), examined.empty() ? "–" : examined, key_hint(a.signer),
               !a.counts()  ? "no: " + a.why
               : a.by_maker ? "yes, but signed by the maker"
               : a.trusted  ? "yes, by the auditor whom the reader trusts"
                            : "yes; the owner of the key was not checked"});
  }
  s.table(table, "the folder audits");
  if (r.audits.not_read > 0) s.paragraph(fmt::format("{} more files in the folder were not read.", r.audits.not_read));
  for (const OtherFinding& f : r.audits.others) {
    const ReportAudit& audit = r.audits.list[size_t(f.audit)];
    Table values(fmt::format("Content of {}", audit.file), {"field", "value"});
    for (const auto& [path, value] : f.values) values.add({name(path), name(value)});
    s.folded(fmt::format("‘{}’ ({})", audit.file, audit.kind), values);
  }
  return s;
}

}  // namespace

std::vector<Section> audit_sections(const Report& r) { return {replay(r), rows(r), recompute(r), evidence(r), records(r)}; }

}  // namespace overproof
