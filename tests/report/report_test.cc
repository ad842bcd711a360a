#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "audit/verify.h"
#include "core/error.h"
#include "core/markdown.h"
#include "records/router_counts.h"
#include "report/drawings.h"
#include "report/render.h"
#include "report/report.h"
#include "tests/audit/synthetic_run.h"
#include "tests/report/reported_run.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

/// Every tag that is opened is closed, in order; void elements and self-closed ones aside.
bool is_balanced(const std::string& html) {
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    const std::string tag = html.substr(at + 1, end - at - 1), name = tag.substr(0, tag.find_first_of(" \n/", 1));
    if (tag[0] == '!' || tag.ends_with('/') || name == "meta" || name == "link") continue;
    if (tag[0] != '/') open.push_back(name);
    else if (open.empty() || "/" + open.back() != tag) return false;
    else open.pop_back();
  }
  return open.empty();
}

}  // namespace

TEST_CASE("a report shows the whole run, needs no other file and is the same bytes twice") {
  const SyntheticRun run;
  CHECK(audit_report({}, run.path()).exit_code == 0);
  const std::string page = read_file(run.path() / "report.html");
  for (const ArtifactNode& node : load_run(run.path(), VerifyFiles::no, nullptr).nodes)
    CHECK_THAT(page, Contains(">" + node.name + "</text>"));
  CHECK_THAT(page, Contains("Files and signatures hold; ") && Contains("20.250") && Contains("71.0\u00a0%") && Contains("GPL-2+") &&
                       Contains("Apache-2.0"));
  CHECK_THAT(page, Contains("student: losses, nats per token") && Contains("layer 2, expert 1: 2.00 of the mean"));
  CHECK_THAT(page, Contains("prefers-color-scheme:dark") && Contains("default-src 'none'"));
  for (const char* reach : {"<script", "http:", "https:", "url(", "@import", "style=\""})
    CHECK(page.find(reach) == std::string::npos);
  CHECK(is_balanced(page));
  const Report report = gathered(run.path());
  CHECK(report_html(report) == page);
  CHECK(report_markdown(report) == report_markdown(gathered(run.path())));
  CHECK(report_json(report) == report_json(gathered(run.path())));
  for (const ReportFormat format : {ReportFormat::json, ReportFormat::markdown}) {
    ReportConfig config;
    config.format = format;
    CHECK(audit_report(config, run.path()).exit_code == 0);
  }
  CHECK(Json::parse(read_file(run.path() / "report.json")) == report_json(report));
  CHECK(read_file(run.path() / "report.md") == report_markdown(report));
}

TEST_CASE("a report compares sizes with the teacher in bf16, and names what is larger") {
  const SyntheticRun run;
  const auto with = [&](int64_t bytes) {
    write_text(run.path() / "evaluation/evaluation.json",
               Json{{"models",
                     {{{"name", "teacher"}, {"bytes", 98'400'000}, {"parameters", 134'515'008}},
                      {{"name", "int8"}, {"bytes", bytes}, {"parameters", 163'050'000}}}}}
                   .dump());
    run.seal("evaluation", "evaluate", "evaluated", {{"teacher", "teacher"}, {"corpus", "corpus"}, {"int8", "int8"}});
    const Report r = gathered(run.path());
    CHECK(report_json(r)["quality"][0]["models"][0]["parameters"] == 134'515'008);
    return report_markdown(r);
  };
  const std::string large = with(335'800'000), small = with(165'900'000);
  CHECK_THAT(large, Contains("size / teacher in bf16") && Contains("0.37") && Contains("1.25") &&
                        Contains("Larger than the teacher in bf16"));
  CHECK_THAT(small, Contains("0.62") && !Contains("Larger than the teacher"));
}

TEST_CASE("a row of an evaluation names the artifact in the slot") {
  const SyntheticRun run;
  run.seal("evaluation", "evaluate", "evaluated", {{"teacher", "teacher"}, {"corpus", "corpus"}, {"int8", "calibrated"}});
  const Report r = gathered(run.path());
  CHECK_THAT(report_markdown(r), Contains("int8, which is calibrated"));
  CHECK(report_json(r)["quality"][0]["models"][1]["artifact"] == "calibrated");
}

