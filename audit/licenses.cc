#include "audit/licenses.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <set>
#include <utility>

#include "core/digest.h"

namespace overproof {
namespace {

constexpr std::uint32_t bits(std::initializer_list<Duty> duties) {
  std::uint32_t all = 0;
  for (const Duty d : duties) all |= 1U << unsigned(d);
  return all;
}

constexpr std::uint32_t kNotice = bits({Duty::notice});
constexpr std::uint32_t kNamed = bits({Duty::notice, Duty::attribution});
constexpr std::uint32_t kCopyleft = bits({Duty::notice, Duty::share_alike});
constexpr std::uint32_t kNetwork = bits({Duty::notice, Duty::share_alike, Duty::network_source});
// Llama 3.1 and later: https://www.llama.com/llama3_1/license/, sections 1.b.i and 2.
constexpr std::uint32_t kLlama =
    bits({Duty::notice, Duty::use_restrictions, Duty::name_prefix, Duty::built_with, Duty::scale_limit});

// clang-format off: a table
/// By id. Sources: the licence texts at https://spdx.org/licenses/, and each publisher's own terms.
constexpr LicenseTerms kKnownLicenses[] = {
    {"0BSD", "BSD Zero Clause License", 0, {}},
    {"AFL-3.0", "Academic Free License v3.0", kNamed, {}},
    {"AGPL-3.0-only", "GNU Affero General Public License v3.0 only", kNetwork, {}},
    {"AGPL-3.0-or-later", "GNU Affero General Public License v3.0 or later", kNetwork, {}},
    {"Apache-1.1", "Apache License 1.1", kNotice, {}},
    {"Apache-2.0", "Apache License 2.0", kNotice, {}},
    {"Artistic-1.0", "Artistic License 1.0", kNotice, {}},
    {"Artistic-1.0-Perl", "Artistic License 1.0 (Perl)", kNotice, {}},
    {"Artistic-2.0", "Artistic License 2.0", kNotice, {}},
    {"BSD-2-Clause", "BSD 2-Clause", kNotice, {}},
    {"BSD-3-Clause", "BSD 3-Clause", kNotice, {}},
    {"BSD-4-Clause", "BSD 4-Clause", kNamed, {}},
    {"BSL-1.0", "Boost Software License 1.0", kNotice, {}},
    {"CC-BY-2.0", "Creative Commons Attribution 2.0", kNamed, {}},
    {"CC-BY-2.5", "Creative Commons Attribution 2.5", kNamed, {}},
    {"CC-BY-3.0", "Creative Commons Attribution 3.0", kNamed, {}},
    {"CC-BY-4.0", "Creative Commons Attribution 4.0", kNamed, {}},
    {"CC-BY-NC-2.0", "Creative Commons Attribution Non Commercial 2.0", kNamed | bits({Duty::non_commercial}), {}},
    {"CC-BY-NC-3.0", "Creative Commons Attribution Non Commercial 3.0", kNamed | bits({Duty::non_commercial}), {}},
    {"CC-BY-NC-4.0", "Creative Commons Attribution Non Commercial 4.0", kNamed | bits({Duty::non_commercial}), {}},
    {"CC-BY-NC-ND-4.0",
     "Creative Commons Attribution Non Commercial No Derivatives 4.0",
     kNamed | bits({Duty::non_commercial, Duty::no_derivatives}),
     {}},
    {"CC-BY-NC-SA-2.0", "Creative Commons Attribution Non Commercial Share Alike 2.0", kNamed | bits({Duty::non_commercial, Duty::share_alike}), {}},
    {"CC-BY-NC-SA-3.0", "Creative Commons Attribution Non Commercial Share Alike 3.0", kNamed | bits({Duty::non_commercial, Duty::share_alike}), {}},
    {"CC-BY-NC-SA-4.0",
     "Creative Commons Attribution Non Commercial Share Alike 4.0",
     kNamed | bits({Duty::non_commercial, Duty::share_alike}),
     {}},
    {"CC-BY-ND-4.0", "Creative Commons Attribution No Derivatives 4.0", kNamed | bits({Duty::no_derivatives}), {}},
    {"CC-BY-SA-2.0", "Creative Commons Attribution Share Alike 2.0", kNamed | kCopyleft, {}},
    {"CC-BY-SA-2.5", "Creative Commons Attribution Share Alike 2.5", kNamed | kCopyleft, {}},
    {"CC-BY-SA-3.0", "Creative Commons Attribution Share Alike 3.0", kNamed | kCopyleft, {}},
    {"CC-BY-SA-4.0", "Creative Commons Attribution Share Alike 4.0", kNamed | kCopyleft, {}},
    {"CC0-1.0", "Creative Commons Zero 1.0", 0, {}},
    {"CDDL-1.0", "Common Development and Distribution License 1.0", kCopyleft, {}},
    {"CDLA-Permissive-2.0", "Community Data License Agreement Permissive 2.0", kNotice, {}},
    {"EPL-1.0", "Eclipse Public License 1.0", kCopyleft, {}},
    {"EPL-2.0", "Eclipse Public License 2.0", kCopyleft, {}},
    {"EUPL-1.2", "European Union Public License 1.2", kNetwork, {}},
    {"FTL", "Freetype Project License", kNamed, {}},
    {"GFDL-1.1-only", "GNU Free Documentation License v1.1 only", kCopyleft, {}},
    {"GFDL-1.1-or-later", "GNU Free Documentation License v1.1 or later", kCopyleft, {}},
    {"GFDL-1.2-no-invariants-only", "GNU Free Documentation License v1.2 only, no invariants", kCopyleft, {}},
    {"GFDL-1.2-no-invariants-or-later", "GNU Free Documentation License v1.2 or later, no invariants", kCopyleft, {}},
    {"GFDL-1.2-only", "GNU Free Documentation License v1.2 only", kCopyleft, {}},
    {"GFDL-1.2-or-later", "GNU Free Documentation License v1.2 or later", kCopyleft, {}},
    {"GFDL-1.3-no-invariants-only", "GNU Free Documentation License v1.3 only, no invariants", kCopyleft, {}},
    {"GFDL-1.3-no-invariants-or-later", "GNU Free Documentation License v1.3 or later, no invariants", kCopyleft, {}},
    {"GFDL-1.3-only", "GNU Free Documentation License v1.3 only", kCopyleft, {}},
    {"GFDL-1.3-or-later", "GNU Free Documentation License v1.3 or later", kCopyleft, {}},
    {"GPL-1.0-only", "GNU General Public License v1.0 only", kCopyleft, {}},
    {"GPL-1.0-or-later", "GNU General Public License v1.0 or later", kCopyleft, {}},
    {"GPL-2.0-only", "GNU General Public License v2.0 only", kCopyleft, {}},
    {"GPL-2.0-or-later", "GNU General Public License v2.0 or later", kCopyleft, {}},
    {"GPL-3.0-only", "GNU General Public License v3.0 only", kCopyleft, {}},
    {"GPL-3.0-or-later", "GNU General Public License v3.0 or later", kCopyleft, {}},
    {"HPND", "Historical Permission Notice and Disclaimer", kNotice, {}},
    {"ICU", "ICU License", kNotice, {}},
    {"ISC", "ISC License", kNotice, {}},
    {"LGPL-2.0-only", "GNU Library General Public License v2 only", kCopyleft, {}},
    {"LGPL-2.0-or-later", "GNU Library General Public License v2 or later", kCopyleft, {}},
    {"LGPL-2.1-only", "GNU Lesser General Public License v2.1 only", kCopyleft, {}},
    {"LGPL-2.1-or-later", "GNU Lesser General Public License v2.1 or later", kCopyleft, {}},
    {"LGPL-3.0-only", "GNU Lesser General Public License v3.0 only", kCopyleft, {}},
    {"LGPL-3.0-or-later", "GNU Lesser General Public License v3.0 or later", kCopyleft, {}},
    // Output may not be used to make models that compete: https://openai.com/policies/terms-of-use/, "What you cannot do".
    {"LicenseRef-OpenAI-terms", "OpenAI terms of use", bits({Duty::no_competing_models, Duty::use_restrictions}), {}},
    {"LicenseRef-deepseek-license",
     "DeepSeek License Agreement 1.0 (output may be used for distillation)",
     bits({Duty::notice, Duty::use_restrictions}),
     {}},
    // "Model Derivatives" takes in models made by transfer of patterns of the output: https://ai.google.dev/gemma/terms,
    // section 1.1.
    {"LicenseRef-gemma", "Gemma Terms of Use", bits({Duty::notice, Duty::use_restrictions, Duty::derivative_by_output}), {}},
    // Section 1.b.v of both: output must not improve any other large language model.
    {"LicenseRef-llama2",
     "Llama 2 Community License",
     bits({Duty::notice, Duty::use_restrictions, Duty::own_family_only, Duty::scale_limit}),
     {}},
    {"LicenseRef-llama3", "Meta Llama 3 Community License",
     bits({Duty::notice, Duty::use_restrictions, Duty::own_family_only, Duty::name_prefix, Duty::built_with, Duty::scale_limit}),
     "Llama 3"},
    {"LicenseRef-llama3.1", "Llama 3.1 Community License", kLlama, "Llama"},
    {"LicenseRef-llama3.2", "Llama 3.2 Community License", kLlama, "Llama"},
    {"LicenseRef-llama3.3", "Llama 3.3 Community License", kLlama, "Llama"},
    {"LicenseRef-llama4", "Llama 4 Community License", kLlama, "Llama"},
    {"LicenseRef-mistral-research",
     "Mistral AI Research License",
     bits({Duty::notice, Duty::non_commercial, Duty::use_restrictions}),
     {}},
    {"LicenseRef-openrail", "OpenRAIL-M", bits({Duty::notice, Duty::use_restrictions}), {}},
    {"LicenseRef-public-domain", "in the public domain, as recorded by its source", 0, {}},
    // Section 4.c: who makes a model with the output displays "Built with Qwen" or "Improved using Qwen".
    {"LicenseRef-qwen", "Tongyi Qianwen / Qwen License Agreement", bits({Duty::notice, Duty::built_with, Duty::scale_limit}),
     "Qwen"},
    {"LicenseRef-qwen-research", "Qwen Research License Agreement", bits({Duty::notice, Duty::built_with, Duty::non_commercial}),
     "Qwen"},
    {"Linux-man-pages-copyleft", "Linux man-pages Copyleft", kCopyleft, {}},
    {"MIT", "MIT License", kNotice, {}},
    {"MIT-0", "MIT No Attribution", 0, {}},
    {"MPL-1.1", "Mozilla Public License 1.1", kCopyleft, {}},
    {"MPL-2.0", "Mozilla Public License 2.0", kCopyleft, {}},
    {"NCSA", "University of Illinois/NCSA Open Source License", kNotice, {}},
    {"NTP", "NTP License", kNotice, {}},
    {"ODC-By-1.0", "Open Data Commons Attribution License v1.0", kNamed, {}},
    {"ODbL-1.0", "Open Data Commons Open Database License v1.0", kNamed | kCopyleft, {}},
    {"OFL-1.1", "SIL Open Font License 1.1", kCopyleft, {}},
    {"OGL-UK-3.0", "Open Government Licence v3.0", kNamed, {}},
    {"OLDAP-2.8", "Open LDAP Public License v2.8", kNotice, {}},
    {"PDDL-1.0", "Open Data Commons Public Domain Dedication & License 1.0", 0, {}},
    {"PSF-2.0", "Python Software Foundation License 2.0", kNotice, {}},
    {"PostgreSQL", "PostgreSQL License", kNotice, {}},
    {"Python-2.0", "Python License 2.0", kNotice, {}},
    {"TCL", "TCL/TK License", kNotice, {}},
    {"UPL-1.0", "Universal Permissive License v1.0", kNotice, {}},
    {"Unicode-3.0", "Unicode License v3", kNotice, {}},
    {"Unlicense", "The Unlicense", 0, {}},
    {"Vim", "Vim License", kCopyleft, {}},
    {"W3C", "W3C Software Notice and License", kNotice, {}},
    {"WTFPL", "Do What The F*ck You Want To Public License", 0, {}},
    {"X11", "X11 License", kNotice, {}},
    {"Zlib", "zlib License", kNotice, {}},
    {"bzip2-1.0.6", "bzip2 and libbzip2 License v1.0.6", kNotice, {}},
    {"curl", "curl License", kNotice, {}},
    {"etalab-2.0", "Etalab Open License 2.0", kNamed, {}},
    {"libpng-2.0", "PNG Reference Library version 2", kNotice, {}},
};
static_assert(std::is_sorted(std::begin(kKnownLicenses), std::end(kKnownLicenses), [](const auto& a, const auto& b) { return a.id < b.id; }));

/// Common spellings other than SPDX's own. Compared without case.
constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"Apache", "Apache-2.0"},
    {"Apache-2", "Apache-2.0"},
    {"apache2", "Apache-2.0"},
    {"Artistic", "Artistic-1.0"},
    {"Artistic-1", "Artistic-1.0"},
    {"Artistic-2", "Artistic-2.0"},
    {"BSD-2", "BSD-2-Clause"},
    {"BSD-3", "BSD-3-Clause"},
    {"BSD-4", "BSD-4-Clause"},
    {"CC0", "CC0-1.0"},
    {"CC-0", "CC0-1.0"},
    {"CC-BY-3", "CC-BY-3.0"},
    {"CC-BY-4", "CC-BY-4.0"},
    {"CC-BY-SA-3", "CC-BY-SA-3.0"},
    {"CC-BY-SA-4", "CC-BY-SA-4.0"},
    {"Expat", "MIT"},
    {"MPL-2", "MPL-2.0"},
    {"PSF", "PSF-2.0"},
    {"Python", "PSF-2.0"},
    {"zlib/libpng", "Zlib"},
    {"public-domain", "LicenseRef-public-domain"},
    {"deepseek", "LicenseRef-deepseek-license"},
    {"deepseek-license", "LicenseRef-deepseek-license"},
    {"gemma", "LicenseRef-gemma"},
    {"llama2", "LicenseRef-llama2"},
    {"llama3", "LicenseRef-llama3"},
    {"llama3.1", "LicenseRef-llama3.1"},
    {"llama3.2", "LicenseRef-llama3.2"},
    {"llama3.3", "LicenseRef-llama3.3"},
    {"llama4", "LicenseRef-llama4"},
    {"mrl", "LicenseRef-mistral-research"},
    {"openai", "LicenseRef-OpenAI-terms"},
    {"openai-terms", "LicenseRef-OpenAI-terms"},
    {"openrail", "LicenseRef-openrail"},
    {"openrail++", "LicenseRef-openrail"},
    {"bigcode-openrail-m", "LicenseRef-openrail"},
    {"bigscience-openrail-m", "LicenseRef-openrail"},
    {"creativeml-openrail-m", "LicenseRef-openrail"},
    {"odbl", "ODbL-1.0"},
    {"odc-by", "ODC-By-1.0"},
    {"pddl", "PDDL-1.0"},
    {"qwen", "LicenseRef-qwen"},
    {"qwen-research", "LicenseRef-qwen-research"},
    {"tongyi-qianwen", "LicenseRef-qwen"},
};
// clang-format on

