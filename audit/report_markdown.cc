// The report in Markdown (CommonMark 0.31 with GitHub's tables). What comes from files can end neither its cell nor its line, and
// begin neither a link, a tag, a heading nor a list.

#include <fmt/format.h>

#include "audit/report.h"
#include "audit/report_page.h"

namespace overproof {
namespace {

class Writer {
 public:
  explicit Writer(const Report& report) : report_(report) {}

  std::string page() {
    const Page page = lay_out(report_);
    out_ = fmt::format("# {}\n\n**{}**\n", escape_markdown(page.title),
                       report_.holds ? "Everything holds." : "This run does not hold.");
    for (const PageSection& s : page.sections) {
      out_ += fmt::format("\n## {}\n", escape_markdown(s.title));
      for (const PageBlock& block : s.blocks) write(block);
    }
    return std::move(out_);
  }

 private:
  void write(const PageBlock& block) {
    std::visit([&](const auto& value) { write(value); }, block.value);
  }
  void write(const PageParagraph& p) { out_ += "\n" + text_of(p.words) + "\n"; }
  void write(const PageHeading& h) { out_ += fmt::format("\n### {}\n", escape_markdown(h.text)); }
  void write(const PageList& list) {
    out_ += "\n";
    for (const Phrase& item : list.items) out_ += "- " + text_of(item) + "\n";
  }
  void write(const PageFacts& facts) {
    out_ += "\n";
    for (const auto& [name, value] : facts.items) out_ += fmt::format("- {}: {}\n", escape_markdown(name), text_of(value));
  }
  void write(const PageFold& fold) {
    for (const PageBlock& block : fold.blocks) write(block);
  }
  /// The tables beside each figure say what it shows; its description does, too.
  void write(const PageFigure& f) {
    if (f.kind != PageFigure::Kind::lineage) out_ += fmt::format("\n{}\n", escape_markdown(f.title + ". " + f.description));
  }
  void write(const PageTable& t) {
    out_ += fmt::format("\n{}:\n\n|", escape_markdown(t.caption));
    for (const PageColumn& c : t.columns) out_ += fmt::format(" {} |", escape_markdown(c.name));
    out_ += "\n|";
    for (const PageColumn& c : t.columns) out_ += c.number ? " ---: |" : " --- |";
    out_ += "\n";
    for (const auto& row : t.rows) {
      out_ += "|";
      for (const PageCell& cell : row) out_ += fmt::format(" {} |", text_of(cell.words));
      out_ += "\n";
    }
  }

  static std::string text_of(const Phrase& words) {
    std::string text;
    for (const Piece& p : words) switch (p.kind) {
        case Piece::Kind::strong: {
          // Emphasis does not close after a blank.
          const std::string shown = escape_markdown(p.text);
          const size_t end = shown.find_last_not_of(' ') + 1;
          text += end == 0 ? shown : "**" + shown.substr(0, end) + "**" + shown.substr(end);
          break;
        }
        case Piece::Kind::badge:
          text += "**" + escape_markdown(p.text) + "**";
          break;
        case Piece::Kind::code:
          text += code_span(p.text);
          break;
        case Piece::Kind::plain:
        case Piece::Kind::link:
          text += escape_markdown(p.text);
      }
    // A text that begins like a heading, a quote or a list would become one.
    if (!text.empty() && std::string_view("#>+-=:").find(text[0]) != std::string_view::npos) text.insert(0, "\\");
    size_t digits = 0;
    while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') ++digits;
    const bool marker = digits > 0 && digits < text.size() && (text[digits] == '.' || text[digits] == ')');
    if (marker && (digits + 1 == text.size() || text[digits + 1] == ' ')) text.insert(digits, "\\");
    return text;
  }

  /// Fenced by more backticks than it holds; a cell's bar must be escaped even there.
  static std::string code_span(std::string_view raw) {
    std::string text;
    size_t run = 0, longest = 0;
    for (const char c : shown(raw)) {
      run = c == '`' ? run + 1 : 0;
      longest = std::max(longest, run);
      if (c == '|') text += '\\';
      text += c;
    }
    const std::string fence(longest + 1, '`');
    const bool pad = !text.empty() && (text.front() == '`' || text.back() == '`');
    return text.empty() ? "" : fence + (pad ? " " : "") + text + (pad ? " " : "") + fence;
  }

  const Report& report_;
  std::string out_;
};

}  // namespace

std::string escape_markdown(std::string_view raw) {
  const std::string text = shown(raw);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const std::string_view rest = std::string_view(text).substr(i);
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (std::string_view("\\`*_[]|~$!#").find(c) != std::string_view::npos) out += std::string("\\") + c;
    // GitHub makes links of bare addresses, too.
    else if (rest.starts_with("://") ||
             (c == '.' && i >= 3 && (text.compare(i - 3, 3, "www") == 0 || text.compare(i - 3, 3, "WWW") == 0)))
      out += std::string("\\") + c;
    else if (c == '@') out += "&#64;";
    else out += c;
  }
  return out;
}

std::string report_markdown(const Report& report) { return Writer(report).page(); }

}  // namespace overproof