TEST_CASE("router counts are proved by a replay that ended with them") {
  const SyntheticRun run;
  const Key auditor = Key::generate();
  Json student = replay_result(true), calibrated = student;
  student["router_counts"] = calibrated["router_counts"] = "equal";
  student["files_equal"] = calibrated["files_equal"] = 5;
  calibrated["artifact"] = "calibrated";
  const auto experts = [&] { return claim(gathered(run.path(), {false, auditor.public_key()}), "experts"); };
  CHECK(experts().status == ClaimStatus::recorded);
  record(run, "replay-student.json", "replay", {"student"}, student, auditor);
  CHECK(experts().status == ClaimStatus::recorded);
  CHECK_THAT(experts().how, Contains("calibrated") && !Contains("student"));
  record(run, "replay-calibrated.json", "replay", {"calibrated"}, calibrated, auditor);
  CHECK(experts().status == ClaimStatus::audited);
  CHECK_THAT(claim(gathered(run.path(), {false, auditor.public_key()}), "training-student").how,
             Contains("Configuration, tokenizer and templates next to the weights were made again"));
  record(run, "replay-student.json", "replay", {"student"}, replay_result(true), auditor);
  CHECK_THAT(claim(gathered(run.path(), {false, auditor.public_key()}), "training-student").how,
             Contains("The files next to the weights were not compared"));
}

TEST_CASE("the model of a report gathers teacher, texts, models and measurements") {
  const SyntheticRun run;
  const Report r = gathered(run.path());
  REQUIRE(r.origins.size() == 1);
  CHECK(r.origins[0].name == "Tiny <teacher> & co");
  CHECK(r.origins[0].teaches);
  CHECK(r.origins[0].license.spdx == "Apache-2.0");
  CHECK(r.origins[0].license.duties == std::vector<std::string>{"notice"});
  REQUIRE(r.corpora.size() == 1);
  CHECK(r.corpora[0].facts.total.documents == 3);
  CHECK(r.corpora[0].facts.licenses[0].recorded == "GPL-2+");  // most text first
  CHECK(report_license(r.corpora[0].facts.licenses[0].recorded).spdx == "GPL-2.0-or-later");
  CHECK_FALSE(report_license(r.corpora[0].facts.licenses[1].recorded).known);
  std::set<std::string> ends;
  for (const ReportArtifact& a : r.artifacts)
    if (a.is_end) ends.insert(a.name);
  CHECK(ends == std::set<std::string>{"int8", "static-init"});  // being measured makes nothing of a model
  REQUIRE(r.quality.size() == 1);
  CHECK(r.quality[0].facts.models[1].top1_agreement == 0.71);
  CHECK(claim(r, "files-unchanged").status == ClaimStatus::proved);
  CHECK(claim(r, "signer").status == ClaimStatus::recorded);
  CHECK(claim(r, "training-student").status == ClaimStatus::unchecked);
  CHECK(claim(r, "document-origin").status == ClaimStatus::recorded);
  CHECK(std::ranges::none_of(r.claims, [](const ReportClaim& c) { return c.id == "kinship"; }));  // no other model is in question

  write_text(run.path() / "key.pub", run.key.public_key().pem());
  const Report sure = gather_report(verify_run(run.path(), {(run.path() / "key.pub").string()}), {true, {}});
  CHECK(claim(sure, "signer").status == ClaimStatus::proved);
}

