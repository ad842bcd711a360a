#include <fmt/format.h>

#include <algorithm>

#include "audit/report.h"
#include "audit/report_page.h"
#include "audit/report_style.h"
#include "audit/report_svg.h"
#include "provenance/dsse.h"

namespace overproof {
namespace {

/// A sign beside each word of standing: nothing is said by colour alone.
constexpr const char* kSigns[kStandings] = {"✓", "◐", "✓", "≈", "✎", "○", "✗"};

class Writer {
 public:
  explicit Writer(const Report& report) : report_(report) {}

  std::string page() {
    const Page page = lay_out(report_);
    const std::string style = kReportStyle;
    const Digest digest = sha256(style);
    // Not even a script that somebody puts into a name could run: the policy lets in this style sheet, by digest, and nothing
    // else.
    out_ = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    out_ += fmt::format(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{}'; img-src data:; "
        "base-uri 'none'; "
        "form-action 'none'\">\n",
        base64_encode({reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size()}));
    out_ +=
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light "
        "dark\">\n"
        "<meta name=\"referrer\" content=\"no-referrer\">\n<link rel=\"icon\" href=\"data:,\">\n";
    out_ += fmt::format(
        "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#main\">Skip to the report</a>\n",
        escape_html(page.title), style);
    out_ += fmt::format(
        "<header>\n<p class=\"kicker\">Lineage report</p>\n<h1>{}</h1>\n<p class=\"verdict {}\"><span "
        "aria-hidden=\"true\">{}</span> {}</p>\n</header>\n",
        escape_html(page.title), report_.holds ? "good" : "bad", report_.holds ? "✓" : "✗",
        report_.holds ? "Everything holds" : "This run does not hold");
    out_ += "<div class=\"columns\">\n<nav aria-label=\"Contents\">\n<ol>\n";
    for (const PageSection& s : page.sections)
      out_ += fmt::format("<li><a href=\"#{}\">{}</a></li>\n", s.id, escape_html(s.title));
    out_ += "</ol>\n</nav>\n<main id=\"main\" tabindex=\"-1\">\n";
    for (const PageSection& s : page.sections) {
      out_ += fmt::format("<section id=\"{0}\" aria-labelledby=\"{0}-title\">\n<h2 id=\"{0}-title\">{1}</h2>\n", s.id,
                          escape_html(s.title));
      for (const PageBlock& block : s.blocks) write(block);
      out_ += "</section>\n";
    }
    out_ +=
        "</main>\n</div>\n<footer>\n<p>Made by overproof from signed artifacts and audit records. This page runs no script and "
        "loads nothing.</p>\n</footer>\n</body>\n</html>\n";
    return std::move(out_);
  }

 private:
  void write(const PageBlock& block) {
    std::visit([&](const auto& value) { write(value); }, block.value);
  }

  void write(const PageParagraph& p) {
    static constexpr const char* kTones[] = {"", "note good", "note bad", "quiet", "note warn"};
    const char* tone = kTones[size_t(p.tone)];
    out_ += *tone ? fmt::format("<p class=\"{}\">", tone) : "<p>";
    write(p.words);
    out_ += "</p>\n";
  }
  void write(const PageHeading& h) { out_ += fmt::format("<h3>{}</h3>\n", escape_html(h.text)); }
  void write(const PageList& list) {
    out_ += "<ul>\n";
    for (const Phrase& item : list.items) {
      out_ += "<li>";
      write(item);
      out_ += "</li>\n";
    }
    out_ += "</ul>\n";
  }
  void write(const PageFacts& facts) {
    out_ += "<dl class=\"facts\">\n";
    for (const auto& [name, value] : facts.items) {
      out_ += fmt::format("<div><dt>{}</dt><dd>", escape_html(name));
      write(value);
      out_ += "</dd></div>\n";
    }
    out_ += "</dl>\n";
  }
  void write(const PageFold& fold) {
    out_ += fmt::format("<details>\n<summary>{}</summary>\n", escape_html(fold.title));
    for (const PageBlock& block : fold.blocks) write(block);
    out_ += "</details>\n";
  }

