#include "data/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include <optional>

#include "core/error.h"
#include "core/regex.h"
#include "core/utf8.h"

namespace overproof {

const char* const kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

using Span = std::pair<size_t, size_t>;  // [begin, end) in bytes
struct Cut {
  Span span;
  bool match;
};

/// Rewrites what Oniguruma and PCRE2 read differently: \s is White_Space in the one, and U+180E in addition in the other; \v is one
/// character; ^ and $ are of lines; (?m) lets a dot match a line's end; {,n} is a quantifier; classes can be nested and intersected.
/// What cannot be rewritten as simply is refused.
class PatternRewriter {
 public:
  PatternRewriter(std::string_view pattern, const std::filesystem::path& file) : pattern_(pattern), file_(file) {}

  std::string rewrite() {
    std::string out;
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') escape(out);
      else if (c == '[') out += char_class(0);
      else if (c == '{' && at_most()) out += "{0", ++at_;
      else if (c == '(' && pattern_.substr(at_, 2) == "(?") group(out);
      else if (c == '^' || c == '$') out += std::string("(?m:") + c + ')', ++at_;
      else out += c, ++at_;
    }
    return out;
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw FormatError(file_, -1, fmt::format("the pre-tokeniser's pattern uses {}, which is not supported: {}", what, pattern_));
  }

  /// Whether {,n} starts here.
  bool at_most() const {
    const size_t end = pattern_.find_first_not_of("0123456789", at_ + 2);
    return pattern_.substr(at_, 2) == "{," && end != pattern_.npos && end > at_ + 2 && pattern_[end] == '}';
  }

  void escape(std::string& out) {
    static constexpr std::string_view kOtherMeaning = "wWbBhHRXKGyYzZA", kBraced = "pPxuok";
    if (at_ + 1 == pattern_.size()) {
      out += pattern_[at_++];
      return;
    }
    const char c = pattern_[at_ + 1];
    at_ += 2;
    if (c == 's') {
      out += "\\p{White_Space}";
    } else if (c == 'S') {
      out += "\\P{White_Space}";
    } else if (c == 'v') {
      out += "\\x0b";
    } else if (c == 'C') {  // one byte, so it would part a character
      throw PatternError(file_, -1, fmt::format("the pre-tokeniser's pattern uses \\C, which is not supported: {}", pattern_));
    } else if (kOtherMeaning.find(c) != std::string_view::npos) {
      refuse(std::string("\\") + c);
    } else {
      out += '\\';
      out += c;
      if (kBraced.find(c) == std::string_view::npos || pattern_.substr(at_, 1) != "{") return;
      const size_t end = std::min(pattern_.find('}', at_), pattern_.size() - 1) + 1;
      out += pattern_.substr(at_, end - at_);
      at_ = end;
    }
  }

  /// "(?" and, where options follow, these.
  void group(std::string& out) {
    const size_t end = pattern_.find_first_not_of("imsx-", at_ + 2);
    const bool options = end != pattern_.npos && end > at_ + 2 && (pattern_[end] == ':' || pattern_[end] == ')');
    for (const char c : pattern_.substr(at_, options ? end - at_ : 2)) out += c == 'm' ? 's' : c;
    at_ = options ? end : at_ + 2;
  }

  /// A class that starts here, as an expression for one character: a plain one as it is.
  std::string char_class(int depth) {
    if (depth > 16) refuse("classes nested deeper than 16");
    const bool negated = pattern_.substr(++at_, 1) == "^";
    at_ += negated;
    std::vector<std::string> operands;  // of &&
    std::string items;
    std::vector<std::string> nested;
    bool plain = true;
    const auto end_operand = [&] {
      if (items.empty() && nested.empty()) refuse("an empty class");
      if (items.starts_with('^')) items.insert(0, 1, '\\');
      if (!items.empty()) nested.push_back('[' + items + ']');
      operands.push_back(nested.size() == 1 ? nested[0] : fmt::format("(?:{})", fmt::join(nested, "|")));
      items.clear(), nested.clear();
    };
    for (bool first = true;; first = false) {
      if (at_ >= pattern_.size()) refuse("a class that is not closed");
      const char c = pattern_[at_];
      if (c == ']' && !first) break;
      if (c == ']') {
        items += "\\]", ++at_;
      } else if (pattern_.substr(at_, 2) == "&&") {
        end_operand();
        plain = false;
        at_ += 2;
      } else if (c == '[') {
        if (pattern_.substr(at_, 2) == "[:" && pattern_.find(":]", at_ + 2) != pattern_.npos) refuse("a POSIX bracket such as [:alpha:]");
        if (items.ends_with('-') && !items.ends_with("\\-")) refuse("a range up to a class");
        nested.push_back(char_class(depth + 1));
        plain = false;
      } else if (c == '\\') {
        escape(items);
      } else {
        items += c, ++at_;
      }
    }
    ++at_;
    if (plain && !items.empty()) return '[' + std::string(negated ? "^" : items.starts_with('^') ? "\\" : "") + items + ']';
    end_operand();
    std::string all;
    for (size_t i = 0; i + 1 < operands.size(); ++i) all += "(?=" + operands[i] + ')';
    all += operands.back();
    return negated ? "(?:(?!" + all + ")(?s:.))" : operands.size() == 1 ? all : "(?:" + all + ')';
  }