TEST_CASE("what an auditor found counts as far as the auditor is trusted") {
  const SyntheticRun run;
  const Key auditor = Key::generate();
  record(run, "replay-student.json", "replay", {"student"}, replay_result(true), auditor);
  const auto status = [&](const ReportTrust& trust, const char* id = "training-student") {
    return claim(gathered(run.path(), trust), id).status;
  };
  const ReportTrust trust{false, auditor.public_key()}, other{false, Key::generate().public_key()};

  CHECK(status(trust) == ClaimStatus::sampled);
  CHECK_THAT(claim(gathered(run.path(), trust), "training-student").how, Contains("9.8\u00a0%"));
  CHECK(status({}) == ClaimStatus::recorded);  // a maker can write records with fresh keys
  CHECK(status(other) == ClaimStatus::unchecked);
  CHECK(gathered(run.path(), other).audits.list[0].status == RecordStatus::forged);

  record(run, "replay-student.json", "replay", {"student"}, replay_result(true, 10), auditor);
  CHECK(status(trust) == ClaimStatus::audited);

  // One replay that found something outweighs one that did not draw it, but only if its signer is trusted.
  record(run, "replay-other.json", "replay", {"student"}, replay_result(false), auditor);
  CHECK(status(trust) == ClaimStatus::failed);
  CHECK(status({}) == ClaimStatus::unchecked);
  record(run, "replay-other.json", "replay", {"student"}, replay_result(false), Key::generate());
  CHECK(status(trust) == ClaimStatus::audited);

  record(run, "replay-maker.json", "replay", {"student"}, replay_result(true), run.key);
  CHECK(gathered(run.path()).audits.list[0].by_maker);
}

TEST_CASE("a draw whose seed could be known beforehand is no random one, and the last segment is not of the draw") {
  const SyntheticRun run;
  const Key auditor = Key::generate();
  const ReportTrust trust{false, auditor.public_key()};
  const auto claimed = [&](const Json& result) {
    record(run, "replay-student.json", "replay", {"student"}, result, auditor);
    return claim(gathered(run.path(), trust), "training-student");
  };
  for (const char* seed : {"", "00", "5f2c"}) {
    const ReportClaim c = claimed(replay_result(true, 2, 10, seed));
    CHECK(c.status == ClaimStatus::unchecked);
    CHECK_THAT(c.how, Contains("could be known beforehand"));
  }
  CHECK(claimed(replay_result(true, 10, 10, "00")).status == ClaimStatus::audited);  // all were made: nothing was drawn
  Json result = replay_result(true, 3);
  result["segments"][2]["drawn"] = false;
  const ReportClaim c = claimed(result);
  CHECK(c.status == ClaimStatus::sampled);
  CHECK_THAT(c.how, Contains("2 of 10 segments, drawn at random, and the last were repeated"));
  result["segments"][2]["equal"] = false;
  CHECK(claimed(result).status == ClaimStatus::failed);
}

TEST_CASE("who signed is one question, what holds is another") {
  const SyntheticRun run;
  write_text(run.path() / "key.pub", run.key.public_key().pem());
  const auto signer = [&] {
    return claim(gather_report(verify_run(run.path(), {(run.path() / "key.pub").string()}), {true, {}}), "signer").status;
  };
  CHECK(signer() == ClaimStatus::proved);
  SECTION("a false statement, and a changed file, are signed all the same") {
    run.seal("soft-targets", "teach", "taught", {{"teacher", "teacher"}, {"corpus", "statistics"}});
    write_text(run.path() / "int8/model.safetensors", "other weights");
    CHECK_FALSE(verify_run(run.path(), {}).holds());
    CHECK(signer() == ClaimStatus::proved);
  }
  SECTION("an artifact of a stranger is not") {
    const Lineage lineage = *open_artifact(run.path() / "int8", VerifyFiles::no, nullptr);
    seal_artifact(run.path() / "int8", lineage.files, lineage, Key::generate());
    CHECK(signer() == ClaimStatus::failed);
  }
  SECTION("nor is a folder without signatures") {
    write_text(run.path() / "more/model.safetensors", "m");
    CHECK(signer() == ClaimStatus::failed);
  }
}

