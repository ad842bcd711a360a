#include "audit/report_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "audit/licenses.h"
#include "audit/report_sections.h"
#include "core/printable.h"

namespace overproof {
namespace {

constexpr size_t kMostShown = 2000;

std::string percent(double share) { return fmt::format("{:.1f}\u00a0%", 100 * share); }

PageBlock paragraph(Phrase w, PageParagraph::Tone tone = PageParagraph::Tone::plain) {
  return {PageParagraph{tone, std::move(w)}};
}

std::string plural(int64_t n, const char* one, const char* many = nullptr) {
  return fmt::format("{} {}", grouped(n), n == 1 ? one : many ? std::string(many) : std::string(one) + "s");
}

std::string name_list(const std::vector<std::string>& names) {
  constexpr size_t kMost = 6;
  std::string all;
  for (size_t i = 0; i < std::min(names.size(), kMost); ++i)
    all += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + ("‘" + names[i] + "’");
  if (names.size() > kMost) all += fmt::format(" and {} more", names.size() - kMost);
  return all;
}

PageSection summary_section(const Report& r) {
  PageSection s{"summary", "Summary", {}};
  using Tone = PageParagraph::Tone;
  if (r.holds)
    s.blocks.push_back(paragraph(
        Phrase{{Piece::Kind::strong, "Everything holds. ", {}}} +
            words(fmt::format("All {} in {} are as they were signed, and every chain of statements ends at its sources.",
                              plural(r.files, "file"), plural(int64_t(r.artifacts.size()), "artifact"))),
        Tone::good));
  else
    s.blocks.push_back(paragraph(Phrase{{Piece::Kind::strong, "This run does not hold. ", {}}} +
                                     words("What follows may be false where it rests on what is listed under ") +
                                     Phrase{{Piece::Kind::link, "Findings", "findings"}} + words("."),
                                 Tone::bad));

  std::vector<std::string> ends, teachers;
  bool distilled = false;
  for (const ReportArtifact& a : r.artifacts) {
    if (a.is_end && a.kind != "imported" && a.kind != "seeded") ends.push_back(a.name);
    distilled |= a.kind == "distilled-from";
  }
  for (const ReportOrigin& o : r.origins)
    if (o.teaches) teachers.push_back(fmt::format("‘{}’ (licence as recorded: {})", o.name, o.license.tally.name));
  std::string what;
  if (!ends.empty())
    what = fmt::format("{} documented here: {}. ",
                       ends.size() == 1 ? "One finished model is" : fmt::format("{} finished models are", ends.size()),
                       name_list(ends));
  if (!teachers.empty())
    what += fmt::format("The {} {} {}.", teachers.size() == 1 ? "teacher" : "teachers",
                        !distilled             ? "at hand:"
                        : teachers.size() == 1 ? "was"
                                               : "were",
                        fmt::join(teachers, "; "));
  if (!what.empty()) s.blocks.push_back(paragraph(words(what)));

  for (const ReportCorpus& c : r.corpora) {
    std::string text =
        fmt::format("The texts are those of ‘{}’: {} with {} from {}, under {}.", c.artifact,
                    plural(c.total.documents, "document"), plural(c.total.tokens, "token"),
                    plural(int64_t(c.sources.size()), "source"), plural(int64_t(c.licenses.size()), "recorded licence"));
    if (r.taught_tokens && r.corpora.size() == 1 && c.total.tokens > 0 && *r.taught_tokens < c.total.tokens)
      text += fmt::format(" The teacher's answers that were kept are to {} of these tokens ({}).", grouped(*r.taught_tokens),
                          percent(double(*r.taught_tokens) / double(c.total.tokens)));
    s.blocks.push_back(paragraph(words(text)));
  }

  Phrase who = words(r.signers.size() == 1 ? "All of it is signed by the key "
                                           : fmt::format("It is signed by {}: ", plural(int64_t(r.signers.size()), "key")));
  for (size_t i = 0; i < r.signers.size() && i < 4; ++i)
    who = who + words(i == 0 ? "" : ", ") + code(r.signers[i].substr(0, 12) + "…", r.signers[i]);
  who = who + words(r.trusted_key ? ", which is the one that the reader trusts."
                                  : ". Whose key that is was not checked for this report.");
  s.blocks.push_back(paragraph(who));

  PageFacts facts;
  const auto count = [&](Standing standing) {
    return std::count_if(r.claims.begin(), r.claims.end(), [&](const ReportClaim& c) { return c.standing == standing; });
  };
  std::string claims;
  for (int i = 0; i < kStandings; ++i)
    if (const auto n = count(Standing(i)); n > 0)
      claims += fmt::format("{}{} {}", claims.empty() ? "" : ", ", n,
                            Standing(i) == Standing::failed && n > 1 ? "do not hold" : standing_name(Standing(i)));
  facts.items.emplace_back("Claims", words(claims));
  if (!teachers.empty()) {
    std::string names;
    for (const ReportOrigin& o : r.origins)
      if (o.teaches) names += (names.empty() ? "" : ", ") + o.name;
    facts.items.emplace_back("Teacher", words(names));
  }
  if (!r.corpora.empty()) {
    int64_t documents = 0, tokens = 0;
    for (const ReportCorpus& c : r.corpora) documents += c.total.documents, tokens += c.total.tokens;
    facts.items.emplace_back("Documents", words(grouped(documents)));
    facts.items.emplace_back("Tokens", words(grouped(tokens)));
  }
  const auto counting =
      std::count_if(r.audits.list.begin(), r.audits.list.end(), [](const ReportAudit& a) { return a.counts(); });
  facts.items.emplace_back("Audit records", words(counting == 0 ? "none" : grouped(counting)));
  facts.items.emplace_back("Artifacts", words(grouped(int64_t(r.artifacts.size()))));
  facts.items.emplace_back("Size", words(bytes_text(double(r.bytes))));
  s.blocks.push_back({std::move(facts)});
  return s;
}

PageSection claims_section(const Report& r) {
  PageSection s{"claims", "What is proved, estimated or only recorded", {}};
  PageTable table{"Claims about this run, and how far each can be trusted", {{"claim"}, {"standing"}, {"by what"}}, {}};
  for (int i = 0; i < kStandings; ++i)
    for (const ReportClaim& c : r.claims)
      if (c.standing == Standing((i + kStandings - 1) % kStandings))  // what does not hold comes first
        table.rows.push_back({{words(c.claim)}, {badge(c.standing)}, {words(c.how)}});
  s.blocks.push_back({std::move(table)});

  PageTable commands{"Commands that would show more; RUN is the run folder", {{"claim"}, {"command"}}, {}};
  for (const ReportClaim& c : r.claims)
    if (!c.command.empty()) commands.rows.push_back({{words(c.claim)}, {code(c.command)}});
  PageFold fold{"How to check it yourself", {}};
  fold.blocks.push_back({std::move(commands)});
  s.blocks.push_back({std::move(fold)});

  PageTable legend{"What the words mean", {{"standing"}, {"meaning"}}, {}};
  for (int i = 0; i < kStandings; ++i)
    legend.rows.push_back({{badge(Standing(i))}, {words(std::string(standing_meaning(Standing(i))))}});
  PageFold meaning{"What these words mean", {}};
  meaning.blocks.push_back({std::move(legend)});
  s.blocks.push_back({std::move(meaning)});

  s.blocks.push_back({PageHeading{"What a liar could still do"}});
  PageTable limits{
      "Ways to deceive that remain, and what stands against each", {{"to deceive, one would"}, {"against it"}, {"here"}}, {}};
  for (const ReportLimit& l : r.limits) limits.rows.push_back({{words(l.trick)}, {words(l.obstacle)}, {words(l.here)}});
  s.blocks.push_back({std::move(limits)});
  return s;
}

PageSection findings_section(const Report& r) {
  PageSection s{"findings", "Findings", {}};
  PageTable table{"Findings of the verification", {{"where"}, {"kind"}, {"what"}, {"remedy"}}, {}};
  for (const bool failures : {true, false})
    for (const Finding& f : r.findings) {
      if ((f.severity == Severity::failure) != failures || table.rows.size() >= kMostRows) continue;
      const std::string place = f.artifact + (f.file.empty() ? "" : "/" + f.file);
      table.rows.push_back({{words(place.empty() ? "the run" : place)},
                            {words(failures ? "failure" : "note")},
                            {words(f.what)},
                            {words(f.remedy)}});
    }
  if (table.rows.empty()) s.blocks.push_back(paragraph(words("The verification found nothing to remark on.")));
  else s.blocks.push_back({std::move(table)});
  if (r.findings.size() > kMostRows) s.blocks.push_back(more_rows(r.findings.size(), "overproof audit verify RUN"));
  if (!r.left_out.empty())
    s.blocks.push_back(paragraph(words(fmt::format(
        "Nothing out of the files of {} stands in this report, since they are not what was signed.", name_list(r.left_out)))));
  return s;
}

PageSection lineage_section(const Report& r) {
  PageSection s{"lineage", "Lineage", {}};
  PageFigure figure;
  figure.title = "What was made from what";
  figure.description =
      "Artifacts as boxes, from what came from outside at the top to what was made last at the bottom. The table below says the "
      "same.";
  s.blocks.push_back({std::move(figure)});
  PageTable table{
      "Artifacts, parents before children", {{"artifact"}, {"what it is"}, {"made from"}, {"size"}, {"identity (sha256)"}}, {}};
  for (const ReportArtifact& a : r.artifacts) {
    if (table.rows.size() >= kMostRows) break;
    std::string from;
    for (const auto& [slot, name] : a.made_from) from += (from.empty() ? "" : ", ") + name + (slot == name ? "" : " as " + slot);
    for (const std::string& name : a.missing) from += fmt::format(" ({} is not here)", name);
    Phrase what = words(a.story);
    if (!a.holds) what = badge(Standing::failed) + words(" ") + what;
    table.rows.push_back({{words(a.name)},
                          {what},
                          {words(from.empty() ? "–" : from)},
                          {words(fmt::format("{}, {}", bytes_text(double(a.bytes)), plural(a.files, "file")))},
                          {a.root.empty() ? words("–") : code(a.root.substr(0, 12) + "…", a.root)}});
  }
  s.blocks.push_back({std::move(table)});
  if (r.artifacts.size() > kMostRows) s.blocks.push_back(more_rows(r.artifacts.size(), "overproof audit verify RUN --json"));
  PageTable roots{"Roots in full", {{"artifact"}, {"root"}}, {}};
  for (const ReportArtifact& a : r.artifacts)
    if (!a.root.empty() && roots.rows.size() < kMostRows) roots.rows.push_back({{words(a.name)}, {code("sha256:" + a.root)}});
  PageFold fold{"Identities in full, to compare with another copy", {}};
  fold.blocks.push_back({std::move(roots)});
  s.blocks.push_back({std::move(fold)});
  return s;
}

PageSection quality_section(const Report& r) {
  PageSection s{"quality", "Quality", {}};
  for (const ReportQuality& q : r.quality) {
    PageTable table{fmt::format("Measurements in ‘{}’", q.artifact),
                    {{"model"},
                     {"perplexity", true},
                     {"mean KL to teacher", true},
                     {"99 % KL", true},
                     {"top-1 agreement", true},
                     {"FFN activation", true},
                     {"parameter activation", true},
                     {"size", true}},
                    {}};
    const auto value = [](const std::optional<double>& v, const char* format, double scale = 1) {
      return PageCell{words(v ? fmt::format(fmt::runtime(format), *v * scale) : "–")};
    };
    for (const ReportQualityRow& row : q.rows) {
      if (table.rows.size() >= kMostRows) break;
      table.rows.push_back({{words(row.name)},
                            value(row.perplexity, "{:.3f}"),
                            value(row.kl_mean, "{:.4f}"),
                            value(row.kl_p99, "{:.3f}"),
                            value(row.top1_agreement, "{:.1f}\u00a0%", 100),
                            value(row.ffn_activation, "{:.1f}\u00a0%", 100),
                            value(row.parameter_activation, "{:.1f}\u00a0%", 100),
                            {words(row.bytes ? bytes_text(*row.bytes) : "–")}});
    }
    s.blocks.push_back({std::move(table)});
    if (q.tokens)
      s.blocks.push_back(paragraph(
          words(fmt::format("Measured on {:.0f} held-out tokens; KL in nats a token. Lower perplexity and KL are better.",
                            *q.tokens)),
          PageParagraph::Tone::quiet));
  }
  return s;
}

PageSection training_section(const Report& r) {
  PageSection s{"training", "Training", {}};
  for (const ReportTraining& t : r.training) {
    s.blocks.push_back({PageHeading{t.artifact}});
    if (!t.fault.empty()) s.blocks.push_back(paragraph(words(t.fault)));
    PageTable table{fmt::format("‘{}’ in numbers", t.artifact),
                    {{"series"}, {"first", true}, {"least", true}, {"last", true}, {"steps", true}},
                    {}};
    for (const auto& [series, title] : {std::pair{&t.losses, "loss, KL and cross-entropy, nats a token"},
                                        std::pair{&t.balance, "largest expert load over the mean"}}) {
      std::string told;
      bool any = false;
      for (const ReportSeries& one : *series) {
        std::vector<double> values;
        for (const double v : one.values)
          if (std::isfinite(v)) values.push_back(v);
        if (values.empty()) continue;
        any = true;
        told += fmt::format("{}{} from {:.4g} to {:.4g}", told.empty() ? "" : "; ", one.name, values.front(), values.back());
        table.rows.push_back({{words(one.name)},
                              {words(fmt::format("{:.4g}", values.front()))},
                              {words(fmt::format("{:.4g}", *std::min_element(values.begin(), values.end())))},
                              {words(fmt::format("{:.4g}", values.back()))},
                              {words(grouped(int64_t(values.size())))}});
      }
      if (any)
        s.blocks.push_back({PageFigure{
            PageFigure::Kind::lines, fmt::format("{}: {}", t.artifact, title), "Over the steps: " + told + ".", *series, {}}});
    }
    if (!table.rows.empty()) {
      PageFold fold{fmt::format("‘{}’ in numbers", t.artifact), {}};
      fold.blocks.push_back({std::move(table)});
      s.blocks.push_back({std::move(fold)});
    }
    size_t experts = 0;
    for (const auto& layer : t.loads) experts = std::max(experts, layer.size());
    if (experts > 0) {
      double most = 0;
      size_t at_layer = 0, at_expert = 0;
      for (size_t l = 0; l < t.loads.size(); ++l) {
        double sum = 0;
        for (const double v : t.loads[l]) sum += v;
        for (size_t e = 0; e < t.loads[l].size(); ++e)
          if (sum > 0 && t.loads[l][e] * double(t.loads[l].size()) / sum > most)
            most = t.loads[l][e] * double(t.loads[l].size()) / sum, at_layer = l, at_expert = e;
      }
      s.blocks.push_back({PageFigure{PageFigure::Kind::loads,
                                     fmt::format("{}: expert load by layer", t.artifact),
                                     fmt::format("{} layers, {} experts. Darker takes more tokens; full colour is twice the mean "
                                                 "of its layer. The busiest is expert {} of layer {} with {:.2f} times the mean.",
                                                 t.loads.size(), experts, at_expert, at_layer, most),
                                     {},
                                     t.loads}});
    }
  }
  return s;
}

PageSection builders_section(const Report& r) {
  PageSection s{"made-with", "Made with", {}};
  PageTable table{"Programs and keys", {{"what"}, {"version or key"}}, {}};
  for (const auto& [name, version] : r.builders) table.rows.push_back({{words(name)}, {words(version)}});
  for (const std::string& signer : r.signers) table.rows.push_back({{words("signing key (SHA-256 of its PEM)")}, {code(signer)}});
  if (!table.rows.empty()) s.blocks.push_back({std::move(table)});
  s.blocks.push_back(
      paragraph(words("The same artifacts, records and keys give this page byte for byte. It holds no time and no path."),
                PageParagraph::Tone::quiet));
  return s;
}

}  // namespace

std::string shown(std::string_view text) {
  // A name must not turn the direction of what stands beside it: U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069.
  std::string out;
  const std::string all = printable_lines(text.substr(0, 4 * kMostShown));
  for (size_t i = 0; i < all.size(); ++i) {
    const std::string_view three = std::string_view(all).substr(i, 3);
    if (three.size() == 3 && three[0] == '\xe2' &&
        ((three[1] == '\x80' && (three[2] == '\x8e' || three[2] == '\x8f' || (three[2] >= '\xa8' && three[2] <= '\xae'))) ||
         (three[1] == '\x81' && three[2] >= '\xa6' && three[2] <= '\xa9'))) {
      out += "\xef\xbf\xbd";
      i += 2;
    } else if (all[i] == '\n' || all[i] == '\t') {
      out += ' ';
    } else {
      out += all[i];
    }
  }
  if (out.size() <= kMostShown) return out;
  size_t end = kMostShown;
  while (end > 0 && (static_cast<unsigned char>(out[end]) & 0xc0) == 0x80) --end;
  return out.substr(0, end) + "…";
}

std::string grouped(int64_t value) {
  std::string digits = std::to_string(value);
  for (auto at = int64_t(digits.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3) digits.insert(size_t(at), ",");
  return digits;
}

std::string bytes_text(double bytes) {
  if (bytes < 1e5) return fmt::format("{:.1f} kB", bytes / 1e3);
  return bytes < 1e9 ? fmt::format("{:.1f} MB", bytes / 1e6) : fmt::format("{:.2f} GB", bytes / 1e9);
}

PageBlock more_rows(size_t all, const std::string& command) {
  return {PageParagraph{PageParagraph::Tone::quiet,
                        words(fmt::format("{} of {} rows are shown; ", kMostRows, grouped(int64_t(all)))) + code(command) +
                            words(" has them all.")}};
}

Phrase words(std::string text) { return {{Piece::Kind::plain, std::move(text), {}}}; }
Phrase code(std::string text, std::string whole) { return {{Piece::Kind::code, std::move(text), std::move(whole)}}; }
Phrase badge(Standing standing) {
  return {{Piece::Kind::badge, std::string(standing_name(standing)), std::to_string(int(standing))}};
}
Phrase operator+(Phrase a, const Phrase& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Page lay_out(const Report& r) {
  Page page{r.single ? fmt::format("Lineage of ‘{}’", r.title) : fmt::format("Lineage of the run ‘{}’", r.title), {}};
  const auto add = [&](PageSection section) {
    if (!section.blocks.empty()) page.sections.push_back(std::move(section));
  };
  add(summary_section(r));
  if (!r.holds) add(findings_section(r));
  add(claims_section(r));
  add(lineage_section(r));
  add(licenses_section(r));
  add(sources_section(r));
  add(experts_section(r));
  add(replay_section(r));
  add(rows_section(r));
  add(recompute_section(r));
  add(evidence_section(r));
  add(records_section(r));
  add(quality_section(r));
  add(training_section(r));
  if (r.holds) add(findings_section(r));
  add(builders_section(r));
  return page;
}

}  // namespace overproof
