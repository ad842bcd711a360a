#include "audit/facts.h"

#include <catch2/catch.hpp>

#include <sstream>

#include "audit/diff.h"
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

TEST_CASE("ways into a model follow its edges") {
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

TEST_CASE("a licence table of odd shapes is an error or nothing, never a crash") {
  for (const char* text : {"[]", "{\"licenses\": {}}", "{\"licenses\": {\"MIT\": 3}}",
                           "{\"licenses\": {\"MIT\": {\"documents\": -1, \"bytes\": 1e400}}}", "{\"licenses\": []}", "{",
                           "{\"licenses\": {\"MIT\": {\"documents\": 18446744073709551615}}}"}) {
    const SyntheticRun run;
    write_text(run.path() / "corpus/licenses.json", text);
    run.seal("corpus", "corpus", "corpus-of", {{"tokenizer", "teacher"}});
    try {
      const LineageFacts facts = collect_facts(run.path() / "corpus", nullptr);
      const CorpusFacts& corpus = *facts.artifacts[size_t(facts.subject)].corpus;
      CHECK(corpus.total.documents >= 0);
      CHECK(judge(facts, &facts.artifacts[size_t(facts.subject)], default_policy(), {}).items.size() >= 1);
    } catch (const FormatError&) {
    }
  }
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
  CHECK(verdict.missing() == std::vector<std::string>{"GPL-2.0-or-later", "LicenseRef--b-MIT--b-"});
  CHECK(judge(facts, &of, default_policy(), {"", verdict.missing()}).holds());
  CHECK(judge(facts, nullptr, default_policy(), {}).missing() == std::vector<std::string>{"unknown-ancestry"});
  Policy closed = default_policy();
  closed.licenses["Apache-2.0"] = Action::deny;
  CHECK(judge(facts, &of, closed, {"", {"Apache-2.0"}}).denied());
}