TEST_CASE("recorded rows are never called re-derivable") {
  SyntheticRun run;
  run.evidence = "recorded";
  run.write_targets();
  const auto seal = [&](Json metrics, Json student_metrics) {
    run.seal("soft-targets", "teach", "taught", {{"teacher", "teacher"}, {"corpus", "corpus"}}, {{"draws", 50}}, std::move(metrics));
    run.seal("student", "distill", "distilled-from", {{"student", "student-init"}, {"targets", "soft-targets"}, {"corpus", "corpus"}},
             {{"steps", run.kSteps}, {"batch-size", run.kBatch}}, std::move(student_metrics));
    run.seal("calibrated", "calibrate", "calibrated-from", {{"student", "student"}, {"teacher", "teacher"}, {"corpus", "corpus"}});
    run.seal("int8", "quantize", "quantized-from", {{"model", "calibrated"}});
    run.seal("evaluation", "evaluate", "evaluated", {{"teacher", "teacher"}, {"corpus", "corpus"}, {"int8", "int8"}}, Json::object(),
             read_json(run.path() / "evaluation/evaluation.json"));
  };
  const auto fails_with = [&](const std::string& what) {
    const Verification v = verify_run(run.path(), {});
    return std::ranges::any_of(v.findings, [&](const Finding& f) {
      return f.severity == Severity::failure && f.what.find(what) != std::string::npos;
    });
  };
  seal({{"evidence", "recorded"}}, {{"evidence", "recorded"}});
  CHECK(verify_run(run.path(), {}).holds());
  const Key auditor = Key::generate();
  record(run, "rows.json", "rows", {"soft-targets"},
         {{"holds", true}, {"mode", "drawn"}, {"seed", "5f2c9a41"}, {"rows_total", 9}, {"rows", {1, 2}}, {"rows_equal", 2}}, auditor);
  const Report r = gathered(run.path(), {false, auditor.public_key()});
  CHECK(claim(r, "rows-soft-targets").status == ClaimStatus::recorded);
  CHECK_THAT(claim(r, "rows-soft-targets").how, Contains("No audit can compute them again"));
  CHECK(claim(r, "rows-soft-targets").command.empty());
  // The statement claims otherwise, or nothing; or the student's does.
  seal({{"evidence", "re-derivable"}}, Json::object());
  CHECK(fails_with("states that its rows are recorded, which the statement denies"));
  seal(Json::object(), Json::object());
  CHECK(fails_with("states that its rows are recorded, which the statement denies"));
  seal({{"evidence", "recorded"}}, {{"evidence", "re-derivable"}});
  CHECK(fails_with("calls its teacher's outputs re-derivable, but those in 'soft-targets' are recorded"));
}

TEST_CASE("rows that were asked of the teacher again count when chance drew them") {
  const SyntheticRun run;
  const Key auditor = Key::generate();
  const ReportTrust trust{false, auditor.public_key()};
  const auto asked = [&](const char* file, const char* mode, bool equal, const Key& key, const Json& seed = "2026112401") {
    record(run, file, "rows", {"soft-targets"},
           {{"holds", equal},
            {"mode", mode},
            {"seed", seed},
            {"rows_total", 1000},
            {"rows", {3, 700}},
            {"rows_equal", equal ? 2 : 1},
            {"differing", equal ? Json::array() : Json{700}},
            {"odds", {{{"forged_fraction", 0.05}, {"caught_at_least", 0.0975}}}},
            {"faults", Json::array()}},
           key);
    return claim(gathered(run.path(), trust), "rows-soft-targets");
  };
  CHECK(claim(gathered(run.path(), trust), "rows-soft-targets").status == ClaimStatus::unchecked);
  CHECK(asked("rows-a.json", "asked", true, auditor).status == ClaimStatus::unchecked);
  for (const Json& seed : {Json(0), Json(20261124), Json("0"), Json()})
    CHECK(asked("rows-a.json", "drawn", true, auditor, seed).status == ClaimStatus::unchecked);
  fs::remove(run.path() / kAuditFolder / "rows-a.json");
  const ReportClaim sampled = asked("rows-b.json", "drawn", true, auditor);
  CHECK(sampled.status == ClaimStatus::sampled);
  CHECK_THAT(sampled.how, Contains("2 of 1000 rows") && Contains("9.8\u00a0%"));
  CHECK(claim(gathered(run.path()), "rows-soft-targets").status == ClaimStatus::recorded);  // the reader named no key
  CHECK(asked("rows-c.json", "drawn", false, Key::generate()).status == ClaimStatus::sampled);
  CHECK(asked("rows-d.json", "drawn", false, auditor).status == ClaimStatus::failed);
  const std::string page = report_html(gathered(run.path(), trust));
  CHECK_THAT(page, Contains("row 700 differs from the teacher&apos;s output") && Contains("2026112401"));
  CHECK(is_balanced(page));
}

