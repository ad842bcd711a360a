#pragma once
// The first half of byte-level BPE: text is cut into pieces by regular expressions, and no token crosses a cut.
// Meaning and names follow Hugging Face `tokenizers` (pre_tokenizers.Split, Digits, ByteLevel); the expressions run on
// PCRE2 with UTF, UCP and JIT.

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace overproof {

/// One step of splitting. Steps run in order, each on every piece of the step before.
struct SplitStep {
  /// What happens to a match: its own piece, dropped, joined with a neighbour, or joined with adjacent matches.
  enum class Behaviour { isolated, removed, merged_with_previous, merged_with_next, contiguous };
  std::string pattern;
  bool literal = false;           ///< `pattern` is plain text, not an expression
  bool invert = false;            ///< what lies between matches is treated as the match
  bool add_prefix_space = false;  ///< before cutting, a piece that does not start with a space gets one
  Behaviour behaviour = Behaviour::isolated;
  bool operator==(const SplitStep&) const = default;
};

/// The pattern of GPT-2's ByteLevel step (use_regex).
extern const char* const kGpt2Pattern;

class PreTokenizer {
 public:
  /// Compiles the steps. Throws FormatError (naming `file`) for a pattern that PCRE2 refuses or that uses an escape whose
  /// meaning differs from Oniguruma's, which Hugging Face uses.
  PreTokenizer(const std::vector<SplitStep>& steps, const std::filesystem::path& file);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  /// Splits `text` (valid UTF-8) and returns the pieces. They point into `text` or, after a step that adds a prefix space, into
  /// `storage`. Throws FormatError when an expression exceeds the bound on its work (core/regex.h). Thread-safe.
  std::vector<std::string_view> split(std::string_view text, std::vector<std::unique_ptr<std::string>>& storage) const;

 private:
  struct Step;
  std::vector<Step> steps_;
};

}  // namespace overproof
