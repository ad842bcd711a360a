// Regular expressions (pattern, zero byte, text): refused with a FormatError, or the matches that PCRE2 finds in the whole text,
// whatever windows the scan looks through; given up where the work on the text exceeds its bound.

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>

#include "core/error.h"
#include "core/regex.h"
#include "core/utf8.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

namespace {

/// The first match in all of the text from `from` on. `unsure`: PCRE2 gave up, or its interpreter and its JIT disagree, as they
/// do in version 10.42 on (?>\S+?)\b.
std::optional<RegexMatch> plain_match(pcre2_code* code, const std::string& text, size_t from, bool& unsure) {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(pcre2_match_data_create(1, nullptr),
                                                                                  &pcre2_match_data_free);
  // A reference that takes long is no reference: the scan under test gives up as well.
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> limits(pcre2_match_context_create(nullptr),
                                                                                         &pcre2_match_context_free);
  pcre2_set_match_limit(limits.get(), 100'000);
  std::optional<RegexMatch> found[2];
  unsure = false;
  for (const bool jit : {false, true}) {
    const int rc = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                               PCRE2_NO_UTF_CHECK | (jit ? 0 : PCRE2_NO_JIT), match.get(), limits.get());
    unsure |= rc < 0 && rc != PCRE2_ERROR_NOMATCH;
    const size_t* ends = pcre2_get_ovector_pointer(match.get());
    if (rc >= 0) found[jit] = RegexMatch{ends[0], ends[1]};
  }
  unsure |= found[0] != found[1];
  return found[0];
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), std::min<size_t>(size, 512));
  const std::string pattern(fuzz::take_part(rest));
  std::string text = to_valid_utf8(rest);
  if (pattern.size() > 64 || text.empty()) return 0;
  while (text.size() < 9'000) text += text;  // more than two windows
  try {
    const Regex regex(pattern, Regex::Text::utf8, "fuzz.json");
    int error = 0;
    size_t offset = 0;
    const std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr),
        &pcre2_code_free);
    fuzz::require(code != nullptr);
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
    RegexScan scan(regex, text);
    size_t from = 0;
    for (int matches = 0; matches < 50 && from <= text.size(); ++matches) {
      const auto found = scan.next(from);
      bool unsure = false;
      const auto plain = plain_match(code.get(), text, from, unsure);
      if (unsure) break;
      fuzz::require(found == plain);
      if (!found) break;
      if (found->end > found->begin) from = found->end;
      else if (found->end == text.size()) break;
      else from = found->end + size_t(decode_utf8(std::string_view(text).substr(found->end)).bytes);
    }
    fuzz::require(scan.work() <= (int64_t{16} << 20) + 64 * int64_t(text.size()));
  } catch (const FormatError&) {
  }
  return 0;
}
