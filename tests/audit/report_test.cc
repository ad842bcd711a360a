#include <catch2/catch.hpp>
#include <sstream>

#include "audit/report.h"
#include "audit/report_svg.h"
#include "tests/audit/synthetic_run.h"

using namespace overproof;
using Catch::Contains;

namespace {

/// Every tag that is opened is closed, in order; void elements and self-closed ones aside.
bool is_balanced(const std::string& html) {
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    const std::string tag = html.substr(at + 1, end - at - 1), name = tag.substr(0, tag.find_first_of(" \n/", 1));
    if (tag[0] == '!' || tag.ends_with('/') || name == "meta") continue;
    if (tag[0] != '/') open.push_back(name);
    else if (open.empty() || "/" + open.back() != tag) return false;
    else open.pop_back();
  }
  return open.empty();
}

}  // namespace

TEST_CASE("a report shows the whole run, stands alone and is the same bytes twice") {
  const SyntheticRun run;
  std::ostringstream out;
  CHECK(audit_report({}, run.path(), false, out) == 0);
  const std::string page = read_file(run.path() / "report.html");
  for (const ArtifactNode& node : load_run(run.path(), VerifyFiles::no, nullptr).nodes) CHECK_THAT(page, Contains(">" + node.name + "</text>"));
  CHECK_THAT(page, Contains("Everything holds") && Contains("20.250") && Contains("71.0 %") && Contains("GPL-2+") && Contains("Apache-2.0"));
  CHECK_THAT(page, Contains("student: loss, KL and cross-entropy") && Contains("layer 2, expert 1: 2.00 of the mean"));
  CHECK_THAT(page, Contains("prefers-color-scheme:dark"));
  for (const char* reach : {"<script", "http:", "https:", "url(", "@import"}) CHECK(page.find(reach) == std::string::npos);
  CHECK(is_balanced(page));
  CHECK(report_html(verify_run(run.path(), {}), false) == page);
}

TEST_CASE("what comes from files is escaped") {
  const SyntheticRun run;
  const std::string page = report_html(verify_run(run.path(), {}), false);
  CHECK_THAT(page, Contains("Tiny &lt;teacher&gt; &amp; co") && Contains("&lt;b&gt;MIT&lt;/b&gt;"));
  CHECK(page.find("<b>MIT") == std::string::npos);
  CHECK(escape_html("a\"'<>&") == "a&quot;&#39;&lt;&gt;&amp;");
  CHECK(escape_html("\xff\x01") == "\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_CASE("a report of a run that does not hold says so first, and exits with 4") {
  const SyntheticRun run;
  write_text(run.path() / "int8/<img src=x>", "x");
  write_text(run.path() / "student/steps.jsonl", "{\"loss\": 1}\nnot json\n");
  write_text(run.path() / "evaluation/evaluation.json", R"({"models":[{"name":7,"perplexity":"x"},3]})");
  std::ostringstream out;
  CHECK(audit_report({}, run.path(), false, out) == 4);
  const std::string page = read_file(run.path() / "report.html");
  CHECK_THAT(page, Contains("This run does not hold") && Contains("class=\"box bad\"") && Contains("not listed in the statement"));
  CHECK(page.find("<img") == std::string::npos);
  CHECK(is_balanced(page));
}

TEST_CASE("a report about one artifact stands beside it, not in it") {
  const SyntheticRun run;
  std::ostringstream out;
  CHECK(audit_report({}, run.path() / "int8", false, out) == 0);
  CHECK(fs::exists(run.path() / "int8-report.html"));
  CHECK(audit_verify({}, run.path() / "int8", false, out) == 0);
}

TEST_CASE("long and broken series still draw") {
  std::vector<double> values(100000, 2.0);
  values[5] = NAN;
  const std::string svg = lines_svg("t", {{"loss", values}});
  CHECK(svg.size() < 20000);
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(lines_svg("t", {{"loss", {}}}).empty());
  CHECK(lines_svg("t", {{"loss", {NAN, NAN, NAN}}}).empty());
  CHECK(loads_svg("t", {}).empty());
  CHECK(loads_svg("t", {{0, 0}}).find("nan") == std::string::npos);
}
