#pragma once
// The report as data for the templates page.html.mustache and page.md.mustache: sections of blocks, each block a paragraph, a
// heading, a list, a table, a figure or the begin or end of a fold. Texts are raw, and some come from hostile files: the template
// engine escapes each of them.

#include <kainjow/mustache.hpp>

#include <string>
#include <vector>

#include "report/model.h"

namespace overproof {

using View = kainjow::mustache::data;
using ViewList = kainjow::mustache::list;
using ViewObject = kainjow::mustache::object;

inline constexpr size_t kMostRows = 500;  ///< of a table, so that a browser still opens the page

/// A run of text pieces, each an object with one member that is its kind: plain, name, strong, code, link or badge.
struct Phrase {
  ViewList pieces;
  double bar = -1;  ///< in a table's cell: a bar of this share in [0, 1] before the text; negative: none
  /// A sentence; a name in it is what is between ‘ and ’.
  Phrase(const std::string& sentence);
  Phrase(const char* sentence) : Phrase(std::string(sentence)) {}
  Phrase(const char* kind, ViewObject piece) : pieces{ViewObject{{kind, std::move(piece)}}} {}
  Phrase& operator+=(const Phrase& more);
};
Phrase operator+(Phrase a, const Phrase& b);
Phrase name(const std::string& text);  ///< out of a file: its direction of writing stays its own
Phrase strong(const std::string& text);
Phrase code(const std::string& text, const std::string& whole = {});  ///< `whole`: what is abbreviated
Phrase key_hint(const std::string& hex);                              ///< abbreviated; "–" when empty
Phrase link(const std::string& text, const std::string& section);
Phrase badge(ClaimStatus status);
Phrase bar(double share);                    ///< a percentage
Phrase bar_of(int64_t part, int64_t whole);  ///< "–" of nothing

struct Column {
  std::string name;
  bool number = false;
  Column(const char* name, bool number = false) : name(name), number(number) {}
};
inline Column number(const char* name) { return {name, true}; }

/// Collects a table; the first cell of each row is the row's header. Rows beyond kMostRows are counted and left out.
class Table {
 public:
  Table(std::string caption, std::vector<Column> columns) : caption_(std::move(caption)), columns_(std::move(columns)) {}
  void add(std::vector<Phrase> row);
  size_t rows() const { return all_; }

 private:
  friend class Section;
  std::string caption_;
  std::vector<Column> columns_;
  std::vector<std::vector<Phrase>> rows_;
  size_t all_ = 0;
};

/// Collects a section of the page.
class Section {
 public:
  Section(const char* id, const char* title) : id_(id), title_(title) {}
  void paragraph(const Phrase& words, const char* tone = "");
  void quiet(const Phrase& words) { paragraph(words, "quiet"); }
  void heading(const Phrase& words);
  void list(const std::string& title, const std::vector<std::string>& items);  ///< nothing without items
  void facts(const std::vector<std::pair<std::string, Phrase>>& items);
  /// Nothing without rows. `all`: a command or file that has the rows which are left out.
  void table(const Table& table, const std::string& all = {});
  /// What follows, up to unfold(), can be folded away. `bulk`: stays folded on paper, where it would take many pages.
  void fold(const Phrase& title, bool bulk = false);
  void unfold();
  void folded(const Phrase& title, const Table& table, const std::string& all = {}, bool bulk = false);
  void begin(const char* looks);  ///< a part of the page with that CSS class, up to end()
  void end();
  void figure(const std::string& title, const std::string& description, const View& drawing);
  bool empty() const { return blocks_.empty(); }
  View view() const;

 private:
  void add(const char* kind, const View& content);
  std::string id_, title_;
  ViewList blocks_;
};

/// The page: {"title", "verdict", "sections"}.
View view_of(const Report& report);

/// One line: what holds, and how many claims are not checked or only recorded.
std::string verdict_text(const Report& report);

/// Sections that view_of puts together; an empty one is left out.
Section summary_section(const Report& report);                 ///< the first screen: may it be shipped, and what is it
std::vector<Section> lineage_sections(const Report& report);   ///< licences, lineage, sources
std::vector<Section> training_sections(const Report& report);  ///< quality, recovery, training, experts
std::vector<Section> audit_sections(const Report& report);     ///< replay, rows, recompute, evidence, records

std::string name_list(const std::vector<std::string>& names);  ///< "‘a’, ‘b’ and ‘c’"; at most six

std::string grouped(int64_t value);  ///< "1,234,567"
std::string percent(double share);   ///< "12.3 %"
std::string bytes_text(double bytes);
std::string plural(int64_t n, const char* one);  ///< "1 file", "2 files"

}  // namespace overproof
