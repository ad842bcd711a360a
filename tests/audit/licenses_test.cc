#include "audit/licenses.h"

#include <catch2/catch.hpp>

#include <set>

#include "core/rng.h"

using namespace overproof;

TEST_CASE("licences are read as SPDX and Debian write them") {
  const std::pair<const char*, const char*> cases[] = {
      {"MIT", "MIT"},
      {"mit", "MIT"},
      {"Expat", "MIT"},
      {"GPL-2", "GPL-2.0-only"},
      {"GPL-2+", "GPL-2.0-or-later"},
      {"GPL-2.0", "GPL-2.0-only"},
      {"LGPL-2.1+", "LGPL-2.1-or-later"},
      {"GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"},
      {"AGPL-3", "AGPL-3.0-only"},
      {"GPL-9+", "LicenseRef-GPL-9--6ec6bea3"},
      {"public$Domain", "LicenseRef-public-domain"},  // once found by fuzzing: the reference is another spelling of a known one
      {"BSD-4-clause", "BSD-4-Clause"},
      {"Linux-man-pages-copyleft", "Linux-man-pages-copyleft"},
      {"llama3.1", "LicenseRef-llama3.1"},
      {"LicenseRef-mine", "LicenseRef-mine"},
      {"ncsa", "NCSA"},
      {"Python-2.0", "Python-2.0"},
      {"HPND", "HPND"},
      {"WTFPL", "WTFPL"},
      {"etalab-2.0", "etalab-2.0"},
      {"CC-BY-NC-SA-3.0", "CC-BY-NC-SA-3.0"},
      {"odc-by", "ODC-By-1.0"},
      {"bigscience-openrail-m", "LicenseRef-openrail"},
      {"GPL-1+ or Artistic", "GPL-1.0-or-later OR Artistic-1.0"},
      {"Perl", "Artistic-1.0 OR GPL-1.0-or-later"},
      {"BSD-4-clause and Linux-man-pages-copyleft", "BSD-4-Clause AND Linux-man-pages-copyleft"},
      {"GPL-2+ or Artistic-2 and MIT", "GPL-2.0-or-later OR (Artistic-2.0 AND MIT)"},
      {"GPL-2+ or Artistic-2, and MIT", "(GPL-2.0-or-later OR Artistic-2.0) AND MIT"},
      {"(MIT OR ISC) AND Zlib", "(MIT OR ISC) AND Zlib"},
      {"GPL-2+ with OpenSSL exception", "GPL-2.0-or-later"},
      {"GPL-2.0-or-later WITH Classpath-exception-2.0 OR MIT", "GPL-2.0-or-later OR MIT"},
      {"", "NOASSERTION"},
      {"  unspecified ", "NOASSERTION"},
      {"Some Odd Licence", "LicenseRef-Some-Odd-Licence"},
      {"MIT or", "LicenseRef-MIT-or"},
      {"(MIT", "LicenseRef--MIT-81cb5ffc"},
      {"MIT, ISC", "LicenseRef-MIT--ISC-9b8219f0"},
      {"and", "LicenseRef-and"},
  };
  for (const auto& [recorded, expected] : cases) {
    INFO(recorded);
    const std::string text = parse_license(recorded).text();
    CHECK(text == expected);
    CHECK(parse_license(text).text() == text);  // what was understood once is understood again
  }
}

TEST_CASE("hostile licence names end as one reference") {
  std::string deep(1000, '(');
  CHECK(parse_license(deep + "MIT" + std::string(1000, ')')).kind == LicenseExpression::Kind::one);
  CHECK(parse_license(std::string(1 << 20, 'x')).text().size() < 300);
  std::string many = "MIT";
  for (int i = 0; i < 400; ++i) many += " or MIT";
  CHECK(parse_license(many).text().starts_with("LicenseRef-"));
  for (const char* odd : {"\xff\xfe", "a\nb", "<script>", "\"", "../../etc"}) {
    const std::string text = parse_license(odd).text();
    INFO(text);
    CHECK(text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.") == std::string::npos);
  }
}

TEST_CASE("licences of different names have different references") {
  std::set<std::string> seen;
  const std::vector<std::string> names = {"A&B", "A+B", "A-B", "A B?", "\xe4\xb8\xad", "\xe6\x96\x87", "Libre \xc3\xa9", std::string(300, 'x') + "1", std::string(300, 'x') + "2"};
  for (const std::string& name : names) {
    const std::string text = parse_license(name).text();
    INFO(text);
    CHECK(seen.insert(text).second);
    CHECK(text.size() <= 211);
    CHECK(parse_license(text).text() == text);
  }
  CHECK(parse_license("A-B").text() == "LicenseRef-A-B");  // nothing replaced, nothing added
  CHECK(parse_license("A B").text() == "LicenseRef-A-B");
}

TEST_CASE("whatever was read reads the same when written") {
  const char* words[] = {
      "MIT", "GPL-2+",         "or",  "and", ",", "(", ")", "with", "Perl", "exception", "unspecified", "AND", "OR",
      "x y", "LicenseRef-a_b", "none"};
  Rng rng(1, "licences");
  for (uint64_t i = 0; i < 20000; ++i) {
    std::string text;
    for (uint64_t k = 0; k < 2 + i % 17; ++k) text += std::string(words[rng.below(std::size(words))]) + (k % 3 ? " " : "");
    INFO(text);
    const std::string once = parse_license(text).text();
    REQUIRE(parse_license(once).text() == once);
  }
}

TEST_CASE("the table is sorted, complete and its identifiers are their own spelling") {
  std::set<std::string> seen;
  for (const LicenseTerms& t : license_table()) {
    INFO(t.id);
    CHECK(seen.insert(std::string(t.id)).second);
    CHECK(find_license(t.id) == &t);
    CHECK(parse_license(t.id).text() == t.id);
    CHECK((t.has(Duty::name_prefix) || t.has(Duty::built_with)) == !t.required.empty());
    CHECK(t.duties < 1U << kDuties);
    CHECK(license_url(t.id).empty() != t.listed());
  }
  CHECK(find_license("") == nullptr);
  CHECK(find_license("ZZZ") == nullptr);
  CHECK(license_url("LicenseRef-gemma").empty());
  for (int i = 0; i < kDuties; ++i) {
    CHECK(duty_index(duty_name(Duty(i))) == i);
    CHECK(!duty_meaning(Duty(i)).empty());
  }
  CHECK(duty_index("nothing") == kDuties);
}

TEST_CASE("the duties that follow a model's output are those of its terms") {
  CHECK(find_license("LicenseRef-llama3.1")->has(Duty::name_prefix));
  CHECK(find_license("LicenseRef-gemma")->has(Duty::derivative_by_output));
  CHECK(find_license("LicenseRef-OpenAI-terms")->has(Duty::no_competing_models));
  CHECK(duty_follows_output(Duty::name_prefix));
  CHECK(duty_follows_output(Duty::no_competing_models));
  CHECK_FALSE(duty_follows_output(Duty::share_alike));
  CHECK_FALSE(duty_follows_output(Duty::notice));
}

TEST_CASE("single licences of an expression are listed once, sorted") {
  CHECK(parse_license("MIT and (ISC or MIT) and GPL-2+").ids() == std::vector<std::string>{"GPL-2.0-or-later", "ISC", "MIT"});
  CHECK(parse_license("").ids().empty());
}
