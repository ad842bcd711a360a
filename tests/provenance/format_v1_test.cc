// What overproof 0.1 signed (tests/golden/statements_v1) stays readable.

#include <catch2/catch.hpp>

#include <set>

#include "core/error.h"
#include "provenance/audit_record.h"
#include "provenance/claims.h"
#include "provenance/corpus_proof.h"
#include "provenance/key_rotation.h"
#include "provenance/run_folder.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/statements_v1";

Json payload_of(const fs::path& artifact) {
  return Json::parse(read_claims(artifact / "claims.jsonl").front().payload);
}

}  // namespace

TEST_CASE("statements of format 1 are read, with every signature") {
  const PublicKey maker = PublicKey::read(kGolden / "maker.pub");
  const RunFolder run = load_run(kGolden / "run", VerifyFiles::no, &maker);
  std::set<std::string> kinds;
  for (const ArtifactNode& node : run.nodes) {
    INFO(node.name);
    CHECK(node.check.faults.empty());
    REQUIRE(node.lineage());
    const Lineage& lineage = *node.lineage();
    kinds.insert(lineage.kind);
    CHECK(lineage.format == 1);
    CHECK(lineage.name == node.name);
    const Json signed_payload = payload_of(node.path);
    CHECK(lineage.root.hex() == signed_payload["subject"][0]["digest"]["sha256"].get<std::string>());
    CHECK(lineage.config == signed_payload["predicate"]["buildDefinition"]["externalParameters"]);
    CHECK(lineage.metrics == signed_payload["predicate"]["runDetails"]["byproducts"][0]["annotations"]);
    CHECK(lineage.inputs.size() == signed_payload["predicate"]["buildDefinition"]["resolvedDependencies"].size());
    for (const auto& [slot, input] : lineage.inputs) {
      CHECK_FALSE(input.statement);
      CHECK(node.parents.at(slot) >= 0);
    }
  }
  CHECK(kinds == std::set<std::string>{"seeded", "imported", "corpus-of", "indexed", "taught", "observed", "carved-from",
                                       "distilled-from", "pruned-from", "calibrated-from", "quantized-from", "exported-from",
                                       "evaluated"});
  const Key stranger = Key::generate();
  for (const ArtifactNode& node : load_run(kGolden / "run", VerifyFiles::no, &stranger.public_key()).nodes)
    CHECK_FALSE(node.check.faults.empty());
}

TEST_CASE("a drop of experts of format 1 is a pruned-from with its slots") {
  const RunFolder run = load_run(kGolden / "run", VerifyFiles::no, nullptr);
  const ArtifactNode* dropped = run.find("dropped");
  REQUIRE((dropped && dropped->kind()));
  CHECK(dropped->lineage()->kind == "pruned-from");
  CHECK(way_through(*dropped->kind(), "student", Way::weights) == Way::weights);
  CHECK(lineage_sentence(*dropped->kind(), {{"student", "calibrated"}}) == "‘calibrated’ with parts removed.");
}

TEST_CASE("an artifact of format 2 binds its parent of format 1") {
  const TempFolder folder;
  fs::create_directories(folder / "run");
  fs::copy(kGolden / "run/teacher", folder / "run/teacher", fs::copy_options::recursive);
  const Key key = Key::generate();
  const Lineage parent = *check_artifact(folder / "run/teacher", VerifyFiles::no, nullptr).lineage;
  CHECK(parent.statement == sha256(read_claims(folder / "run/teacher/claims.jsonl").front().payload));
  Lineage child;
  child.kind = "quantized-from";
  child.stage = "quantize";
  child.name = "int8";
  child.inputs["model"] = {"teacher", parent.root, parent.statement};
  write_text(folder / "run/int8/weights", "w");
  seal_artifact(folder / "run/int8", scan_artifact(folder / "run/int8").files, child, key);
  CHECK(load_run(folder / "run", VerifyFiles::no, nullptr).find("int8")->check.faults.empty());

  Lineage changed = parent;  // the same files, signed anew with another configuration
  changed.config["seed"] = 2;
  seal_artifact(folder / "run/teacher", parent.files, changed, key);
  const RunFolder run = load_run(folder / "run", VerifyFiles::no, nullptr);
  REQUIRE_FALSE(run.find("int8")->check.faults.empty());
  CHECK_THAT(run.find("int8")->check.faults.front().what, Contains("with statement sha256:" + parent.statement.hex()));
}

TEST_CASE("audit records of format 1 are read, and do not count as being about a statement") {
  const PublicKey auditor = PublicKey::read(kGolden / "auditor.pub");
  const RunFolder run = load_run(kGolden / "run", VerifyFiles::no, nullptr);
  std::set<std::string> kinds;
  for (const fs::path& file : audit_record_files(kGolden / "run/audits")) {
    INFO(file);
    const AuditRecord record = read_audit_record(file, nullptr);
    kinds.insert(record.kind);
    CHECK(record.signature_valid);
    CHECK(record.format == 1);
    CHECK((record.kind == "checkpoint" || read_audit_record(file, &auditor).signature_valid));
    for (const AuditSubject& subject : record.subjects) {
      CHECK_FALSE(subject.statement);
      REQUIRE(run.find(subject.name));
      CHECK(run.find(subject.name)->lineage()->root == subject.root);
      std::string why;
      CHECK(examined_artifact(run, subject, why) == nullptr);
      CHECK_THAT(why, Contains("by its files alone (format 1)"));
    }
  }
  CHECK(kinds == std::set<std::string>{"replay", "rows", "recompute", "checkpoint"});
}

TEST_CASE("proofs of format 1 hold, and do not bind their tree to the corpus") {
  const NoteVerifier key = NoteVerifier::from_text_or_file((kGolden / "maker.note.pub").string());
  const Digest corpus = load_run(kGolden / "run", VerifyFiles::no, nullptr).find("corpus")->lineage()->root;
  for (const auto& [name, present] : {std::pair{"presence.json", true}, std::pair{"absence.json", false}}) {
    const fs::path file = kGolden / name;
    const CorpusProof proof = CorpusProof::parse(read_file(file), file);
    CHECK(proof.present == present);
    CHECK_FALSE(proof.corpus);
    const ProofCheck check = check_corpus_proof(proof, key, file);
    CHECK(check.fault == "");
    CHECK(check.origin.corpus == corpus);
    CHECK(check.documents == 8);
    CHECK_FALSE(check.bound);
  }
  const fs::path file = kGolden / "consistency.json";
  CHECK(check_consistency(ConsistencyProof::parse(read_file(file), file), key, key, file).fault == "");
}

TEST_CASE("a key rotation of format 1 is followed") {
  const fs::path file = kGolden / "rotation.json";
  const KeyRotation rotation = read_rotation(read_file(file), file);
  const PublicKey trusted = with_rotations(PublicKey::read(kGolden / "maker.pub"), {file});
  CHECK(trusted.successor(rotation.to.hint()) == rotation.to);
}
