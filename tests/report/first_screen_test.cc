// What the first screen states, and what the page leaves out.

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "core/error.h"
#include "report/render.h"
#include "report/report.h"
#include "report/view.h"
#include "tests/report/reported_run.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

TEST_CASE("a page is green only when no claim is unchecked, and red when any fails") {
  const SyntheticRun run;
  Report r = gathered(run.path());
  CHECK(r.claims_with(ClaimStatus::unchecked) > 0);
  CHECK(r.verdict() == Verdict::open);
  CHECK_THAT(report_html(r), Contains("class=\"verdict warn\"") && !Contains("class=\"verdict good\"") && !Contains("note good"));
  CHECK_THAT(report_markdown(r), Contains("**Files and signatures hold; ") && Contains("not checked"));
  const std::vector<ReportClaim> all = r.claims;
  std::erase_if(r.claims, [](const ReportClaim& c) { return c.status == ClaimStatus::unchecked; });
  CHECK(r.verdict() == Verdict::holds);
  CHECK_THAT(verdict_text(r), Contains("only recorded"));
  CHECK_THAT(report_html(r), Contains("class=\"verdict good\""));
  r.claims = all;
  r.claims.front().status = ClaimStatus::failed;  // by an auditor whom the reader trusts: the files hold all the same
  CHECK(r.holds);
  CHECK(r.verdict() == Verdict::fails);
  CHECK_THAT(report_html(r), Contains("class=\"verdict bad\"") && Contains("1 claim does not hold"));
  CHECK(report_json(r)["verdict"] == "fails");

  const Key auditor = Key::generate();
  write_text(run.path() / "auditor.pub", auditor.public_key().pem());
  record(run, "replay-student.json", "replay", {"student"}, replay_result(false), auditor);
  ReportConfig config;
  config.out = "-";
  config.format = ReportFormat::markdown;
  CHECK(audit_report(config, run.path()).exit_code == 0);
  config.auditor_key = run.path() / "auditor.pub";
  CHECK(audit_report(config, run.path()).exit_code == 4);
}

TEST_CASE("what the built-in policy requires of final models comes first") {
  const SyntheticRun run;
  const Report r = gathered(run.path());
  std::set<std::string> models;
  for (const ReportShipping& s : r.shipping) {
    models.insert(s.models.begin(), s.models.end());
    CHECK(s.complete);
    for (const ReportTerm& t : s.terms) CHECK_FALSE(t.reached);  // this corpus has a table alone: no order can be computed
  }
  CHECK(models == std::set<std::string>{"int8", "static-init"});
  const auto of = [&](const Report& report, const std::string& model) {
    for (const ReportShipping& s : report.shipping)
      if (std::ranges::count(s.models, model)) return s;
    throw std::logic_error(model);
  };
  const ReportShipping int8 = of(r, "int8");
  CHECK(int8.with(PolicyState::open).front() == "GPL-2.0-or-later");
  CHECK(int8.with(PolicyState::open).size() == 2);
  CHECK(int8.with(PolicyState::allowed) == std::vector<std::string>{"Apache-2.0"});
  const std::string page = report_html(r);
  CHECK_THAT(page, Contains("May this be shipped?") && Contains("2 terms to read and accept first") && Contains("no statement holds a time") &&
                       Contains("which of them training read could not be computed here"));
  CHECK(page.find("May this be shipped?") < page.find("id=\"claims\""));
  CHECK(page.find("What is it?") < page.find("id=\"claims\""));
  const Json json = report_json(r)["shipping"];
  CHECK(json.size() == r.shipping.size());
  CHECK(json[0]["holds"] == false);

  fs::remove_all(run.path() / "teacher");
  const ReportShipping poorer = of(gathered(run.path()), "int8");
  CHECK_FALSE(poorer.complete);
  CHECK_THAT(report_html(gathered(run.path())), Contains("is not here, so there may be more"));
  CHECK(std::ranges::count(poorer.with(PolicyState::open), "unknown-ancestry") == 1);
}

