// The first screen, for two readers: may the models be given away, and what are they.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "audit/licenses.h"
#include "report/view.h"

namespace overproof {
namespace {

using Facts = std::vector<std::pair<std::string, Phrase>>;

std::vector<std::string> final_models(const Report& r) {
  std::vector<std::string> ends;
  for (const ReportArtifact& a : r.artifacts)
    if (a.is_end && a.row() && a.row()->origin == Origin::inputs) ends.push_back(a.name);
  return ends;
}

/// "A, B and 3 more"
std::string some_of(const std::vector<std::string>& names) {
  constexpr size_t kMost = 5;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kMost); ++i) text += (i ? ", " : "") + ("‘" + names[i] + "’");
  return names.size() > kMost ? fmt::format("{} and {} more", text, names.size() - kMost) : text;
}

/// What the built-in policy requires of these models, and whether training read any document for each licence that it asks about.
void add_decision(Section& s, const ReportShipping& ship) {
  const std::vector<std::string> open = ship.with(PolicyState::open), denied = ship.with(PolicyState::denied);
  Phrase words = Phrase(name_list(ship.models) + ": ");
  if (!denied.empty()) words += strong("denied by the built-in policy") + (" because of " + some_of(denied) + ".");
  else if (!open.empty())
    words += strong(fmt::format("{} to read and accept first", plural(int64_t(open.size()), "term"))) + (": " + some_of(open) + ".");
  else words += Phrase("no open term under the built-in policy") +
                (ship.with(PolicyState::acknowledged).empty() ? "." : "; those acknowledged in the export are listed below.");
  std::vector<std::string> not_read;
  for (const ReportTerm& t : ship.terms)
    if (t.item.state == PolicyState::open && t.reached == 0) not_read.push_back(t.item.name);
  if (!not_read.empty() && not_read.size() == open.size()) words += " Training read no document under any of them.";
  else if (!not_read.empty()) words += fmt::format(" Training read no document under {}.", some_of(not_read));
  if (!ship.complete) words += " Something that they were made from is not here, so there may be more.";
  s.paragraph(words, denied.empty() && open.empty() && ship.complete ? "note plain" : "note warn");
}

Phrase texts_of(const Report& r) {
  std::string text;
  for (const ReportCorpus& c : r.corpora) {
    text += fmt::format("{}{} under {}", text.empty() ? "" : "; ", plural(c.facts.total.documents, "document"),
                        plural(int64_t(c.facts.licenses.size()), "recorded licence"));
    if (r.corpora.size() > 1) text += fmt::format(" in ‘{}’", c.artifact);
    if (!c.reached) {
      text += "; which of them training read could not be computed here";
      continue;
    }
    int64_t documents = 0;
    for (const auto& [license, n] : *c.reached) documents += n;
    text += fmt::format("; training read {}, under {}", plural(documents, "document"), plural(int64_t(c.reached->size()), "licence"));
  }
  return text;
}

