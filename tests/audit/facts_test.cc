#include "audit/facts.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cstdint>

#include "audit/diff.h"
#include "audit/eu_summary.h"
#include "audit/policy.h"
#include "audit/sbom.h"
#include "core/error.h"
#include "tests/audit/synthetic_run.h"
#include "tests/support.h"

using namespace overproof;

namespace {

const ArtifactFacts& named(const LineageFacts& facts, const std::string& name) {
  for (const ArtifactFacts& a : facts.artifacts)
    if (a.name == name) return a;
  throw std::runtime_error("no artifact " + name);
}

std::string ways(const LineageFacts& facts, const std::string& of, const std::string& name) {
  const auto all = ways_into(facts, named(facts, of));
  std::string text;
  for (const Way w : all[size_t(&named(facts, name) - facts.artifacts.data())]) text += std::string(way_name(w)) + " ";
  return text;
}

}  // namespace

TEST_CASE("facts are those of the statements") {
  const SyntheticRun run;
  const LineageFacts facts = collect_facts(run.path(), nullptr);
  CHECK(facts.artifacts.size() == 10);
  CHECK(facts.subject == -1);
  CHECK(named(facts, "teacher").title == "Tiny <teacher> & co");
  CHECK(named(facts, "teacher").license == "Apache-2.0");
  CHECK(named(facts, "corpus").role == Role::corpus);
  REQUIRE(named(facts, "corpus").corpus);
  CHECK(named(facts, "corpus").corpus->total.documents == 3);
  CHECK(named(facts, "corpus").corpus->licenses[1].license.text() == "GPL-2.0-or-later");
  CHECK(named(facts, "int8").measured.size() == 6);
  CHECK(facts.ends().size() == 3);  // int8, static-init and the evaluation

  const LineageFacts one = collect_facts(run.path() / "int8", nullptr);
  REQUIRE(one.subject >= 0);
  CHECK(one.ends().size() == 1);
  CHECK(one.title() == "int8");
  CHECK_FALSE(ancestors_missing(one, one.artifacts[size_t(one.subject)]));
}

TEST_CASE("who taught an artifact follows from the lineage kinds, whatever the slot is called") {
  const SyntheticRun run;
  // A second model, whose outputs the student was trained on directly: version 0.1 called that slot "teacher".
  write_text(run.path() / "second/teacher.gguf", std::string(500, 'x'));
  run.seal("second", "import", "imported", {}, {{"license", "MIT"}, {"name", "Second model"}});
  run.seal("student", "distill", "distilled-from",
           {{"student", "student-init"}, {"targets", "soft-targets"}, {"teacher", "second"}, {"corpus", "corpus"}});
  run.seal("calibrated", "calibrate", "calibrated-from", {{"student", "student"}, {"teacher", "teacher"}, {"corpus", "corpus"}});
  run.seal("int8", "quantize", "quantized-from", {{"model", "calibrated"}});
  run.seal("evaluation", "evaluate", "evaluated", {{"teacher", "teacher"}, {"corpus", "corpus"}, {"int8", "int8"}});
  const LineageFacts facts = collect_facts(run.path() / "int8", nullptr);
  const ArtifactFacts &student = named(facts, "student"), &second = named(facts, "second");
  CHECK(student.entering(Entry::outputs).size() == 2);
  CHECK(facts.taught_by(student, second));
  CHECK_FALSE(facts.taught_by(student, named(facts, "teacher")));  // only through the targets
  CHECK(facts.taught_by(named(facts, "soft-targets"), named(facts, "teacher")));
  CHECK(named(facts, "student-init").entering(Entry::outputs).empty());

  SummaryConfig config;
  config.eu = true;
  const std::string summary = audit_summary(config, run.path() / "int8").json.dump();
  CHECK(summary.find("Second model (MIT, sha256:") != std::string::npos);
  CHECK(summary.find("Tiny <teacher> & co (Apache-2.0, sha256:") != std::string::npos);
  const std::string bill = audit_sbom({}, run.path() / "int8").json.dump();
  CHECK(bill.find("answers of the model 'Tiny <teacher> & co' to the corpus") != std::string::npos);
}