TEST_CASE("a report trusts the keys that rotations lead to") {
  const SyntheticRun run;
  const Key old_key = Key::generate(), stranger = Key::generate();
  write_text(run.path() / "old.pub", old_key.public_key().pem());
  write_text(run.path() / "rotation.json", make_rotation(old_key, run.key));
  write_text(run.path() / "elsewhere.json", make_rotation(old_key, stranger));
  ReportConfig config;
  config.format = ReportFormat::json;
  config.out = "-";
  const auto status = [&](const char* rotations, int code) {
    config.verify.trust.public_key = run.path() / "old.pub";
    config.verify.trust.rotations.clear();
    if (*rotations) config.verify.trust.rotations = {(run.path() / rotations).string()};
    const Answer answer = audit_report(config, run.path());
    CHECK(answer.exit_code == code);
    const Json report = Json::parse(answer.text);
    CHECK(answer.json["report"] == report);
    for (const Json& c : report["claims"])
      if (c["id"] == "signer") return c["status"].get<std::string>();
    return std::string();
  };
  CHECK(status("rotation.json", 0) == "proved");
  CHECK(status("", 4) == "failed");
  CHECK(status("elsewhere.json", 4) == "failed");
  config.verify.trust.public_key.clear();
  config.verify.trust.rotations = {(run.path() / "rotation.json").string()};
  CHECK_THROWS_AS(audit_report(config, run.path()), UsageError);
}

TEST_CASE("a record about other files, one that was changed, and one that is no record do not count") {
  const SyntheticRun run;
  const Key auditor = Key::generate();
  const ReportTrust trust{false, auditor.public_key()};
  record(run, "replay-student.json", "replay", {"student"}, replay_result(true), auditor);
  const fs::path file = run.path() / kAuditFolder / "replay-student.json";

  std::string text = read_file(file);
  const size_t payload = text.find("\"payload\":\"") + 11;
  text[payload + 200] = text[payload + 200] == 'A' ? 'B' : 'A';
  write_file_atomically(file, text);
  Report r = gathered(run.path(), trust);
  CHECK_FALSE(r.audits.list.at(0).counts());
  CHECK(claim(r, "training-student").status == ClaimStatus::unchecked);

  write_text(run.path() / kAuditFolder / "a.json", "[1, 2");
  write_text(run.path() / kAuditFolder / "b.txt", "not looked at");
  r = gathered(run.path(), trust);
  CHECK(r.audits.list.at(0).status == RecordStatus::unreadable);
  CHECK(r.audits.list.at(0).why.find(run.path().string()) == std::string::npos);
  CHECK(r.audits.list.size() == 2);

  record(run, "replay-student.json", "replay", {"student"}, replay_result(true), auditor);
  CHECK(claim(gathered(run.path(), trust), "training-student").status == ClaimStatus::sampled);
  write_text(run.path() / "student/model.safetensors", std::string(2000, 'S'));
  run.seal("student", "distill", "distilled-from",
           {{"student", "student-init"}, {"targets", "soft-targets"}, {"corpus", "corpus"}});
  r = gathered(run.path(), trust);
  CHECK(r.audits.list.at(1).status == RecordStatus::elsewhere);
  CHECK(claim(r, "training-student").status == ClaimStatus::unchecked);
}