Section shipping(const Report& r, Section s) {
  s.heading("May this be shipped?");
  for (const ReportShipping& ship : r.shipping) add_decision(s, ship);
  if (r.shipping.empty())
    s.quiet(final_models(r).empty() ? "No model here was made from other artifacts." : "The final models do not hold, so this is not answered.");
  Facts facts;
  std::string teachers;
  std::set<std::string> duties;
  for (const ReportOrigin& o : r.origins) {
    if (!o.teaches) continue;
    const LicenseExpression license = parse_license(o.license.recorded);
    teachers += fmt::format("{}‘{}’, {}", teachers.empty() ? "" : "; ", o.name,
                            o.seeded ? "drawn from a seed, so no licence applies" : "licence as recorded: " + o.license.recorded);
    if (o.seeded) continue;
    if (o.license.recorded == "unspecified") {
      duties.insert("not known, because no licence was recorded");
      continue;
    }
    for (const std::string& id : license.ids()) {
      const LicenseTerms* terms = find_license(id);
      for (int d = 0; terms && d < kDuties; ++d)
        if (terms->has(Duty(d)) && duty_follows_output(Duty(d))) duties.emplace(duty_name(Duty(d)));
      if (!terms) duties.insert("terms that the table does not know: read them");
    }
  }
  if (!teachers.empty()) {
    facts.emplace_back("Teacher", teachers);
    facts.emplace_back("Its terms for models trained on its output",
                       duties.empty() ? Phrase("none in the table") : Phrase(fmt::format("{}", fmt::join(duties, ", "))));
  }
  if (!r.corpora.empty()) facts.emplace_back("Texts", texts_of(r));
  std::string dates = "none: no statement holds a time";
  if (!r.beacons.empty()) dates = fmt::format("training order not before the public randomness {}; no statement holds a time", some_of(r.beacons));
  facts.emplace_back("Dates", dates);
  Phrase signers = "";
  for (size_t i = 0; i < r.signers.size() && i < 4; ++i) signers += Phrase(i == 0 ? "" : ", ") + key_hint(r.signers[i]);
  facts.emplace_back("Signed with", signers + (r.signers.empty()   ? "no valid signature"
                                               : r.trusted_key ? ", the key that the reader trusts"
                                                               : "; its owner was not checked"));
  std::vector<std::string> unchecked;
  for (const ReportClaim& c : r.claims)
    if (c.status == ClaimStatus::unchecked) unchecked.push_back(c.claim);
  Phrase open = unchecked.empty() ? Phrase("nothing that can be checked") : Phrase(fmt::format("{}, ", plural(int64_t(unchecked.size()), "claim")));
  if (!unchecked.empty()) open += link("listed first below", "claims");
  facts.emplace_back("Not checked", open);
  s.facts(facts);
  s.quiet("Not legal advice. " + (r.corpora.empty() && r.origins.empty() ? Phrase("") : link("All licences and conditions", "licences") + "."));
  return s;
}

Phrase fixed(const std::optional<double>& value, int digits) {
  return value && std::isfinite(*value) ? fmt::format("{:.{}f}", *value, digits) : "–";
}

void add_models(Section& s, const Report& r, const ReportQuality& q) {
  const std::vector<EvaluatedModel>& models = q.facts.models;
  if (models.empty()) return;
  const std::vector<std::string> ends = final_models(r);
  const auto is_final = [&](const EvaluatedModel& m) { return std::ranges::count(ends, m.bound.empty() ? m.name : m.bound) > 0; };
  // The teacher is the first row. Its own file may have any number of bits; its users have it in bf16.
  const double bf16 = 2 * models.front().parameters.value_or(0);
  const bool any_final = std::any_of(models.begin() + 1, models.end(), is_final);
  Table table(r.quality.size() > 1 ? fmt::format("Measured in ‘{}’", q.artifact) : "Measured on held-out text",
              {"model", number("size"), number("of teacher in bf16"), number("KL to teacher"), number("top-1 as teacher"), number("read a token")});
  for (size_t i = 0; i < models.size(); ++i) {
    const EvaluatedModel& m = models[i];
    if (i > 0 && any_final && !is_final(m)) continue;
    table.add({i == 0 ? name(m.name) + Phrase(" (teacher)") : name(m.name), m.bytes ? Phrase(bytes_text(*m.bytes)) : "–",
               bf16 > 0 && m.bytes ? fixed(*m.bytes / bf16, 2) : "–", fixed(m.kl_mean, 3), m.top1_agreement ? percent(*m.top1_agreement) : "–",
               m.bytes_per_token ? Phrase(bytes_text(*m.bytes_per_token)) : "–"});
  }
  s.table(table, "evaluation.json of the artifact");
  std::string smaller, larger;
  for (size_t i = 1; i < models.size() && bf16 > 0; ++i) {
    const EvaluatedModel& m = models[i];
    if (!m.bytes || (any_final && !is_final(m))) continue;
    std::string& list = *m.bytes > bf16 ? larger : smaller;
    list += fmt::format("{}‘{}’", list.empty() ? "" : ", ", m.name);
  }
  if (bf16 > 0)
    s.paragraph(fmt::format("The teacher in bf16 would be {}.{}{}", bytes_text(bf16),
                            smaller.empty() ? "" : fmt::format(" Smaller: {}.", smaller),
                            larger.empty() ? "" : fmt::format(" Larger: {}.", larger)));
}

