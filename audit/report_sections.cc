#include "audit/report_sections.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "audit/licenses.h"

namespace overproof {
namespace {

using Tone = PageParagraph::Tone;

std::string percent(double share) { return fmt::format("{:.1f}\u00a0%", 100 * share); }

PageBlock paragraph(std::string text, Tone tone = Tone::plain) { return {PageParagraph{tone, words(std::move(text))}}; }

PageCell bar(double share) { return {words(percent(share)), std::clamp(share, 0.0, 1.0)}; }

PageBlock absent(const std::string& what, const std::string& command) {
  return {PageParagraph{Tone::quiet, words(what + " ") + code(command) + words(" would make one.")}};
}

Phrase duties_of(const ReportLicense& license) {
  if (license.spdx == "NOASSERTION") return words("unknown: no licence was recorded");
  std::string all;
  for (const std::string& duty : license.duties) all += (all.empty() ? "" : ", ") + duty;
  if (license.choice && !all.empty()) all += " (of the licence that is chosen)";
  if (!license.known) all += (all.empty() ? "" : "; ") + std::string("not in the table, so read its text");
  else if (all.empty()) all = "none";
  return words(all);
}

/// Who signed a record, and what that is worth.
std::string signed_by(const Report& r, int audit) {
  const ReportAudit& a = r.audits.list[size_t(audit)];
  return fmt::format("Signed by {}… ({}).", a.signer.substr(0, 12),
                     a.by_maker  ? "the maker's own key"
                     : a.trusted ? "the auditor that the reader trusts"
                                 : "nobody vouches for this key here; --auditor-key names the one to trust");
}

void append(std::vector<PageBlock>& to, std::vector<PageBlock> blocks) {
  for (PageBlock& block : blocks) to.push_back(std::move(block));
}

void append_odds(PageTable& table, const std::vector<ReplayOdds>& odds, const char* what) {
  for (const ReplayOdds& o : odds)
    table.rows.push_back({{words(fmt::format("had {:g} % of the {} been forged, caught with a probability of at least",
                                             100 * o.forged_fraction, what))},
                          {words(percent(o.caught_at_least))}});
}

std::vector<PageBlock> list_of(const std::string& title, const std::vector<std::string>& items) {
  if (items.empty()) return {};
  PageList list;
  for (size_t i = 0; i < std::min(items.size(), kMostRows); ++i) list.items.push_back(words(items[i]));
  return {paragraph(title), {std::move(list)}};
}

}  // namespace

PageSection licenses_section(const Report& r) {
  PageSection s{"licences", "Licences and what they ask for", {}};
  if (!r.origins.empty()) {
    PageTable table{"Models from outside", {{"model"}, {"artifact"}, {"part"}, {"licence as recorded"}, {"asks for"}}, {}};
    for (const ReportOrigin& o : r.origins)
      table.rows.push_back({{words(o.name)},
                            {words(o.artifact)},
                            {words(o.teaches ? "teacher" : "ancestor")},
                            {words(o.kind == "seeded" ? "none: drawn from a seed" : o.license.tally.name)},
                            {o.kind == "seeded" ? words("none") : duties_of(o.license)}});
    s.blocks.push_back({std::move(table)});
  }
  std::set<std::string> asked;
  for (const ReportOrigin& o : r.origins) asked.insert(o.license.duties.begin(), o.license.duties.end());
  for (const ReportCorpus& c : r.corpora) {
    PageTable table{
        fmt::format("Documents of ‘{}’ by licence", c.artifact),
        {{"licence as recorded"}, {"SPDX"}, {"documents", true}, {"tokens", true}, {"share of text", true}, {"asks for"}},
        {}};
    for (const ReportLicense& l : c.licenses) {
      asked.insert(l.duties.begin(), l.duties.end());
      if (table.rows.size() >= kMostRows) continue;
      table.rows.push_back({{words(l.tally.name)},
                            {words(l.spdx)},
                            {words(grouped(l.tally.documents))},
                            {words(grouped(l.tally.tokens))},
                            c.total.bytes > 0 ? bar(double(l.tally.bytes) / double(c.total.bytes)) : PageCell{words("–")},
                            {duties_of(l)}});
    }
    if (!table.rows.empty()) s.blocks.push_back({std::move(table)});
    if (c.licenses.size() > kMostRows) s.blocks.push_back(more_rows(c.licenses.size(), "licenses.json of the corpus"));
  }
  if (!asked.empty()) {
    PageTable table{"What is asked for", {{"duty"}, {"meaning"}, {"reaches models trained on output"}}, {}};
    for (int d = 0; d < kDuties; ++d)
      if (asked.contains(std::string(duty_name(Duty(d)))))
        table.rows.push_back({{words(std::string(duty_name(Duty(d))))},
                              {words(std::string(duty_meaning(Duty(d))))},
                              {words(duty_follows_output(Duty(d)) ? "yes" : "no")}});
    s.blocks.push_back({std::move(table)});
  }
  if (!r.acknowledged.empty())
    append(s.blocks, list_of("Acknowledged by name when a model was exported, and signed:", r.acknowledged));
  if (!s.blocks.empty())
    s.blocks.push_back(
        paragraph("A reading aid, not legal advice: it names clauses that somebody has to look at, never whether they are kept. "
                  "Whether a licence of "
                  "training documents reaches a model's weights is not settled.",
                  Tone::quiet));
  return s;
}

PageSection sources_section(const Report& r) {
  PageSection s{"sources", "Documents by source", {}};
  for (const ReportCorpus& c : r.corpora) {
    PageTable table{fmt::format("Documents of ‘{}’ by source", c.artifact),
                    {{"source"}, {"documents", true}, {"tokens", true}, {"size", true}, {"share of text", true}},
                    {}};
    for (const ReportTally& t : c.sources) {
      if (table.rows.size() >= kMostRows) break;
      table.rows.push_back({{words(t.name)},
                            {words(grouped(t.documents))},
                            {words(grouped(t.tokens))},
                            {words(bytes_text(double(t.bytes)))},
                            c.total.bytes > 0 ? bar(double(t.bytes) / double(c.total.bytes)) : PageCell{words("–")}});
    }
    if (table.rows.empty()) continue;
    if (table.rows.size() <= 24) {
      s.blocks.push_back({std::move(table)});
    } else {
      PageFold fold{fmt::format("{} sources", grouped(int64_t(c.sources.size()))), {}};
      fold.blocks.push_back({std::move(table)});
      if (c.sources.size() > kMostRows) fold.blocks.push_back(more_rows(c.sources.size(), "licenses.json of the corpus"));
      s.blocks.push_back({std::move(fold)});
    }
  }
  return s;
}

PageSection experts_section(const Report& r) {
  PageSection s{"experts", "Experts by source", {}};
  if (r.experts.empty()) {
    const bool trained =
        std::any_of(r.artifacts.begin(), r.artifacts.end(), [](const ReportArtifact& a) { return a.kind == "distilled-from"; });
    if (trained)
      s.blocks.push_back(paragraph("No artifact here counted which experts the tokens of each source went to.", Tone::quiet));
    return s;
  }
  s.blocks.push_back(
      paragraph("How many tokens of each source the routers sent to each expert while it was trained. Lift is an expert's share "
                "of a source over that of its whole "
                "layer: 1 means that the router does not tell the source from others."));
  for (const ReportExperts& e : r.experts) {
    s.blocks.push_back({PageHeading{e.artifact}});
    PageTable sources{
        fmt::format("Tokens that ‘{}’ was trained on", e.artifact), {{"source"}, {"tokens", true}, {"share", true}}, {}};
    for (const ReportTally& t : e.sources)
      if (sources.rows.size() < kMostRows)
        sources.rows.push_back({{words(t.name)},
                                {words(grouped(t.tokens))},
                                e.tokens > 0 ? bar(double(t.tokens) / double(e.tokens)) : PageCell{words("–")}});
    s.blocks.push_back({std::move(sources)});

    // The most one-sided of all layers first; each layer whole in a fold.
    std::vector<std::pair<const ReportExpert*, const ReportShare*>> sided;
    for (const auto& layer : e.layer)
      for (const ReportExpert& expert : layer)
        for (const ReportShare& share : expert.sources)
          if (share.lift > 1) sided.emplace_back(&expert, &share);
    std::stable_sort(sided.begin(), sided.end(), [](const auto& a, const auto& b) {
      return a.second->mass - a.second->mass / a.second->lift > b.second->mass - b.second->mass / b.second->lift;
    });
    if (sided.size() > 10) sided.resize(10);
    PageTable top{fmt::format("‘{}’: the experts that one source shaped most beyond its part", e.artifact),
                  {{"expert"}, {"source"}, {"tokens from it", true}, {"share of the expert's tokens", true}, {"lift", true}},
                  {}};
    for (const auto& [expert, share] : sided)
      top.rows.push_back({{words(fmt::format("layer {}, expert {}", expert->layer, expert->expert))},
                          {words(share->source)},
                          {words(grouped(share->tokens))},
                          bar(share->mass),
                          {words(fmt::format("{:.2f}", share->lift))}});
    if (!top.rows.empty()) s.blocks.push_back({std::move(top)});

    for (const auto& layer : e.layer) {
      if (layer.empty()) continue;
      PageTable table{fmt::format("‘{}’, layer {}: the first sources of each expert", e.artifact, layer.front().layer),
                      {{"expert"},
                       {"tokens", true},
                       {"first source"},
                       {"share", true},
                       {"second"},
                       {"share", true},
                       {"third"},
                       {"share", true}},
                      {}};
      for (const ReportExpert& expert : layer) {
        std::vector<PageCell> row = {{words(std::to_string(expert.expert))}, {words(grouped(expert.tokens))}};
        for (size_t i = 0; i < 3; ++i) {
          if (i < expert.sources.size())
            row.push_back({words(expert.sources[i].source)}), row.push_back(bar(expert.sources[i].mass));
          else row.push_back({words("–")}), row.push_back({words("–")});
        }
        table.rows.push_back(std::move(row));
      }
      PageFold fold{fmt::format("‘{}’, layer {}", e.artifact, layer.front().layer), {}};
      fold.blocks.push_back({std::move(table)});
      if (e.left_out > 0)
        fold.blocks.push_back({PageParagraph{
            Tone::quiet,
            words(fmt::format("The {} that differ most from their layer; {} more are left out. ", layer.size(), e.left_out)) +
                code("overproof audit impact RUN --expert LAYER:EXPERT") + words(" has each.")}});
      s.blocks.push_back({std::move(fold)});
    }
  }
  return s;
}

PageSection replay_section(const Report& r) {
  PageSection s{"replay", "Replay of the training", {}};
  for (const ReportArtifact& a : r.artifacts) {
    if (a.kind != "distilled-from" && a.kind != "calibrated-from") continue;
    s.blocks.push_back({PageHeading{a.name}});
    bool any = false;
    for (const ReplayFinding& f : r.audits.replays) {
      if (f.artifact != a.name) continue;
      any = true;
      PageTable table{fmt::format("Replay of ‘{}’", a.name), {{"what"}, {"found"}}, {}};
      table.rows.push_back({{words("outcome")}, {f.came_out() ? words("came out as recorded") : badge(Standing::failed)}});
      table.rows.push_back({{words("steps whose order, rate and batch follow from the statement")},
                            {words(fmt::format("{} of {}", grouped(f.steps_equal), grouped(f.steps)))}});
      table.rows.push_back({{words("segments made again")},
                            {words(fmt::format("{} of {}, of which {} came out equal", grouped(f.drawn), grouped(f.segments),
                                               grouped(f.drawn_equal)))}});
      table.rows.push_back(
          {{words("compared")},
           {words(f.bitwise ? "bit for bit" : fmt::format("within {:g} of the weights' movement", f.tolerance))}});
      if (!f.seed.empty()) table.rows.push_back({{words("drawn by the seed")}, {code(f.seed)}});
      if (f.drawn > 0 && f.drawn >= f.segments)
        table.rows.push_back({{words("left to odds")}, {words("nothing: every segment was made again")}});
      if (f.drawn < f.segments) append_odds(table, f.odds, "segments");
      s.blocks.push_back({std::move(table)});
      append(s.blocks, list_of("What did not come out:", f.faults));
      append(s.blocks, list_of("Notes of the auditor:", f.notes));
      s.blocks.push_back(paragraph(signed_by(r, f.audit), Tone::quiet));
    }
    if (!any)
      s.blocks.push_back(
          absent("There is no record that counts.",
                 fmt::format("overproof audit replay RUN --artifact {} --segments 59 --seed HEX --record", a.name)));
  }
  if (!r.audits.replays.empty())
    s.blocks.push_back(
        paragraph("A replay does not show segments that were not drawn, that the teacher's rows are the teacher's, or where the "
                  "documents came from.",
                  Tone::quiet));
  return s;
}

PageSection rows_section(const Report& r) {
  PageSection s{"rows", "The teacher asked again", {}};
  for (const RowsFinding& f : r.audits.rows) {
    PageTable table{fmt::format("Rows of ‘{}’", f.artifact), {{"what"}, {"found"}}, {}};
    table.rows.push_back({{words("outcome")}, {f.came_out() ? words("what the teacher says") : badge(Standing::failed)}});
    table.rows.push_back({{words("rows asked again")},
                          {words(fmt::format("{} of {}, of which {} came out equal, byte for byte", grouped(f.rows),
                                             grouped(f.rows_total), grouped(f.rows_equal)))}});
    table.rows.push_back({{words("drawn by the seed")}, {f.drawn ? code(f.seed) : words("no: the auditor named the row")}});
    append_odds(table, f.odds, "rows");
    s.blocks.push_back({std::move(table)});
    append(s.blocks, list_of("What did not come out:", f.faults));
    s.blocks.push_back(paragraph(signed_by(r, f.audit), Tone::quiet));
  }
  if (r.audits.rows.empty())
    for (const ReportArtifact& a : r.artifacts)
      if (a.kind == "taught")
        s.blocks.push_back(absent("There is no record that counts.",
                                  fmt::format("overproof audit rows RUN/{} --rows 59 --seed N --record", a.name)));
  return s;
}

PageSection recompute_section(const Report& r) {
  PageSection s{"recompute", "Artifacts made again from their parents", {}};
  for (const RecomputeFinding& f : r.audits.recomputes) {
    PageTable table{fmt::format("Made again: {}", r.audits.list[size_t(f.audit)].file),
                    {{"artifact"}, {"stage"}, {"came out"}, {"details"}},
                    {}};
    for (const RecomputedArtifact& a : f.artifacts) {
      if (table.rows.size() >= kMostRows) break;
      std::string details;
      for (size_t i = 0; i < std::min<size_t>(a.details.size(), 20); ++i) details += (i ? "; " : "") + a.details[i];
      if (a.details.size() > 20) details += fmt::format("; and {} more", a.details.size() - 20);
      Phrase outcome = words(a.status.empty() ? "?" : a.status == "equal" ? "equal, byte for byte" : a.status);
      if (a.status == "differs") outcome = badge(Standing::failed) + words(" " + a.status);
      if (!a.here)
        details = "is not the artifact that is here now, so it shows nothing about it" + (details.empty() ? "" : "; " + details);
      table.rows.push_back(
          {{words(a.artifact)}, {words(a.stage)}, {std::move(outcome)}, {words(details.empty() ? "–" : details)}});
    }
    if (!table.rows.empty()) s.blocks.push_back({std::move(table)});
    append(s.blocks, list_of("Notes of the auditor:", f.notes));
    s.blocks.push_back(paragraph(signed_by(r, f.audit), Tone::quiet));
  }
  if (r.audits.recomputes.empty())
    s.blocks.push_back(absent("There is no record that counts.", "overproof audit recompute RUN --record"));
  return s;
}

PageSection evidence_section(const Report& r) {
  PageSection s{"evidence", "Evidence between two models", {}};
  for (const CompareFinding& f : r.audits.compares) {
    s.blocks.push_back({PageHeading{fmt::format("{} and {}", f.a, f.b)}});
    PageTable table{fmt::format("Tests between ‘{}’ and the suspect ‘{}’", f.a, f.b),
                    {{"test"}, {"p"}, {"found"}, {"null hypothesis: a small p speaks against it"}, {"cannot show"}},
                    {}};
    std::vector<std::string> not_run;
    for (const EvidenceFinding& e : f.tests) {
      if (!e.not_run.empty()) {
        not_run.push_back(fmt::format("{}: {}", e.name, e.not_run));
        continue;
      }
      std::string rests = fmt::format(" {}", e.p_kind.empty() ? "No word on what it rests on." : e.p_kind + ".");
      for (const auto& [label, value] : e.more) rests += fmt::format(" {}: {}.", label, value);
      table.rows.push_back({{words(e.name)},
                            {Phrase{{Piece::Kind::strong, e.p_value, {}}} + words(rests)},
                            {words(fmt::format("{}: {}. On {}.", e.statistic, e.value, e.computed_on))},
                            {words(e.null_hypothesis)},
                            {words(e.cannot_show)}});
    }
    if (!table.rows.empty()) s.blocks.push_back({std::move(table)});
    append(s.blocks, list_of("Not run:", not_run));
    s.blocks.push_back(paragraph(signed_by(r, f.audit), Tone::quiet));
  }
  if (r.audits.compares.empty())
    s.blocks.push_back(absent("No comparison with another model is recorded.", "overproof audit compare RUN SUSPECT --record"));
  else
    s.blocks.push_back(
        paragraph("A p-value is the probability of a statistic at least as extreme if the null hypothesis were true. Evidence "
                  "begins at one in a million here, never at "
                  "one in twenty. No test gives a verdict, nor do all of them together.",
                  Tone::quiet));
  return s;
}

PageSection records_section(const Report& r) {
  PageSection s{"records", "Audit records", {}};
  if (r.audits.list.empty()) {
    s.blocks.push_back(
        paragraph("No audit record stands beside the artifacts. Audits that take long write one with --record.", Tone::quiet));
    return s;
  }
  PageTable table{"Records in the folder audits", {{"record"}, {"kind"}, {"examined"}, {"signer"}, {"does it count"}}, {}};
  for (const ReportAudit& a : r.audits.list) {
    if (table.rows.size() >= kMostRows) break;
    std::string examined;
    for (size_t i = 0; i < std::min<size_t>(a.subjects.size(), 12); ++i)
      examined += (i ? ", " : "") + a.subjects[i].name + (a.subjects[i].here.empty() ? " (not here)" : "");
    if (a.subjects.size() > 12) examined += fmt::format(" and {} more", a.subjects.size() - 12);
    std::string counts = a.counts() ? (a.by_maker  ? "yes, but signed by the maker"
                                       : a.trusted ? "yes, by the auditor that the reader trusts"
                                                   : "yes; whose key it is was not checked")
                                    : fmt::format("no: {}", a.why);
    table.rows.push_back({{words(a.file)},
                          {words(a.kind.empty() ? "?" : a.kind)},
                          {words(examined.empty() ? "–" : examined)},
                          {a.signer.empty() ? words("–") : code(a.signer.substr(0, 12) + "…", a.signer)},
                          {words(counts)}});
  }
  s.blocks.push_back({std::move(table)});
  if (r.audits.not_read > 0)
    s.blocks.push_back(paragraph(fmt::format("{} more files in the folder were not read.", r.audits.not_read)));
  for (const OtherFinding& f : r.audits.others) {
    if (f.values.empty()) continue;
    const ReportAudit& audit = r.audits.list[size_t(f.audit)];
    PageTable values{fmt::format("What {} says", audit.file), {{"field"}, {"value"}}, {}};
    for (const auto& [path, value] : f.values) values.rows.push_back({{words(path)}, {words(value)}});
    PageFold fold{fmt::format("{} ({})", audit.file, audit.kind), {}};
    fold.blocks.push_back({std::move(values)});
    s.blocks.push_back({std::move(fold)});
  }
  return s;
}

}  // namespace overproof