TEST_CASE("a report contains what was made again, compared and otherwise audited") {
  const SyntheticRun run;
  const Key auditor = Key::generate();
  const auto item = [&](const char* name, const char* status) {
    return Json{{"artifact", name},
                {"stage", "s"},
                {"root", "sha256:" + run.root(name).hex()},
                {"status", status},
                {"details", {"model.safetensors: <other>"}}};
  };
  Json stale = item("student-init", "equal");
  stale["root"] = "sha256:" + std::string(64, '0');
  record(run, "recompute-run.json", "recompute", {"int8", "statistics", "student-init"},
         {{"holds", false},
          {"artifacts", {item("int8", "equal"), item("statistics", "differs"), stale, 7}},
          {"notes", {"another <build>"}}},
         auditor);
  record(run, "compare-x.json", "compare", {"student", "int8"},
         {{"a", {{"name", "student"}}},
          {"b", {{"name", "x|y"}}},
          {"tests",
           {{{"name", "committed-order"},
             {"ran", true},
             {"null_hypothesis", "independent"},
             {"statistic", "rho"},
             {"value", -0.2},
             {"p_value", 0.0},
             {"log10_p", -331.5},
             {"p_kind", "exact"},
             {"cannot_show", "who taught"},
             {"computed_on", "9 windows"},
             {"details", {{"monte_carlo_p", 0.001}}}},
            {{"name", "radioactivity"}, {"ran", false}, {"not_run", "no key"}},
            3}}},
         auditor);
  record(run, "checkpoint-corpus.json", "checkpoint", {"corpus"}, {{"note_key", "k+1"}, {"trees", {{"log", {{"size", 3}}}}}},
         auditor);
  const Report r = gathered(run.path(), {false, auditor.public_key()});
  CHECK(claim(r, "derived-equal").claim == "‘int8’ is exactly what the stated parents and options produce.");
  CHECK(claim(r, "derived-differs").status == ClaimStatus::failed);
  CHECK_THAT(claim(r, "derived-open").claim, Contains("student-init"));  // the record is about other files
  CHECK(claim(r, "kinship").status == ClaimStatus::estimated);
  REQUIRE(r.audits.compares.size() == 1);
  CHECK(r.audits.compares[0].tests[0].p_value == "3.2e-332");
  CHECK(r.audits.compares[0].tests[1].not_run == "no key");
  CHECK(r.audits.others.at(0).values.at(1) == std::pair<std::string, std::string>("trees.log.size", "3"));
  const std::string page = report_html(r), text = report_markdown(r);
  CHECK_THAT(page, Contains("3.2e-332") && Contains("who taught") && Contains("&lt;other&gt;") &&
                       Contains("not the artifact that is here now"));
  CHECK_THAT(text, Contains("**3.2e-332**") && Contains("x\\|y") && Contains("&lt;build&gt;"));
  CHECK(is_balanced(page));
}

TEST_CASE("experts by source come from the router counts, as audit impact reads them") {
  const SyntheticRun run;
  add_router_counts_to(run);
  const Report r = gathered(run.path());
  const auto found =
      std::find_if(r.experts.begin(), r.experts.end(), [](const ReportExperts& x) { return x.artifact == "student"; });
  REQUIRE(found != r.experts.end());
  const ReportExperts& e = *found;
  CHECK(e.tokens == 400);
  CHECK(e.sources[0].name == "books");
  const ReportExpert& first = e.layer[0][0];
  CHECK(first.tokens == 100);
  CHECK(first.sources[0].source == "<img src=x>");
  CHECK(first.sources[0].mass == 0.8);
  CHECK(first.sources[0].lift == Approx(3.2));  // 0.8 over 100 of 400
  const std::string page = report_html(r);
  CHECK_THAT(page, Contains("&lt;img src=x&gt;") && Contains("layer 0, expert 0") && Contains("3.20"));
  CHECK(page.find("<img") == std::string::npos);
  CHECK(report_markdown(r).find("<img") == std::string::npos);
}

TEST_CASE("texts from files are escaped") {
  const SyntheticRun run;
  const Report report = gathered(run.path());
  const std::string page = report_html(report);
  CHECK_THAT(page, Contains("Tiny &lt;teacher&gt; &amp; co") && Contains("&lt;b&gt;MIT&lt;/b&gt;"));
  CHECK(page.find("<b>MIT") == std::string::npos);
  CHECK(report_markdown(report).find("<b>MIT") == std::string::npos);
  CHECK(shown(std::string(5000, 'x')).size() == 2003);
  CHECK(shown(std::string(1999, 'x') + "\u00e9") == std::string(1999, 'x') + "…");  // never half a character
  CHECK(grouped(1234567) == "1,234,567");
  CHECK(grouped(-123) == "-123");
  CHECK(p_value_text(std::log10(0.21)) == "0.21");
  CHECK(p_value_text(-21.51) == "3.1e-22");
  CHECK(p_value_text(-20.00001) == "1.0e-20");
}

