// A run that overproof 0.1 signed (tests/golden/statements_v1) is verified for what its statements bind, and no more.

#include <catch2/catch.hpp>

#include "audit/corpus_proofs.h"
#include "audit/prove.h"
#include "audit/verify.h"
#include "core/error.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {
const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/statements_v1";
}

TEST_CASE("statements of format 1 are named as binding files alone") {
  const Verification result = verify_run(kGolden / "run/corpus", {});
  std::string notes;
  for (const Finding& f : result.findings)
    if (f.severity == Severity::note) notes += f.what + "\n";
  CHECK_THAT(notes, Contains("statements of format 1 (teacher, corpus) name their inputs by files alone"));
  // The corpus is whole; of the teacher only the signatures are kept.
  for (const Finding& f : result.findings)
    if (f.severity == Severity::failure) CHECK(f.artifact == "teacher");
  CHECK(audit_verify({}, kGolden / "run/corpus").json["artifacts"][1]["format"] == 1);
}

TEST_CASE("what a proof of format 1 does not bind is reported") {
  CheckProofConfig config;
  config.checkpoint_key = (kGolden / "maker.note.pub").string();
  const Answer answer = audit_check_proof(config, kGolden / "absence.json");
  CHECK(answer.exit_code == 0);
  CHECK(answer.json["bound_to_corpus"] == false);
  const Json commitment = read_json(kGolden / "run/corpus/commitment.json");
  CHECK_THAT(answer.text, Contains("format 1 does not bind") && Contains(commitment["sorted"]["root"].get<std::string>()));
}

TEST_CASE("a corpus of format 1 is proved from in format 2") {
  const TempFolder folder;
  fs::copy(kGolden / "run", folder / "run", fs::copy_options::recursive);
  ProveConfig config;
  config.document = "bread.txt";
  config.out = folder / "proof.json";
  config.key = folder / "key.pem";
  // Only the corpus is whole here, which is all that a proof needs.
  for (const auto& entry : fs::directory_iterator(kGolden / "run"))
    if (entry.path().filename() != "corpus") fs::remove_all(folder / "run" / entry.path().filename());
  CHECK(audit_prove(config, folder / "run/corpus").json["kind"] == "presence");
  CheckProofConfig check;
  check.checkpoint_key = (folder / "key.pem.note.pub").string();
  CHECK(audit_check_proof(check, folder / "proof.json").json["bound_to_corpus"] == true);
}