TEST_CASE("no series is drawn that was not computed") {
  const SyntheticRun run;
  const auto training = [&](const std::string& line, int steps) {
    std::string log;
    for (int i = 0; i < steps; ++i) log += line + "\n";
    write_text(run.path() / "student/steps.jsonl", log);
    run.seal("student", "distill", "distilled-from", {{"student", "student-init"}, {"targets", "soft-targets"}, {"corpus", "corpus"}},
             {{"steps", run.kSteps}, {"batch-size", run.kBatch}});
    const Report r = gathered(run.path());
    for (const ReportTraining& t : r.training)
      if (t.artifact == "student") return t;
    throw std::logic_error("no training");
  };
  const auto names = [](const std::vector<StepSeries>& list) {
    std::vector<std::string> all;
    for (const StepSeries& s : list) all.push_back(s.name);
    return all;
  };
  const ReportTraining first = training(R"({"loss":2.5,"kl":2.5,"ce":0,"balance":1})", 3);  // version 1 wrote a zero
  CHECK(names(first.losses) == std::vector<std::string>{"loss"});
  CHECK(first.only_term == "forward-kl");
  CHECK(first.balance.empty());  // a dense model has nothing to balance
  const ReportTraining two = training(R"({"loss":2.5,"terms":{"forward-kl":1.5,"cross-entropy":1},"balance":1.25})", 3);
  CHECK(names(two.losses) == std::vector<std::string>{"loss", "cross-entropy", "forward-kl"});
  CHECK(two.only_term.empty());
  CHECK(names(two.balance) == std::vector<std::string>{"balance"});
}

TEST_CASE("a recovery's errors that its statement does not have are left out") {
  Report r;
  r.recoveries.push_back({"recovered", {{"after", {0.25, NAN}}}, {}});
  const std::string page = report_html(r);
  CHECK_THAT(page, Contains("0.2500"));
  CHECK(page.find("nan") == std::string::npos);
}

TEST_CASE("an expert of few tokens is not among those of one source, and how far experts differ is one number") {
  const SyntheticRun run;
  add_router_counts_to(run);
  Report r = gathered(run.path());
  const auto found = std::ranges::find(r.experts, "student", &ReportExperts::artifact);
  REQUIRE(found != r.experts.end());
  // Layer 0: shares 1/4 and 3/4; expert 0 has 80 of 100 from the first source, expert 1 20 of 300. Layer 1: both as the layer.
  const double by_hand = (0.55 * 100 + (0.25 - 20.0 / 300) * 300) / 800;
  CHECK(found->apart == Approx(by_hand));
  const auto top = [&] {
    const std::string page = report_markdown(r);
    return page.find("| layer 0, expert 0 |") != std::string::npos;
  };
  r.experts = {*found};
  CHECK(top());
  r.experts[0].layer[0][0].tokens = 49;
  CHECK_FALSE(top());
}

TEST_CASE("the lineage is narrow enough for a phone, and its lines lead to what is made from an artifact") {
  std::vector<ReportArtifact> list(30);
  for (size_t i = 0; i < list.size(); ++i) {
    list[i].name = "artifact-" + std::to_string(i);
    list[i].kind = i % 10 == 9 ? "evaluated" : "distilled-from";
    for (const size_t back : {1, 2, 7, 13})
      if (i >= back) list[i].made_from.emplace_back("model", list[i - back].name), list[i].parents.push_back(int(i - back));
  }
  Report r;
  r.artifacts = list;
  const std::string page = report_html(r);
  size_t boxes = 0, lines = 0;
  for (size_t at = 0; (at = page.find("<rect x=\"", at)) != std::string::npos; ++at, ++boxes) {
    const double x = std::stod(page.substr(at + 9));
    CHECK(x + 150 <= 262);  // of 320 pixels, less the margins
  }
  for (size_t at = 0; (at = page.find(" is made from ", at)) != std::string::npos; ++at) ++lines;
  CHECK(boxes == list.size());
  size_t expected = 0;
  for (const ReportArtifact& a : list)
    if (a.kind != "evaluated") expected += a.parents.size();
  CHECK(lines == expected);
}