struct DutyText {
  std::string_view name, meaning;
  bool follows_output;
};
constexpr std::array<DutyText, kDuties> kDutyTexts = {{
    {"notice", "copyright notice and licence text go along", false},
    {"attribution", "the author is named", false},
    {"share-alike", "derived works come under the same licence", false},
    {"network-source", "who uses it over a network gets the source, too", false},
    {"non-commercial", "no commercial use", true},
    {"no-derivatives", "no derived works", false},
    {"use-restrictions", "an acceptable-use policy binds every recipient of the model", true},
    {"name-prefix", "the model's name begins with a word that the terms ask for", true},
    {"built-with", "a text that the terms ask for is displayed", true},
    {"derivative-by-output", "a model trained on the output is a derivative, under the same terms", true},
    {"own-family-only", "output must not improve other publishers' models", true},
    {"no-competing-models", "output must not be used to make competing models", true},
    {"scale-limit", "a licence of its own is needed above a number of users", true},
}};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = char(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

/// GNU licences as Debian writes them: "GPL-2", "GPL-2+", "LGPL-2.1+", "GFDL-NIV-1.3+"; and SPDX's own deprecated "GPL-2.0".
std::string gnu_id(std::string_view name) {
  std::string_view family;
  for (const std::string_view f : {"AGPL-", "LGPL-", "GFDL-", "GPL-"})
    if (lower(name).starts_with(lower(f))) family = f;
  if (family.empty()) return {};
  std::string_view rest = name.substr(family.size());
  std::string middle;
  if (family == "GFDL-" && lower(rest).starts_with("niv-")) {
    middle = "-no-invariants";
    rest.remove_prefix(4);
  }
  const bool later = rest.ends_with('+');
  if (later) rest.remove_suffix(1);
  std::string version(rest);
  if (version.empty() || version.find_first_not_of("0123456789.") != std::string::npos) return {};
  if (version.find('.') == std::string::npos) version += ".0";
  return fmt::format("{}{}{}{}", family, version, middle, later ? "-or-later" : "-only");
}

/// The table's identifier that differs from `id` by case only.
const LicenseTerms* same_but_for_case(std::string_view id) {
  const std::string small = lower(id);
  for (const LicenseTerms& t : kKnownLicenses)
    if (lower(t.id) == small) return &t;
  return nullptr;
}

/// A digest at the end distinguishes names of which only replaced or cut characters differ: an acknowledgement of one licence must not
/// count for another. A blank is a hyphen: both spellings name one licence.
std::string license_ref(std::string_view name) {
  constexpr size_t kMostBytes = 200;
  constexpr std::string_view kPrefix = "LicenseRef-";
  std::string id(kPrefix);
  bool lost = name.size() > kMostBytes;
  for (const char c : name.substr(0, kMostBytes)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-';
    lost |= !plain && c != ' ';
    id += plain ? c : '-';
  }
  if (const LicenseTerms* known = same_but_for_case(id)) return std::string(known->id);
  if (!lost) return id;
  // So short that the whole is read as itself again.
  return fmt::format("{}-{}", id.substr(0, kPrefix.size() + kMostBytes - 9), sha256(name).hex().substr(0, 8));
}

bool is_reference(std::string_view name) {
  return name.starts_with("LicenseRef-") && name.size() > 11 && license_ref(name.substr(11)) == name;
}

/// One licence's name as SPDX spells it.
std::string canonical_id(std::string_view name) {
  if (const LicenseTerms* known = same_but_for_case(name)) return std::string(known->id);
  for (const auto& [alias, id] : kAliases)
    if (lower(alias) == lower(name)) return std::string(id);
  if (const std::string gnu = gnu_id(name); !gnu.empty()) return find_license(gnu) ? gnu : license_ref(name);
  return is_reference(name) ? std::string(name) : license_ref(name);
}

/// Words, commas and parentheses.
std::vector<std::string> tokens_of(std::string_view text) {
  std::vector<std::string> list;
  std::string word;
  const auto flush = [&] {
    if (!word.empty()) list.push_back(std::exchange(word, {}));
  };
  for (const char c : text) {
    if (std::isspace(static_cast<unsigned char>(c))) {
      flush();
    } else if (c == '(' || c == ')' || c == ',') {
      flush();
      list.emplace_back(1, c);
    } else {
      word += c;
    }
  }
  flush();
  return list;
}

/// "and" binds closer than "or"; in Debian's syntax a comma before either makes it the last to bind: "A or B, and C".
class Parser {
 public:
  explicit Parser(std::string_view text) : tokens_(tokens_of(text)) {}

  /// False when the text is no expression.
  bool parse(LicenseExpression& out) { return list(out, 0) && at_ == tokens_.size() && depth_of(out) <= kDeepest; }

 private:
  // What is read must be bounded as it is written: without parentheses in the text, precedence may still put them there.
  static constexpr int kDeepest = 32, kMostLicenses = 250, kMostNested = 100;

  static int depth_of(const LicenseExpression& e) {
    int deepest = 0;
    for (const LicenseExpression& m : e.members) deepest = std::max(deepest, depth_of(m));
    return deepest + 1;
  }
  bool is(std::string_view word, size_t ahead = 0) const {
    return at_ + ahead < tokens_.size() && lower(tokens_[at_ + ahead]) == word;
  }

  bool list(LicenseExpression& out, int depth) {
    if (depth > kMostNested || !any(out, depth)) return false;
    while (is(",")) {
      const bool all = is("and", 1);
      if (!all && !is("or", 1)) return false;
      at_ += 2;
      LicenseExpression next;
      if (!any(next, depth)) return false;
      join(out, std::move(next), all ? LicenseExpression::Kind::all_of : LicenseExpression::Kind::any_of);
    }
    return true;
  }
  bool any(LicenseExpression& out, int depth) {
    if (!all(out, depth)) return false;
    while (is("or")) {
      ++at_;
      LicenseExpression next;
      if (!all(next, depth)) return false;
      join(out, std::move(next), LicenseExpression::Kind::any_of);
    }
    return true;
  }
  bool all(LicenseExpression& out, int depth) {
    if (!one(out, depth)) return false;
    while (is("and")) {
      ++at_;
      LicenseExpression next;
      if (!one(next, depth)) return false;
      join(out, std::move(next), LicenseExpression::Kind::all_of);
    }
    return true;
  }
  bool one(LicenseExpression& out, int depth) {
    if (is("(")) {
      ++at_;
      if (!list(out, depth + 1) || !is(")")) return false;
      ++at_;
      return true;
    }
    if (at_ >= tokens_.size() || is(")") || is(",") || is("and") || is("or") || is("with")) return false;
    const std::string name = tokens_[at_++];
    if ((licenses_ += lower(name) == "perl" ? 2 : 1) > kMostLicenses) return false;
    if (lower(name) == "perl") {  // Debian's short name for a choice
      out.kind = LicenseExpression::Kind::any_of;
      out.members = {{.id = "Artistic-1.0"}, {.id = "GPL-1.0-or-later"}};
      return true;
    }
    out.id = canonical_id(name);
    if (!is("with")) return true;
    // An exception only ever permits more, so what the licence asks for stays right without it.
    std::string exception;
    for (++at_; at_ < tokens_.size() && !is("and") && !is("or") && !is(",") && !is(")"); ++at_)
      if (lower(tokens_[at_]) != "exception") exception += (exception.empty() ? "" : "-") + tokens_[at_];
    return !exception.empty();
  }
  static void join(LicenseExpression& left, LicenseExpression right, LicenseExpression::Kind kind) {
    if (left.kind != kind) left = {kind, {}, {std::move(left)}};
    left.members.push_back(std::move(right));
  }

  std::vector<std::string> tokens_;
  size_t at_ = 0;
  int licenses_ = 0;
};

void collect(const LicenseExpression& e, std::set<std::string>& ids) {
  if (e.kind == LicenseExpression::Kind::one && !e.id.empty()) ids.insert(e.id);
  for (const LicenseExpression& m : e.members) collect(m, ids);
}

}  // namespace

