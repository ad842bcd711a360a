#include "report/view.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace overproof {
namespace {

Section claims(const Report& r) {
  Section s("claims", "What is proved, estimated or only recorded");
  Table claims("Claims about this run, and how far each can be trusted", {"claim", "status", "by which check"});
  for (int i = kClaimStatuses; i-- > 0;)  // what does not hold comes first, then what is open
    for (const ReportClaim& c : r.claims)
      if (c.status == ClaimStatus(i))
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
  if (++all_ <= kMostRows) rows_.push_back(std::move(row));
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
  // A card for each row on a narrow screen is easier to read than a table that moves sideways, but many numbers make many cards.
  constexpr size_t kMostCards = 40;
  ViewList columns;
  bool stacks = table.columns_.size() > 2;
  for (const Column& c : table.columns_) {
    columns.push_back(ViewObject{{"column", c.name}, {"number", c.number}});
    stacks = stacks && (!c.number || table.all_ <= kMostCards);
  }
  ViewList rows;
  for (const std::vector<Phrase>& row : table.rows_) {
    ViewList cells;
    for (size_t i = 0; i < row.size(); ++i) {
      ViewObject cell = {{"words", row[i].pieces}};
      if (i == 0) cell.emplace("head", true);
      else if (stacks) cell.emplace("label", table.columns_[i].name);
      if (table.columns_[i].number) cell.emplace("number", true);
      if (row[i].bar >= 0)
        cell.emplace("bar", ViewObject{{"width", fmt::format("{:.1f}", 60 * row[i].bar)},
                                       {"radius", fmt::format("{:.1f}", std::min(4.0, 30 * row[i].bar))}});
      cells.push_back(std::move(cell));
    }
    rows.push_back(ViewObject{{"cells", std::move(cells)}});
  }
  add("table", ViewObject{{"caption_words", ViewObject{{"words", Phrase(table.caption_).pieces}}},
                          {"id", fmt::format("{}-table-{}", id_, blocks_.size())},
                          {"stacks", stacks},
                          {"columns", columns},
                          {"rows", rows}});
  if (table.all_ > kMostRows)
    quiet(fmt::format("{} of {} rows are shown; all of them: ", kMostRows, grouped(int64_t(table.all_))) + code(all) + ".");
}
void Section::fold(const Phrase& title, bool bulk) { add("fold", ViewObject{{"words", title.pieces}, {"bulk", bulk}}); }
void Section::unfold() { add("unfold", true); }
void Section::begin(const char* looks) { add("begin", ViewObject{{"looks", looks}}); }
void Section::end() { add("end", true); }
void Section::folded(const Phrase& title, const Table& t, const std::string& all, bool bulk) {
  if (t.all_ == 0) return;
  fold(title, bulk);
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

std::string name_list(const std::vector<std::string>& names) {
  constexpr size_t kMost = 6;
  std::string all;
  for (size_t i = 0; i < std::min(names.size(), kMost); ++i)
    all += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + ("‘" + names[i] + "’");
  if (names.size() > kMost) all += fmt::format(" and {} more", names.size() - kMost);
  return all;
}

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

std::string verdict_text(const Report& r) {
  const auto counted = [&](ClaimStatus status) {
    const int64_t n = r.claims_with(status);
    const std::string verb = status == ClaimStatus::failed ? n == 1 ? "does not hold" : "do not hold"
                                                           : (n == 1 ? "is " : "are ") + std::string(status_name(status));
    return fmt::format("{} {}", plural(n, "claim"), verb);
  };
  const int64_t recorded = r.claims_with(ClaimStatus::recorded);
  const std::string rest = recorded > 0 ? fmt::format(", {} only recorded", recorded) : "";
  switch (r.verdict()) {
    case Verdict::fails: return r.holds ? counted(ClaimStatus::failed) : "This run does not hold";
    case Verdict::open: return "Files and signatures hold; " + counted(ClaimStatus::unchecked) + rest;
    case Verdict::holds: return recorded > 0 ? "All checked claims hold; " + counted(ClaimStatus::recorded) : "All claims hold";
  }
  throw std::logic_error("no such verdict");
}

View view_of(const Report& r) {
  ViewList sections;
  const auto add = [&](const std::vector<Section>& list) {
    for (const Section& s : list)
      if (!s.empty()) sections.push_back(s.view());
  };
  add({summary_section(r)});
  if (!r.holds) add({findings(r)});
  add({claims(r)});
  for (const auto& list : {lineage_sections(r), training_sections(r), audit_sections(r)}) add(list);
  if (r.holds) add({findings(r)});
  add({builders(r)});
  const std::string title = fmt::format("Lineage of {}‘{}’", r.single ? "" : "the run ", r.title);
  static constexpr const char* kLooks[] = {"good", "warn", "bad"};
  static constexpr const char* kSigns[] = {"✓", "○", "✗"};
  return ViewObject{
      {"title", ViewObject{{"words", Phrase(title).pieces}}},
      {"plain_title", title},
      {"verdict", ViewObject{{"looks", kLooks[size_t(r.verdict())]}, {"sign", kSigns[size_t(r.verdict())]}, {"text", verdict_text(r)}}},
      {"sections", sections}};
}

}  // namespace overproof