  /// Tables of words become a card a row on a narrow screen, which takes their meaning from some readers unless roles say it
  /// again. Tables of numbers stay tables and are moved sideways.
  void write(const PageTable& t) {
    const std::string id = fmt::format("table-{}", ++tables_);
    const bool stacks = std::none_of(t.columns.begin(), t.columns.end(), [](const PageColumn& c) { return c.number; });
    const auto role = [&](const char* name) { return stacks ? fmt::format(" role=\"{}\"", name) : std::string(); };
    if (!stacks) out_ += fmt::format("<div class=\"scroll\" role=\"region\" aria-labelledby=\"{}\" tabindex=\"0\">\n", id);
    out_ += fmt::format("<table{}{}>\n<caption id=\"{}\">{}</caption>\n<thead{}><tr{}>", stacks ? " class=\"stacks\"" : "",
                        role("table"), id, escape_html(t.caption), role("rowgroup"), role("row"));
    for (const PageColumn& c : t.columns)
      out_ +=
          fmt::format("<th scope=\"col\"{}{}>{}</th>", role("columnheader"), c.number ? " class=\"n\"" : "", escape_html(c.name));
    out_ += fmt::format("</tr></thead>\n<tbody{}>\n", role("rowgroup"));
    for (const auto& row : t.rows) {
      out_ += fmt::format("<tr{}>", role("row"));
      for (size_t i = 0; i < row.size(); ++i) {
        const PageColumn& column = t.columns[i];
        const std::string kind = fmt::format("{}{}", column.number ? " class=\"n\"" : "",
                                             stacks && i > 0 ? fmt::format(" data-label=\"{}\"", escape_html(column.name)) : "");
        out_ +=
            i == 0 ? fmt::format("<th scope=\"row\"{}{}>", role("rowheader"), kind) : fmt::format("<td{}{}>", role("cell"), kind);
        if (row[i].bar >= 0)
          out_ += fmt::format(
              "<svg class=\"bar\" aria-hidden=\"true\" viewBox=\"0 0 60 8\" width=\"60\" height=\"8\"><rect class=\"track\" "
              "width=\"60\" height=\"8\" rx=\"4\"/>"
              "<rect class=\"part\" width=\"{:.1f}\" height=\"8\" rx=\"{:.1f}\"/></svg>",
              60 * row[i].bar, std::min(4.0, 30 * row[i].bar));
        write(row[i].words);
        out_ += i == 0 ? "</th>" : "</td>";
      }
      out_ += "</tr>\n";
    }
    out_ += stacks ? "</tbody>\n</table>\n" : "</tbody>\n</table>\n</div>\n";
  }

  void write(const PageFigure& f) {
    const SvgLabel label{fmt::format("figure-{}", ++figures_), f.title, f.description};
    const std::string svg = f.kind == PageFigure::Kind::lineage ? lineage_svg(label, report_.artifacts)
                            : f.kind == PageFigure::Kind::lines ? lines_svg(label, f.series)
                                                                : loads_svg(label, f.loads);
    if (svg.empty()) {
      out_ += fmt::format("<p class=\"quiet\">{} {}</p>\n", escape_html(f.title + "."), "There is too much of it to draw.");
      return;
    }
    out_ += fmt::format(
        "<figure>\n<div class=\"scroll\" role=\"region\" aria-labelledby=\"{0}-title\" "
        "tabindex=\"0\">\n{1}</div>\n<figcaption>{2}</figcaption>\n</figure>\n",
        label.id, svg, escape_html(f.title + ". " + f.description));
  }

  void write(const Phrase& words) {
    for (const Piece& p : words) switch (p.kind) {
        case Piece::Kind::plain:
          out_ += escape_html(p.text);
          break;
        case Piece::Kind::strong:
          out_ += "<strong>" + escape_html(p.text) + "</strong>";
          break;
        case Piece::Kind::code:
          out_ += p.more.empty() ? fmt::format("<code>{}</code>", escape_html(p.text))
                                 : fmt::format("<code title=\"{}\">{}</code>", escape_html(p.more), escape_html(p.text));
          break;
        case Piece::Kind::link:
          out_ += fmt::format("<a href=\"#{}\">{}</a>", escape_html(p.more), escape_html(p.text));
          break;
        case Piece::Kind::badge: {
          const auto standing = size_t(std::clamp(std::stoi(p.more), 0, kStandings - 1));
          out_ += fmt::format("<span class=\"badge s{}\"><span aria-hidden=\"true\">{}</span> {}</span>", standing,
                              kSigns[standing], escape_html(p.text));
        }
      }
  }

  const Report& report_;
  std::string out_;
  int tables_ = 0, figures_ = 0;
};

}  // namespace

std::string report_html(const Report& report) { return Writer(report).page(); }

}  // namespace overproof
