#pragma once
// The report as a page of words, tables and figures, before anybody decides whether it becomes HTML or Markdown. What stands in
// it is raw text, part of it out of hostile files: whoever writes it down escapes every piece.

#include <string>
#include <variant>
#include <vector>

#include "audit/report_model.h"

namespace overproof {

struct Piece {
  enum class Kind { plain, strong, code, link, badge } kind = Kind::plain;
  std::string text;
  std::string
      more;  ///< of code: the whole of what is shortened; of a link: the id of a section; of a badge: Standing as a number
};
using Phrase = std::vector<Piece>;

Phrase words(std::string text);
Phrase code(std::string text, std::string whole = {});
Phrase badge(Standing standing);
Phrase operator+(Phrase a, const Phrase& b);

struct PageCell {
  Phrase words;
  double bar = -1;  ///< in [0, 1]: drawn beside the text; negative: none
};

struct PageColumn {
  std::string name;
  bool number = false;
};

struct PageTable {
  std::string caption;
  std::vector<PageColumn> columns;
  std::vector<std::vector<PageCell>> rows;  ///< the first cell of each is its header
};

struct PageParagraph {
  enum class Tone { plain, good, bad, quiet, warn } tone = Tone::plain;
  Phrase words;
};

struct PageList {
  std::vector<Phrase> items;
};

struct PageFacts {  ///< a few values that say most
  std::vector<std::pair<std::string, Phrase>> items;
};

struct PageFigure {
  enum class Kind { lineage, lines, loads } kind = Kind::lineage;
  std::string title, description;
  std::vector<ReportSeries> series;
  std::vector<std::vector<double>> loads;
};

struct PageHeading {
  std::string text;
};

struct PageBlock;
struct PageFold {
  std::string title;
  std::vector<PageBlock> blocks;
};

struct PageBlock {
  std::variant<PageParagraph, PageHeading, PageList, PageFacts, PageTable, PageFigure, PageFold> value;
};

struct PageSection {
  std::string id, title;
  std::vector<PageBlock> blocks;
};

struct Page {
  std::string title;
  std::vector<PageSection> sections;
};

Page lay_out(const Report& report);

/// For people: UTF-8, on one line, without control characters and without marks that turn the direction of text; what is longer
/// than 2000 bytes ends in an ellipsis.
std::string shown(std::string_view text);

/// "1,234,567"
std::string grouped(int64_t value);

}  // namespace overproof