Section engineering(const Report& r, Section s) {
  s.heading("What is it?");
  const std::vector<std::string> ends = final_models(r);
  if (!ends.empty()) s.paragraph(fmt::format("Final {} here: {}.", ends.size() == 1 ? "model" : "models", name_list(ends)));
  for (const ReportQuality& q : r.quality) add_models(s, r, q);
  if (r.quality.empty()) {
    double parameters = 0;
    for (const ReportOrigin& o : r.origins)
      for (const ReportArtifact& a : r.artifacts)
        if (o.teaches && a.name == o.artifact && parameters == 0) parameters = a.parameters.value_or(0);
    Table table("Final models; quality was not measured here", {"model", number("size of all files"), number("of teacher in bf16")});
    for (const ReportArtifact& a : r.artifacts)
      if (std::ranges::count(ends, a.name))
        table.add({name(a.name), bytes_text(double(a.bytes)), parameters > 0 ? fixed(double(a.bytes) / (2 * parameters), 2) : "–"});
    s.table(table);
  } else {
    s.quiet(
        Phrase("KL in nats per token; lower is better, and 0 is the teacher. What a token reads of the weights bounds how fast a model writes; "
        "tokens per second depend on the machine, so no signed file has them; they are printed by ") +
        code("overproof evaluate") + ". " + link("All measurements", "quality") + ".");
  }
  Facts facts;
  int64_t tokens = 0;
  for (const ReportCorpus& c : r.corpora) tokens += c.facts.total.tokens;
  if (tokens > 0)
    facts.emplace_back("Tokens", grouped(tokens) + (r.taught_tokens ? fmt::format(", {} of them with the teacher's outputs", grouped(*r.taught_tokens))
                                                                    : ""));
  const auto records = std::count_if(r.audits.list.begin(), r.audits.list.end(), [](const auto& a) { return a.counts(); });
  facts.emplace_back("Audit records", records == 0 ? "none" : grouped(records));
  facts.emplace_back("Artifacts", fmt::format("{}, {}, {}", grouped(int64_t(r.artifacts.size())), plural(r.files, "file"), bytes_text(double(r.bytes))));
  s.facts(facts);
  return s;
}

}  // namespace

Section summary_section(const Report& r) {
  Section s("summary", "Summary");
  if (!r.holds)
    s.paragraph(strong("This run does not hold.") + " The rest of this page may be false where it depends on what is listed under " +
                    link("Findings", "findings") + ".",
                "note bad");
  else
    s.paragraph(fmt::format("All {} in {} have the signed digests, and every chain of statements ends at its sources. That shows what was "
                            "signed, not that all of it is true: ",
                            plural(r.files, "file"), plural(int64_t(r.artifacts.size()), "artifact")) +
                [&] {
                  std::string claims;
                  for (int i = 0; i < kClaimStatuses; ++i)
                    if (const int64_t n = r.claims_with(ClaimStatus(i)); n > 0)
                      claims += fmt::format("{}{} {}", claims.empty() ? "" : ", ", n,
                                            ClaimStatus(i) == ClaimStatus::failed && n > 1 ? "do not hold" : status_name(ClaimStatus(i)));
                  return claims;
                }() +
                " of " + link(plural(int64_t(r.claims.size()), "claim"), "claims") + ".");
  s.begin("pair");
  s.begin("half");
  s = shipping(r, std::move(s));
  s.end();
  s.begin("half");
  s = engineering(r, std::move(s));
  s.end();
  s.end();
  return s;
}

}  // namespace overproof
