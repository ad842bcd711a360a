#pragma once
// Regular expressions of files that may be hostile, on PCRE2 with JIT. PCRE2's own limits hold for one start of one match; here
// the work on one text is bounded as well, so that a text takes time in proportion to its length or is refused.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/error.h"

namespace overproof {

struct RegexMatch {
  size_t begin, end;  ///< in bytes
  bool operator==(const RegexMatch&) const = default;
};

/// A pattern that cannot be used safely, or at all.
class PatternError : public FormatError {
 public:
  using FormatError::FormatError;
};

class Regex {
 public:
  enum class Text { bytes, utf8 };  ///< utf8: Unicode properties; every text to match must be valid UTF-8
  /// Compiles. Throws PatternError naming `origin` for what PCRE2 refuses, and for \C, which would part a character.
  Regex(std::string_view pattern, Text text, std::filesystem::path origin);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  const std::string& pattern() const { return pattern_; }

  /// Whether a match begins where `text` begins, as Python's re.match does. False also when the matcher has not decided after
  /// `max_work` steps.
  bool matches_start(std::string_view text, int64_t max_work) const;

 private:
  friend class RegexScan;
  struct Code;
  std::unique_ptr<Code> code_;
  std::string pattern_;
  Text text_;
  std::filesystem::path origin_;
};

/// The matches in one text, from left to right. Regex and text must outlive it.
class RegexScan {
 public:
  RegexScan(const Regex& regex, std::string_view text);
  RegexScan(const Regex& regex, std::string_view text, int64_t max_work);
  /// The first match that begins at `from` or later, where `from` is the start of a character. Throws FormatError when the work
  /// on this text exceeds the bound: 16 M + 64 a byte, or the one given.
  std::optional<RegexMatch> next(size_t from);
  /// Steps and bytes looked at beyond the 1,000 steps and 4,096 bytes that each start has free.
  int64_t work() const { return work_; }

 private:
  friend class Regex;
  int match(size_t from, size_t window, uint32_t options, int64_t steps);
  size_t end_of_window(size_t from, size_t bytes) const;
  std::optional<RegexMatch> match_at(size_t start);
  RegexMatch found(size_t from) const;
  void charge(int64_t work);
  [[noreturn]] void give_up(const std::string& cause) const;

  const Regex& regex_;
  const std::string_view text_;
  const int64_t max_work_;
  int64_t work_ = 0;
};

}  // namespace overproof