TEST_CASE("a report of a run that does not hold begins with that, and the exit code is 4") {
  const SyntheticRun run;
  write_text(run.path() / "int8/<img src=x>", "x");
  write_text(run.path() / "student/steps.jsonl", "{\"loss\": 1}\nnot json\n");
  write_text(run.path() / "evaluation/evaluation.json", R"({"models":[{"name":7,"perplexity":"x"},3]})");
  CHECK(audit_report({}, run.path()).exit_code == 4);
  const std::string page = read_file(run.path() / "report.html");
  CHECK_THAT(page,
             Contains("This run does not hold") && Contains("class=\"box bad\"") && Contains("not listed in the statement"));
  CHECK(page.find("<img") == std::string::npos);
  CHECK(is_balanced(page));
  const Report r = gathered(run.path());
  CHECK(claim(r, "files-unchanged").status == ClaimStatus::failed);
  CHECK(claim(r, "order").status == ClaimStatus::proved);  // what was changed has no part in it
  CHECK(r.left_out == std::vector<std::string>{"student", "int8", "evaluation"});
  CHECK(r.quality.empty());  // nothing is shown that is not what was signed
  for (const ReportTraining& t : r.training) CHECK(t.artifact != "student");
}

TEST_CASE("a claim does not exceed its check") {
  const SyntheticRun run;
  write_text(run.path() / "corpus/texts/one.txt", "another text");
  Report r = gathered(run.path());
  CHECK(claim(r, "order").status == ClaimStatus::unchecked);
  CHECK_THAT(claim(r, "order").how, Contains("the files of ‘corpus’ are not the signed ones"));
  CHECK(claim(r, "inputs-here").status == ClaimStatus::failed);
  fs::remove_all(run.path() / "teacher");
  r = gathered(run.path());
  CHECK_THAT(claim(r, "inputs-here").how, Contains("are missing"));
  CHECK(claim(r, "order").status == ClaimStatus::unchecked);
}

TEST_CASE("a committed corpus can prove presence and absence, unless the verification could not look") {
  const SyntheticRun run;
  Report r = gathered(run.path());
  for (const bool committed : {false, true}) {
    r.claims.clear();
    r.corpora.at(0).facts.committed = committed;
    judge_claims(r);
    CHECK(claim(r, "documents-corpus").status == (committed ? ClaimStatus::proved : ClaimStatus::recorded));
  }
  CHECK_THAT(claim(r, "order").how, Contains("because no public randomness"));
  r.claims.clear();
  r.beacons = {"drand 4711"};
  judge_claims(r);
  CHECK_THAT(claim(r, "order").how, Contains("(drand 4711)"));
  r.claims.clear();
  r.findings.push_back({Severity::note, "corpus", "", "its commitment is salted and was not checked", ""});
  judge_claims(r);
  CHECK(claim(r, "documents-corpus").status == ClaimStatus::unchecked);
}