TEST_CASE("ways into a model follow the lineage kinds") {
  const SyntheticRun run;
  const LineageFacts facts = collect_facts(run.path(), nullptr);
  CHECK(ways(facts, "int8", "teacher") == "weights outputs tokenizer statistics ");
  CHECK(ways(facts, "int8", "corpus") == "documents statistics ");
  CHECK(ways(facts, "int8", "student") == "weights ");
  CHECK(ways(facts, "int8", "soft-targets") == "outputs ");
  CHECK(ways(facts, "int8", "evaluation").empty());
  CHECK(ways(facts, "int8", "static-init").empty());
  CHECK(ways(facts, "int8", "int8").empty());
  CHECK(ways(facts, "soft-targets", "teacher") == "outputs tokenizer ");
  CHECK(ways(facts, "evaluation", "int8").empty());  // measured, not made of it
}

TEST_CASE("what does not hold is refused, or left out where that is asked for") {
  const SyntheticRun run;
  write_text(run.path() / "corpus/licenses.json", "{}");
  CHECK_THROWS_AS(collect_facts(run.path(), nullptr), ProvenanceError);
  const SyntheticRun other;
  write_text(other.path() / "teacher/teacher.gguf", "other");
  CHECK_THROWS_AS(collect_facts(other.path() / "int8", nullptr), ProvenanceError);
  fs::remove(other.path() / "teacher/model.sig");
  const LineageFacts tolerant = collect_facts(other.path() / "int8", nullptr, {VerifyFiles::no, true});
  CHECK(ancestors_missing(tolerant, tolerant.artifacts[size_t(tolerant.subject)]));
  CHECK_THROWS_AS(collect_facts(other.path() / "teacher", nullptr, {VerifyFiles::no, true}), ProvenanceError);
  const Key stranger = Key::generate();
  CHECK_THROWS_AS(collect_facts(run.path() / "teacher", &stranger.public_key()), ProvenanceError);
}

TEST_CASE("a licence table is read whole, or refused") {
  const auto corpus_with = [](const std::string& table) {
    const SyntheticRun run;
    write_text(run.path() / "corpus/licenses.json", table);
    run.seal("corpus", "corpus", "corpus-of", {{"tokenizer", "teacher"}});
    const LineageFacts facts = collect_facts(run.path() / "corpus", nullptr);
    return *facts.artifacts[size_t(facts.subject)].corpus;
  };
  CHECK(corpus_with("{}").licenses.empty());
  CHECK(corpus_with(R"({"licenses": {}})").total.documents == 0);
  const CorpusFacts partial = corpus_with(R"({"licenses": {"MIT": {"documents": 3}, "ISC": {"documents": 4, "bytes": 9}}})");
  CHECK(partial.total.documents == 7);
  CHECK(partial.total.bytes == 9);
  CHECK(partial.total.tokens == 0);
  // Sums stop where they would overflow: 2^53 is the most of one row.
  std::string rows;
  for (int i = 0; i < 1100; ++i) rows += fmt::format("{}\"L{}\": {{\"bytes\": 9007199254740992}}", i ? ", " : "", i);
  CHECK(corpus_with("{\"licenses\": {" + rows + "}}").total.bytes == INT64_MAX);
  for (const char* wrong :
       {"[]", "{", R"({"licenses": []})", R"({"licenses": {"MIT": 3}})", R"({"licenses": {"MIT": {"documents": -1}}})",
        R"({"licenses": {"MIT": {"bytes": 1.5}}})", R"({"licenses": {"MIT": {"bytes": 1e400}}})",
        R"({"licenses": {"MIT": {"documents": 18446744073709551615}}})", R"({"sources": {"a": []}})"}) {
    INFO(wrong);
    CHECK_THROWS_AS(corpus_with(wrong), FormatError);
  }
}

TEST_CASE("an evaluation's rows belong to the artifacts in their slots") {
  const SyntheticRun run;
  const LineageFacts facts = collect_facts(run.path(), nullptr);
  const ArtifactFacts& evaluation = named(facts, "evaluation");
  REQUIRE(evaluation.evaluation);
  REQUIRE(evaluation.evaluation->models.size() == 2);
  const EvaluatedModel& int8 = evaluation.evaluation->models[1];
  CHECK(facts.artifacts[size_t(int8.artifact)].name == "int8");
  CHECK(int8.perplexity == 20.25);
  CHECK(int8.bytes == 700.0);
  CHECK_FALSE(evaluation.evaluation->tokens);
  CHECK(named(facts, "int8").is_end);
  CHECK_FALSE(named(facts, "calibrated").is_end);
  CHECK(facts.find("student")->inputs.size() == 3);
  CHECK(facts.builders.at("overproof") == std::set<std::string>{"0.1.0"});

  write_text(run.path() / "evaluation/evaluation.json", R"({"models": "int8"})");
  run.seal("evaluation", "evaluate", "evaluated", {{"teacher", "teacher"}, {"corpus", "corpus"}, {"int8", "int8"}});
  CHECK_THROWS_AS(collect_facts(run.path(), nullptr), FormatError);
  const LineageFacts tolerant = collect_facts(run.path(), nullptr, {.tolerate_faults = true});
  REQUIRE(tolerant.left_out.size() == 1);
  CHECK(tolerant.run.nodes[size_t(tolerant.left_out[0].node)].name == "evaluation");
}

