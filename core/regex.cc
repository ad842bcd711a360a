#include "core/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>

#include "core/error.h"
#include "core/utf8.h"

namespace overproof {
namespace {

constexpr int64_t kFreeSteps = 1'000;     // of the matcher, for one start
constexpr size_t kFreeWindow = 4'096;     // bytes from a start that the matcher may look at
constexpr uint32_t kHeapKiB = 256 << 10;  // of the interpreter, which needs it for nested repeats over long texts

/// Match data and JIT stack of one thread: making them costs more than matching a word.
struct MatchState {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, 8 << 20, nullptr);
  MatchState() {
    OVERPROOF_CHECK(data && context && stack);
    pcre2_jit_stack_assign(context, nullptr, stack);
    pcre2_set_heap_limit(context, kHeapKiB);
  }
  ~MatchState() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;
};

MatchState& state() {
  thread_local MatchState made;
  return made;
}

std::string message_of(int error) {
  PCRE2_UCHAR message[128];
  pcre2_get_error_message(error, message, sizeof message);
  return reinterpret_cast<const char*>(message);
}

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(std::string_view pattern, Text text, std::filesystem::path origin)
    : code_(std::make_unique<Code>()), pattern_(pattern), text_(text), origin_(std::move(origin)) {
  // \C would match single bytes of a character; what follows then reads outside of the text.
  const uint32_t options = PCRE2_NEVER_BACKSLASH_C | (text == Text::utf8 ? PCRE2_UTF | PCRE2_UCP : 0);
  int error = 0;
  size_t offset = 0;
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options, &error, &offset, nullptr);
  if (!code_->code)
    throw PatternError(origin_, -1,
                       fmt::format("'{}' is not a valid regular expression: {} at character {}", pattern.substr(0, 200),
                                   message_of(error), offset));
  // Without JIT (a locked-down machine) the interpreter gives the same matches.
  pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

bool Regex::matches_start(std::string_view text, int64_t max_work) const {
  try {
    return RegexScan(*this, text, max_work).match_at(0).has_value();
  } catch (const FormatError&) {
    return false;
  }
}

RegexScan::RegexScan(const Regex& regex, std::string_view text)
    : RegexScan(regex, text, (int64_t{16} << 20) + 64 * int64_t(text.size())) {}

RegexScan::RegexScan(const Regex& regex, std::string_view text, int64_t max_work)
    : regex_(regex), text_(text), max_work_(max_work) {}

size_t RegexScan::end_of_window(size_t from, size_t bytes) const {
  if (text_.size() - from <= bytes) return text_.size();
  size_t end = from + bytes;
  if (regex_.text_ == Regex::Text::utf8)
    while ((uint8_t(text_[end]) & 0xc0) == 0x80) --end;  // the text is valid: at most three times
  return end;
}

/// One call of the matcher on the text up to `window`. PCRE2_ERROR_PARTIAL: it needs more text to decide.
int RegexScan::match(size_t from, size_t window, uint32_t options, int64_t steps) {
  if (window < text_.size()) options |= PCRE2_PARTIAL_HARD;
  if (regex_.text_ == Regex::Text::utf8) options |= PCRE2_NO_UTF_CHECK;
  pcre2_set_match_limit(state().context, uint32_t(std::min<int64_t>(steps, UINT32_MAX)));
  return pcre2_match(regex_.code_->code, reinterpret_cast<PCRE2_SPTR>(text_.data()), window, from, options, state().data,
                     state().context);
}

RegexMatch RegexScan::found(size_t from) const {
  const size_t* ends = pcre2_get_ovector_pointer(state().data);
  if (ends[0] < from || ends[1] < ends[0] || ends[1] > text_.size()) give_up("a match ends before it begins (\\K)");
  return {ends[0], ends[1]};
}

void RegexScan::give_up(const std::string& cause) const {
  throw FormatError(regex_.origin_, -1,
                    fmt::format("the regular expression '{}' was given up on a text of {} bytes: {}",
                                regex_.pattern_.substr(0, 200), text_.size(), cause));
}

void RegexScan::charge(int64_t work) {
  work_ += work;
  if (work_ > max_work_) give_up("it takes far more steps than the text is long");
}

/// A match that begins exactly at `start`. Each try with more text or more steps costs what it may use, and both double, so the
/// sum is within a factor of about two of what was used.
std::optional<RegexMatch> RegexScan::match_at(size_t start) {
  size_t window = kFreeWindow;
  int64_t steps = kFreeSteps;
  for (;;) {
    const size_t end = end_of_window(start, window);
    if (window > kFreeWindow) charge(int64_t(end - start));
    if (steps > kFreeSteps) charge(steps);
    const int rc = match(start, end, PCRE2_ANCHORED, steps);
    if (rc >= 0) return found(start);
    if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (rc == PCRE2_ERROR_PARTIAL) window *= 2;
    else if (rc == PCRE2_ERROR_MATCHLIMIT) steps *= 2;
    else give_up(message_of(rc));
  }
}

std::optional<RegexMatch> RegexScan::next(size_t from) {
  while (from <= text_.size()) {
    const size_t end = end_of_window(from, kFreeWindow);
    const int rc = match(from, end, 0, kFreeSteps);
    if (rc >= 0) return found(from);
    if (rc == PCRE2_ERROR_NOMATCH) {
      if (end == text_.size()) return std::nullopt;
      from = end;
      continue;
    }
    // Starts before this one have failed within the window. After the limit on steps the start is not known: try `from`.
    const size_t start = rc == PCRE2_ERROR_PARTIAL ? pcre2_get_startchar(state().data) : from;
    if (const auto match = match_at(start)) return match;
    if (start == text_.size()) return std::nullopt;
    // The starts up to the costly one are tried again, which costs work, too.
    if (rc != PCRE2_ERROR_PARTIAL) charge(kFreeSteps);
    from = start + (regex_.text_ == Regex::Text::utf8 ? size_t(decode_utf8(text_.substr(start)).bytes) : 1);
  }
  return std::nullopt;
}

}  // namespace overproof