  std::string_view pattern_;
  const std::filesystem::path& file_;
  size_t at_ = 0;
};

void add_cut(std::vector<Cut>& cuts, size_t begin, size_t end, bool match) { cuts.push_back({{begin, end}, match}); }

void find_literal(std::string_view needle, std::string_view text, std::vector<Cut>& cuts) {
  size_t done = 0;
  for (size_t at = text.find(needle); at != std::string_view::npos; at = text.find(needle, done)) {
    if (at > done) add_cut(cuts, done, at, false);
    add_cut(cuts, at, at + needle.size(), true);
    done = at + needle.size();
  }
  if (done < text.size()) add_cut(cuts, done, text.size(), false);
}

void apply(SplitStep::Behaviour behaviour, const std::vector<Cut>& cuts, std::vector<Span>& pieces) {
  using enum SplitStep::Behaviour;
  pieces.clear();
  bool previous_match = false;
  switch (behaviour) {
    case isolated:
      for (const Cut& cut : cuts) pieces.push_back(cut.span);
      break;
    case removed:
      for (const Cut& cut : cuts) {
        if (!cut.match) pieces.push_back(cut.span);
      }
      break;
    case merged_with_previous:
      for (const Cut& cut : cuts) {
        if (cut.match && !previous_match && !pieces.empty()) {
          pieces.back().second = cut.span.second;
        } else {
          pieces.push_back(cut.span);
        }
        previous_match = cut.match;
      }
      break;
    case merged_with_next:
      for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
        if (cut->match && !previous_match && !pieces.empty()) {
          pieces.back().first = cut->span.first;
        } else {
          pieces.push_back(cut->span);
        }
        previous_match = cut->match;
      }
      std::reverse(pieces.begin(), pieces.end());
      break;
    case contiguous:
      for (const Cut& cut : cuts) {
        if (cut.match == previous_match && !pieces.empty()) {
          pieces.back().second = cut.span.second;
        } else {
          pieces.push_back(cut.span);
        }
        previous_match = cut.match;
      }
      break;
  }
}

}  // namespace

struct PreTokenizer::Step {
  SplitStep step;
  std::optional<Regex> regex;  // none for a literal

  void find_matches(std::string_view text, std::vector<Cut>& cuts) const {
    // The text was made valid by encode(), and a step cuts only between characters.
    RegexScan scan(*regex, text);
    size_t done = 0;               // everything before is in `cuts`
    size_t last_end = size_t(-1);  // of the last match: an empty match there is none
    for (size_t from = 0; from <= text.size();) {
      const std::optional<RegexMatch> match = scan.next(from);
      if (!match) break;
      const auto [begin, end] = *match;
      if (begin == end) {
        if (begin == text.size()) break;
        const size_t next = begin + size_t(decode_utf8(text.substr(begin)).bytes);
        if (begin != last_end && begin > done) {
          add_cut(cuts, done, begin, false);
          done = begin;
        }
        from = next;
        last_end = begin;
        continue;
      }
      if (begin > done) add_cut(cuts, done, begin, false);
      add_cut(cuts, begin, end, true);
      done = from = last_end = end;
    }
    if (done < text.size()) add_cut(cuts, done, text.size(), false);
  }
};

PreTokenizer::PreTokenizer(const std::vector<SplitStep>& steps, const std::filesystem::path& file) {
  for (const SplitStep& step : steps) {
    Step compiled{step, {}};
    if (!step.literal && !step.pattern.empty()) compiled.regex.emplace(PatternRewriter(step.pattern, file).rewrite(), Regex::Text::utf8, file);
    steps_.push_back(std::move(compiled));
  }
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

std::vector<std::string_view> PreTokenizer::split(std::string_view text,
                                                  std::vector<std::unique_ptr<std::string>>& storage) const {
  std::vector<std::string_view> pieces{text}, next;
  std::vector<Cut> cuts;
  std::vector<Span> spans;
  for (const Step& step : steps_) {
    if (step.step.add_prefix_space) {
      for (std::string_view& piece : pieces) {
        if (piece.empty() || piece.front() == ' ') continue;
        storage.push_back(std::make_unique<std::string>(' ' + std::string(piece)));
        piece = *storage.back();
      }
    }
    if (step.step.pattern.empty()) continue;
    next.clear();
    for (const std::string_view piece : pieces) {
      cuts.clear();
      if (step.step.literal) {
        find_literal(step.step.pattern, piece, cuts);
      } else {
        step.find_matches(piece, cuts);
      }
      if (step.step.invert) {
        for (Cut& cut : cuts) cut.match = !cut.match;
      }
      apply(step.step.behaviour, cuts, spans);
      for (const auto& [begin, end] : spans) {
        if (end > begin) next.push_back(piece.substr(begin, end - begin));
      }
    }
    pieces.swap(next);
  }
  return pieces;
}

}  // namespace overproof