TEST_CASE("audit records come with what they are about") {
  const SyntheticRun run;
  const auto record = [&](const std::string& file, const std::vector<AuditSubject>& subjects) {
    write_audit_record(run.path() / kAuditFolder / file, {"replay", subjects, {{"holds", true}}}, run.key);
  };
  record("a.json", {{"student", run.root("student"), run.statement("student")}});
  record("b.json", {{"student", run.root("student"), sha256("another statement")}});
  record("c.json", {{"student", run.root("student")}});
  write_text(run.path() / kAuditFolder / "d.json", "{}");
  CHECK(collect_facts(run.path(), nullptr).audits.empty());
  const LineageFacts facts = collect_facts(run.path(), nullptr, {.audits = true});
  REQUIRE(facts.audits.size() == 4);
  CHECK(facts.audits[0].here == std::vector<std::string>{"student"});
  CHECK(facts.audits[0].not_here.empty());
  CHECK(facts.audits[1].here == std::vector<std::string>{""});
  CHECK_THAT(facts.audits[1].not_here, Catch::Contains("signed anew"));
  CHECK_THAT(facts.audits[2].not_here, Catch::Contains("format 1"));
  CHECK_FALSE(facts.audits[3].unreadable.empty());
}

TEST_CASE("times are checked to the digit") {
  CHECK(document_time("2026-02-28T23:59:59Z") == "2026-02-28T23:59:59Z");
  for (const char* bad : {"2026-02-30T00:00:00Z", "2026-00-10T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z",
                          "2026-1-1T00:00:00Z", "x"})
    CHECK_THROWS_AS(document_time(bad), UsageError);
}

TEST_CASE("UUIDs carry version and variant of RFC 9562") {
  for (const char* text : {"a", "b", "c", "d", "e"}) {
    const std::string uuid = uuid_of(sha256(text));
    CHECK(uuid.size() == 36);
    CHECK(uuid[14] == '8');
    CHECK(std::string("89ab").find(uuid[19]) != std::string::npos);
  }
}

TEST_CASE("documents do not depend on the key or its random signatures") {
  const SyntheticRun a, b;
  const auto bom = [](const SyntheticRun& run) {
    return cyclonedx_bom(collect_facts(run.path() / "int8", nullptr), std::nullopt).dump();
  };
  CHECK(bom(a) == bom(b));
}

TEST_CASE("the difference of a lineage and itself is nothing") {
  const SyntheticRun run;
  const LineageFacts facts = collect_facts(run.path(), nullptr);
  CHECK(lineage_diff(facts, facts)["same"] == true);
  const SyntheticRun other;  // the same bytes under another key
  const Json diff = lineage_diff(facts, collect_facts(other.path(), nullptr));
  CHECK(diff["same"] == false);
  for (const Json& item : diff["changed"]) {
    CHECK(item["fields"].size() == 1);
    CHECK(item["fields"].contains("signer"));
  }
}

TEST_CASE("a policy's verdict names every licence once") {
  const SyntheticRun run;
  const LineageFacts facts = collect_facts(run.path() / "int8", nullptr);
  const ArtifactFacts& of = facts.artifacts[size_t(facts.subject)];
  const PolicyVerdict verdict = judge(facts, &of, default_policy(), {});
  CHECK_FALSE(verdict.holds());
  CHECK(verdict.missing() == std::vector<std::string>{"GPL-2.0-or-later", "LicenseRef--b-MIT--b--631c28d7"});
  CHECK(judge(facts, &of, default_policy(), {"", verdict.missing()}).holds());
  CHECK(judge(facts, nullptr, default_policy(), {}).missing() == std::vector<std::string>{"unknown-ancestry"});
  Policy closed = default_policy();
  closed.licenses["Apache-2.0"] = Action::deny;
  CHECK(judge(facts, &of, closed, {"", {"Apache-2.0"}}).denied());
}