TEST_CASE("signed files of any shape make a page") {
  const SyntheticRun run;
  write_text(run.path() / "calibrated/steps.jsonl", "{\"loss\": 1}\nnot json\n");
  run.seal("calibrated", "calibrate", "calibrated-from", {{"student", "student"}, {"teacher", "teacher"}, {"corpus", "corpus"}});
  run.seal("int8", "quantize", "quantized-from", {{"model", "calibrated"}});
  write_text(run.path() / "evaluation/evaluation.json",
             R"({"tokens":"x","models":[{"name":7,"perplexity":"x"},3,{"name":"\u0000|`"}]})");
  run.seal("evaluation", "evaluate", "evaluated", {{"teacher", "teacher"}, {"corpus", "corpus"}, {"int8", "int8"}}, Json::object(),
           read_json(run.path() / "evaluation/evaluation.json"));
  fs::create_directories(run.path() / "static-init/routing");
  write_text(run.path() / "static-init/routing/router_counts.safetensors", "no tensors");
  const auto seal_static = [&](const Json& config, const Json& metrics) {
    run.seal("static-init", "prune", "pruned-from", {{"teacher", "teacher"}, {"statistics", "statistics"}}, config, metrics);
    return gathered(run.path());
  };
  // A signed value of the wrong type is a finding that names file and member; the artifact's facts are left out.
  const Report broken =
      seal_static({{"license", {1, 2}}}, {{"expert_load", {{1, "x"}, 3, {-1e308, 1e308}}},
                                          {"policy", {{"items", {{{"state", "acknowledged"}, {"name", "GPL-3.0-only"}}, 1}}}},
                                          {"ffn_activation", "x"}});
  CHECK(broken.holds);
  CHECK(broken.acknowledged.empty());
  CHECK_THAT(report_html(broken), Contains("static-init/claims.jsonl: &apos;metrics.ffn_activation&apos; is not"));
  const Report r =
      seal_static(Json::object(), {{"policy", {{"items", {{{"state", "acknowledged"}, {"name", "GPL-3.0-only"}}}}}}});
  CHECK(r.holds);
  CHECK(r.acknowledged == std::vector<std::string>{"static-init: GPL-3.0-only"});
  const std::string page = report_html(r);
  CHECK(is_balanced(page));
  CHECK(page.find(">nan") == std::string::npos);
  CHECK_THAT(page, Contains("cannot be read as router counts"));
  CHECK(report_json(r)["holds"] == true);
  CHECK_FALSE(report_markdown(r).empty());
}

TEST_CASE("a report about one artifact is written next to it, never into it") {
  const SyntheticRun run;
  CHECK(audit_report({}, run.path() / "int8").exit_code == 0);
  CHECK(fs::exists(run.path() / "int8-report.html"));
  CHECK(verify_run(run.path() / "int8", {}).holds());
  ReportConfig config;
  config.out = (run.path() / "int8/report.html").string();
  CHECK_THROWS_AS(audit_report(config, run.path()), UsageError);
  config.out = "-";
  config.format = ReportFormat::json;
  const Json json = Json::parse(audit_report(config, run.path() / "int8").text);
  CHECK(json["single"] == true);
  CHECK(json["artifacts"].back()["name"] == "int8");
}

TEST_CASE("long and broken series still draw") {
  Report r;
  r.training.push_back({"student", {{"loss", std::vector<double>(100000, 2.0)}}, {{"balance", {NAN, NAN, NAN}}}, "", {{0, 0}}, ""});
  r.training[0].losses[0].values[5] = NAN;
  const std::string page = report_html(r);
  CHECK(page.size() < 40000);
  CHECK(page.find(">nan") == std::string::npos);
  CHECK(is_balanced(page));
  CHECK_THAT(page, Contains("-title\">student: losses, nats per token</title><desc id=") &&
                       Contains("layer 0, expert 1: 0.00 of the mean"));
  CHECK_FALSE(lines_drawing({{"loss", {}}}));
  CHECK_FALSE(lines_drawing({{"loss", {NAN, NAN, NAN}}}));
  CHECK_FALSE(loads_drawing({}));
}

TEST_CASE("a lineage that is too large to read is not drawn, and a cyclic one does no harm") {
  CHECK_FALSE(lineage_drawing(std::vector<ReportArtifact>(200)));
  CHECK_FALSE(lineage_drawing({}));
  Report r;
  for (int i = 0; i < 3; ++i) {
    ReportArtifact a;
    a.name = std::string(50, 'a') + "<" + std::to_string(i);
    a.made_from = {{"model", "x"}};
    a.parents = {(i + 1) % 3};
    r.artifacts.push_back(a);
  }
  const std::string page = report_html(r);
  CHECK(is_balanced(page));
  CHECK_THAT(page, Contains(std::string(19, 'a') + "…</text>"));
  CHECK(page.find("nan") == std::string::npos);
}

TEST_CASE("names keep their own direction of writing, and nothing in them changes that of the text around") {
  Report r;
  r.title = "\u05d0\u05d1 1\u202e2\u061c3";
  const std::string page = report_html(r);
  CHECK_THAT(page, Contains("‘<bdi>\u05d0\u05d1 1\ufffd2\ufffd3</bdi>’"));
  CHECK_THAT(report_markdown(r), Contains("‘\u05d0\u05d1 1\ufffd2\ufffd3’"));
  r.title = "a</bdi>’<b>‘";
  CHECK(is_balanced(report_html(r)));
  CHECK(report_html(r).find("<b>") == std::string::npos);
}