std::string_view duty_name(Duty duty) { return kDutyTexts[size_t(duty)].name; }
std::string_view duty_meaning(Duty duty) { return kDutyTexts[size_t(duty)].meaning; }
bool duty_follows_output(Duty duty) { return kDutyTexts[size_t(duty)].follows_output; }

int duty_index(std::string_view name) {
  int i = 0;
  while (i < kDuties && kDutyTexts[size_t(i)].name != name) ++i;
  return i;
}

std::span<const LicenseTerms> license_table() { return kKnownLicenses; }

const LicenseTerms* find_license(std::string_view id) {
  const auto found = std::lower_bound(std::begin(kKnownLicenses), std::end(kKnownLicenses), id,
                                      [](const LicenseTerms& t, std::string_view i) { return t.id < i; });
  return found != std::end(kKnownLicenses) && found->id == id ? found : nullptr;
}

std::string LicenseExpression::text() const {
  if (kind == Kind::one) return id.empty() ? "NOASSERTION" : id;
  std::string out;
  for (const LicenseExpression& m : members) {
    if (!out.empty()) out += kind == Kind::all_of ? " AND " : " OR ";
    out += m.kind == Kind::one ? m.text() : "(" + m.text() + ")";
  }
  return out;
}

std::vector<std::string> LicenseExpression::ids() const {
  std::set<std::string> all;
  collect(*this, all);
  return {all.begin(), all.end()};
}

LicenseExpression parse_license(std::string_view recorded) {
  const size_t first = recorded.find_first_not_of(" \t\r\n");
  recorded = first == std::string_view::npos ? "" : recorded.substr(first, recorded.find_last_not_of(" \t\r\n") - first + 1);
  const std::string small = lower(recorded);
  if (small.empty() || small == "unspecified" || small == "noassertion" || small == "unknown" || small == "none") return {};
  LicenseExpression out;
  if (Parser(recorded).parse(out)) return out;
  return {.id = license_ref(recorded)};
}

std::string license_url(std::string_view id) {
  const LicenseTerms* known = find_license(id);
  return known && known->listed() ? fmt::format("https://spdx.org/licenses/{}", id) : "";
}

}  // namespace overproof
