#include "report/view.h"

#include <fmt/format.h>

#include <algorithm>

namespace overproof {
namespace {

std::string name_list(const std::vector<std::string>& names) {
  constexpr size_t kMost = 6;
  std::string all;
  for (size_t i = 0; i < std::min(names.size(), kMost); ++i)
    all += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + ("‘" + names[i] + "’");
  if (names.size() > kMost) all += fmt::format(" and {} more", names.size() - kMost);
  return all;
}

Section summary(const Report& r) {
  Section s("summary", "Summary");
  if (r.holds)
    s.paragraph(strong("Everything holds.") +
                    fmt::format(" All {} in {} have the signed digests, and every chain of statements ends at its sources.",
                                plural(r.files, "file"), plural(int64_t(r.artifacts.size()), "artifact")),
                "note good");
  else
    s.paragraph(strong("This run does not hold.") +
                    " The rest of this page may be false where it depends on what is listed under " +
                    link("Findings", "findings") + ".",
                "note bad");

  std::vector<std::string> ends, teachers, origins;
  for (const ReportArtifact& a : r.artifacts)
    if (a.is_end && a.row() && a.row()->origin == Origin::inputs) ends.push_back(a.name);
  for (const ReportOrigin& o : r.origins)
    if (o.teaches)
      teachers.push_back(o.name), origins.push_back(fmt::format("‘{}’ (licence as recorded: {})", o.name, o.license.recorded));
  std::string what;
  if (!ends.empty()) what = fmt::format("Final models here: {}. ", name_list(ends));
  if (!origins.empty()) what += fmt::format("{}: {}.", origins.size() == 1 ? "Teacher" : "Teachers", fmt::join(origins, "; "));
  if (!what.empty()) s.paragraph(what);

  int64_t documents = 0, tokens = 0;
  for (const ReportCorpus& c : r.corpora) {
    documents += c.facts.total.documents, tokens += c.facts.total.tokens;
    std::string text = fmt::format("The texts are those of ‘{}’: {} with {} from {}, under {}.", c.artifact,
                                   plural(c.facts.total.documents, "document"), plural(c.facts.total.tokens, "token"),
                                   plural(int64_t(c.facts.sources.size()), "source"),
                                   plural(int64_t(c.facts.licenses.size()), "recorded licence"));
    if (r.taught_tokens && r.corpora.size() == 1 && *r.taught_tokens < c.facts.total.tokens)
      text += fmt::format(" Soft targets cover {} of these tokens ({}).", grouped(*r.taught_tokens),
                          percent(double(*r.taught_tokens) / double(c.facts.total.tokens)));
    s.paragraph(text);
  }

  Phrase signers = r.signers.size() == 1 ? "Everything is signed with the key "
                                         : fmt::format("Signed with {}: ", plural(int64_t(r.signers.size()), "key"));
  for (size_t i = 0; i < r.signers.size() && i < 4; ++i) signers += (i == 0 ? "" : ", ") + key_hint(r.signers[i]);
  s.paragraph(signers + (r.trusted_key ? ", which is the one that the reader trusts."
                                       : ". The owner of the key was not checked for this report."));

  std::string claims;
  for (int i = 0; i < kClaimStatuses; ++i) {
    const auto n = std::count_if(r.claims.begin(), r.claims.end(), [&](const auto& c) { return c.status == ClaimStatus(i); });
    if (n > 0)
      claims += fmt::format("{}{} {}", claims.empty() ? "" : ", ", n,
                            ClaimStatus(i) == ClaimStatus::failed && n > 1 ? "do not hold" : status_name(ClaimStatus(i)));
  }
  std::vector<std::pair<std::string, Phrase>> facts = {{"Claims", claims}};
  if (!teachers.empty()) facts.emplace_back("Teacher", name(fmt::format("{}", fmt::join(teachers, ", "))));
  if (!r.corpora.empty()) facts.emplace_back("Documents", grouped(documents)), facts.emplace_back("Tokens", grouped(tokens));
  const auto records = std::count_if(r.audits.list.begin(), r.audits.list.end(), [](const auto& a) { return a.counts(); });
  facts.emplace_back("Audit records", records == 0 ? "none" : grouped(records));
  facts.emplace_back("Artifacts", grouped(int64_t(r.artifacts.size())));
  facts.emplace_back("Size", bytes_text(double(r.bytes)));
  s.facts(facts);
  return s;
}

Section claims(const Report& r) {
  Section s("claims", "What is proved, estimated or only recorded");
  Table claims("Claims about this run, and how far each can be trusted", {"claim", "status", "by which check"});
  for (int i = 0; i < kClaimStatuses; ++i)
    for (const ReportClaim& c : r.claims)
      if (c.status == ClaimStatus((i + kClaimStatuses - 1) % kClaimStatuses))  // what does not hold comes first
        claims.add({c.claim, badge(c.status), c.how});
  s.table(claims);

  Table commands("Commands that show more; RUN is the run folder", {"claim", "command"});
  for (const ReportClaim& c : r.claims)
    if (!c.command.empty()) commands.add({c.claim, code(c.command)});
  s.folded("How to check it yourself", commands);

  Table legend("Meaning of each status", {"status", "meaning"});
  for (int i = 0; i < kClaimStatuses; ++i) legend.add({badge(ClaimStatus(i)), std::string(status_meaning(ClaimStatus(i)))});
  s.folded("What these words mean", legend);

  s.heading("Remaining ways to deceive");
  Table limits("Ways to deceive that remain, and the defence against each", {"deception", "defence", "in this run"});
  for (const ReportLimit& l : r.limits) limits.add({l.trick, l.obstacle, l.here});
  s.table(limits);
  return s;
}

Section findings(const Report& r) {
  Section s("findings", "Findings");
  Table table("Findings of the verification", {"location", "kind", "finding", "remedy"});
  for (const Severity severity : {Severity::failure, Severity::note})
    for (const Finding& f : r.findings) {
      if (f.severity != severity) continue;
      const std::string place = f.artifact + (f.file.empty() ? "" : "/" + f.file);
      table.add({place.empty() ? "the run" : name(place), severity == Severity::failure ? "failure" : "note", f.what, f.remedy});
    }
  if (table.rows() == 0) s.paragraph("The verification found no fault.");
  s.table(table, "overproof audit verify RUN");
  if (!r.left_out.empty())
    s.paragraph(fmt::format("This report contains nothing from the files of {}, because they are not the signed ones.",
                            name_list(r.left_out)));
  return s;
}

Section builders(const Report& r) {
  Section s("made-with", "Made with");
  Table table("Programs and keys", {"what", "version or key"});
  for (const auto& [program, version] : r.builders) table.add({name(program), name(version)});
  for (const std::string& signer : r.signers) table.add({"signing key (SHA-256 of its PEM)", code(signer)});
  s.table(table);
  s.quiet("The same artifacts, records and keys give this page byte for byte. It contains no time and no path.");
  return s;
}

}  // namespace

Phrase::Phrase(const std::string& sentence) {
  static const std::string kOpen = "‘", kClose = "’";
  const auto push = [&](const char* kind, std::string text) {
    if (!text.empty()) pieces.push_back(ViewObject{{kind, ViewObject{{"text", text}}}});
  };
  size_t begin = 0;
  for (size_t open; (open = sentence.find(kOpen, begin)) != std::string::npos;) {
    const size_t named = open + kOpen.size(), close = sentence.find(kClose, named);
    if (close == std::string::npos) break;
    push("plain", sentence.substr(begin, named - begin));
    push("name", sentence.substr(named, close - named));
    begin = close;
  }
  push("plain", sentence.substr(begin));
}

Phrase& Phrase::operator+=(const Phrase& more) {
  for (const View& piece : more.pieces) pieces.push_back(piece);  // a View cannot be assigned, which insert() needs
  return *this;
}
Phrase operator+(Phrase a, const Phrase& b) { return a += b; }
Phrase name(const std::string& text) { return {"name", {{"text", text}}}; }
Phrase strong(const std::string& text) { return {"strong", {{"text", text}}}; }
Phrase code(const std::string& text, const std::string& whole) {
  ViewObject piece = {{"text", text}};
  if (!whole.empty()) piece.emplace("whole", whole);
  return {"code", piece};
}
Phrase key_hint(const std::string& hex) { return hex.empty() ? Phrase("–") : code(hex.substr(0, 12) + "…", hex); }
Phrase link(const std::string& text, const std::string& section) { return {"link", {{"text", text}, {"section", section}}}; }
Phrase badge(ClaimStatus status) {
  // A sign for each status, so that colour carries no meaning alone.
  static constexpr const char* kSigns[kClaimStatuses] = {"✓", "◐", "✓", "≈", "✎", "○", "✗"};
  return {
      "badge",
      {{"text", std::string(status_name(status))}, {"number", std::to_string(int(status))}, {"sign", kSigns[size_t(status)]}}};
}
Phrase bar(double share) {
  Phrase cell = percent(share);
  cell.bar = std::clamp(share, 0.0, 1.0);
  return cell;
}
Phrase bar_of(int64_t part, int64_t whole) { return whole > 0 ? bar(double(part) / double(whole)) : Phrase("–"); }

void Table::add(std::vector<Phrase> row) {
  if (++all_ > kMostRows) return;
  const bool stacks = std::none_of(columns_.begin(), columns_.end(), [](const Column& c) { return c.number; });
  ViewList cells;
  for (size_t i = 0; i < row.size(); ++i) {
    ViewObject cell = {{"words", row[i].pieces}};
    if (i == 0) cell.emplace("head", true);
    else if (stacks) cell.emplace("label", columns_[i].name);
    if (columns_[i].number) cell.emplace("number", true);
    if (row[i].bar >= 0)
      cell.emplace("bar", ViewObject{{"width", fmt::format("{:.1f}", 60 * row[i].bar)},
                                     {"radius", fmt::format("{:.1f}", std::min(4.0, 30 * row[i].bar))}});
    cells.push_back(std::move(cell));
  }
  rows_.push_back(ViewObject{{"cells", std::move(cells)}});
}

void Section::add(const char* kind, const View& content) { blocks_.push_back(ViewObject{{kind, content}}); }
void Section::paragraph(const Phrase& words, const char* tone) {
  ViewObject content = {{"words", words.pieces}};
  if (*tone) content.emplace("tone", tone);
  add("paragraph", content);
}
void Section::heading(const Phrase& words) { add("subheading", ViewObject{{"words", words.pieces}}); }
void Section::list(const std::string& title, const std::vector<std::string>& items) {
  if (items.empty()) return;
  paragraph(title);
  ViewList list;
  for (size_t i = 0; i < std::min(items.size(), kMostRows); ++i) list.push_back(ViewObject{{"words", name(items[i]).pieces}});
  add("list", ViewObject{{"items", list}});
}
void Section::facts(const std::vector<std::pair<std::string, Phrase>>& items) {
  ViewList list;
  for (const auto& [term, words] : items) list.push_back(ViewObject{{"term", term}, {"words", words.pieces}});
  add("facts", ViewObject{{"items", list}});
}
void Section::table(const Table& table, const std::string& all) {
  if (table.all_ == 0) return;
  ViewList columns;
  bool stacks = true;
  for (const Column& c : table.columns_) {
    columns.push_back(ViewObject{{"column", c.name}, {"number", c.number}});
    stacks = stacks && !c.number;
  }
  add("table", ViewObject{{"caption_words", ViewObject{{"words", Phrase(table.caption_).pieces}}},
                          {"id", fmt::format("{}-table-{}", id_, blocks_.size())},
                          {"stacks", stacks},
                          {"columns", columns},
                          {"rows", table.rows_}});
  if (table.all_ > kMostRows)
    quiet(fmt::format("{} of {} rows are shown; all of them: ", kMostRows, grouped(int64_t(table.all_))) + code(all) + ".");
}
void Section::fold(const Phrase& title) { add("fold", ViewObject{{"words", title.pieces}}); }
void Section::unfold() { add("unfold", true); }
void Section::folded(const Phrase& title, const Table& t, const std::string& all) {
  if (t.all_ == 0) return;
  fold(title);
  table(t, all);
  unfold();
}
void Section::figure(const std::string& title, const std::string& description, const View& drawing) {
  View figure = drawing;
  figure.set("id", fmt::format("{}-figure-{}", id_, blocks_.size()));
  figure.set("title", title);
  figure.set("description", description);
  add("figure", figure);
}
View Section::view() const { return ViewObject{{"id", id_}, {"heading", title_}, {"blocks", blocks_}}; }

std::string grouped(int64_t value) {
  std::string digits = std::to_string(value);
  for (auto at = int64_t(digits.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3) digits.insert(size_t(at), ",");
  return digits;
}
std::string percent(double share) { return fmt::format("{:.1f}\u00a0%", 100 * share); }
std::string bytes_text(double bytes) {
  if (bytes < 1e5) return fmt::format("{:.1f} kB", bytes / 1e3);
  return bytes < 1e9 ? fmt::format("{:.1f} MB", bytes / 1e6) : fmt::format("{:.2f} GB", bytes / 1e9);
}
std::string plural(int64_t n, const char* one) { return fmt::format("{} {}{}", grouped(n), one, n == 1 ? "" : "s"); }

View view_of(const Report& r) {
  ViewList sections;
  const auto add = [&](const std::vector<Section>& list) {
    for (const Section& s : list)
      if (!s.empty()) sections.push_back(s.view());
  };
  add({summary(r)});
  if (!r.holds) add({findings(r)});
  add({claims(r)});
  for (const auto& list : {lineage_sections(r), audit_sections(r), training_sections(r)}) add(list);
  if (r.holds) add({findings(r)});
  add({builders(r)});
  const std::string title = fmt::format("Lineage of {}‘{}’", r.single ? "" : "the run ", r.title);
  return ViewObject{
      {"title", ViewObject{{"words", Phrase(title).pieces}}}, {"plain_title", title}, {"holds", r.holds}, {"sections", sections}};
}

}  // namespace overproof
