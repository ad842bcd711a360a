#include <catch2/catch.hpp>

#include "audit/verify.h"
#include "core/error.h"
#include "provenance/claims.h"
#include "tests/audit/synthetic_run.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

std::string failures(const fs::path& folder, const VerifyConfig& config = {}) {
  std::string all;
  for (const Finding& f : verify_run(folder, config).findings)
    if (f.severity == Severity::failure) all += f.artifact + "/" + f.file + ": " + f.what + "\n";
  return all;
}

void flip_bit(const fs::path& file, size_t byte, int bit) {
  std::string text = read_file(file);
  text.at(byte) = char(text[byte] ^ (1 << bit));
  write_file_atomically(file, text);
}

void exchange(const fs::path& a, const fs::path& b) {
  fs::rename(a, a.string() + "-away");
  fs::rename(b, a);
  fs::rename(a.string() + "-away", b);
}

}  // namespace

TEST_CASE("an untouched run holds, with and without the signer's key") {
  const SyntheticRun run;
  CHECK(failures(run.path()) == "");
  write_text(run.path() / "key.pub", run.key.public_key().pem());
  VerifyConfig config{(run.path() / "key.pub").string()};
  CHECK(failures(run.path(), config).empty());
  const Answer answer = audit_verify({}, run.path());
  CHECK(answer.exit_code == 0);
  CHECK_THAT(answer.text, Contains("the whole chain hold") && Contains("quantized-from"));
  const Answer trusting = audit_verify(config, run.path());
  CHECK(trusting.exit_code == 0);
  const Json& parsed = trusting.json;
  CHECK(parsed["holds"] == true);
  CHECK(parsed["artifacts"].size() == 10);
}

TEST_CASE("parents come before children") {
  const SyntheticRun run;
  const RunFolder loaded = load_run(run.path(), VerifyFiles::no, nullptr);
  for (size_t i = 0; i < loaded.nodes.size(); ++i)
    for (const auto& [slot, parent] : loaded.nodes[i].parents) CHECK(parent < int(i));
  CHECK(loaded.cyclic.empty());
}

TEST_CASE("one artifact is verified with its ancestors, and only those") {
  const SyntheticRun run;
  const Verification result = verify_run(run.path() / "int8", {});
  CHECK(result.holds());
  CHECK(result.run.find("teacher"));
  CHECK_FALSE(result.run.find("evaluation"));
  flip_bit(run.path() / "evaluation/evaluation.json", 4, 1);
  CHECK(failures(run.path() / "int8").empty());
  flip_bit(run.path() / "teacher/teacher.gguf", 4, 1);
  CHECK_THAT(failures(run.path() / "int8"), Contains("teacher/teacher.gguf: has digest"));
}

TEST_CASE("one flipped bit in any file of any artifact is named, and nothing else is accused") {
  const SyntheticRun run;
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(run.path()))
    if (entry.is_regular_file()) files.push_back(entry.path());
  REQUIRE(files.size() >= 30);
  size_t turn = 0;
  for (const fs::path& file : files) {
    const std::string intact = read_file(file), name = file.lexically_relative(run.path()).generic_string();
    ++turn;
    flip_bit(file, turn * 7919 % intact.size(), int(turn % 8));
    const std::string found = failures(run.path());
    INFO(name << "\n" << found);
    CHECK_THAT(found, Contains(name.substr(0, name.find('/')) + "/" + name.substr(name.find('/') + 1) + ": "));
    if (!name.ends_with("claims.jsonl") && !name.ends_with("model.sig")) CHECK(std::count(found.begin(), found.end(), '\n') == 1);
    CHECK(audit_verify({}, run.path()).exit_code == 4);
    write_file_atomically(file, intact);
  }
  CHECK(failures(run.path()) == "");
}

TEST_CASE("what is removed, added, exchanged or signed by another is named") {
  const SyntheticRun run;
  const fs::path path = run.path();
  const Key stranger = Key::generate();

  SECTION("a file removed") {
    fs::remove(path / "int8/config.json");
    CHECK_THAT(failures(path), Contains("int8/config.json: is missing"));
  }
  SECTION("a file added") {
    write_text(path / "corpus/texts/two.txt", "smuggled");
    CHECK_THAT(failures(path), Contains("corpus/texts/two.txt: is not listed"));
  }
  SECTION("an artifact removed") {
    fs::remove_all(path / "teacher");
    CHECK_THAT(failures(path), Contains("student-init/: was made from 'teacher'"));
  }
  SECTION("both signatures of a leaf removed") {
    fs::remove(path / "evaluation/claims.jsonl");
    fs::remove(path / "evaluation/model.sig");
    CHECK_THAT(failures(path), Contains("evaluation/: has no signature"));
  }
  SECTION("claims removed") {
    fs::remove(path / "int8/claims.jsonl");
    CHECK_THAT(failures(path), Contains("int8/claims.jsonl: is missing"));
  }
  SECTION("two artifacts exchanged") {
    exchange(path / "student", path / "calibrated");
    CHECK_THAT(failures(path), Contains("int8/: was made from 'calibrated', which is now in the folder 'student'"));
  }
  SECTION("two leaves exchanged") {
    exchange(path / "int8", path / "static-init");
    CHECK_THAT(failures(path), Contains("int8/: is called 'static-init'"));
  }
  SECTION("files of two artifacts exchanged") {
    exchange(path / "student/model.safetensors", path / "calibrated/model.safetensors");
    CHECK_THAT(failures(path),
               Contains("student/model.safetensors: has digest") && Contains("calibrated/model.safetensors: has digest"));
  }
  SECTION("signatures of two artifacts exchanged") {
    exchange(path / "student/model.sig", path / "calibrated/model.sig");
    CHECK_THAT(failures(path), Contains("student/model.sig: signs root") && Contains("calibrated/model.sig: signs root"));
  }
  SECTION("an artifact changed and signed again by a stranger") {
    const Lineage lineage = *open_artifact(path / "student", VerifyFiles::no, nullptr);
    flip_bit(path / "student/model.safetensors", 9, 0);
    seal_artifact(path / "student", scan_artifact(path / "student").files, lineage, stranger);
    CHECK_THAT(failures(path), Contains("calibrated/: was made from 'student'") && Contains("2 signers") &&
                                   Contains(stranger.public_key().hint()));
  }
  SECTION("a leaf signed again by a stranger, nothing changed") {
    const Lineage lineage = *open_artifact(path / "int8", VerifyFiles::no, nullptr);
    seal_artifact(path / "int8", lineage.files, lineage, stranger);
    CHECK_THAT(failures(path), Contains("2 signers"));
    write_text(path / "key.pub", run.key.public_key().pem());
    CHECK_THAT(failures(path, {(path / "key.pub").string()}), Contains("int8/claims.jsonl: line 1 is signed by key"));
  }
  SECTION("a parent's statement signed anew under unchanged files") {
    // Every other check holds: both signatures, every digest, every root.
    Lineage lineage = *open_artifact(path / "student", VerifyFiles::no, nullptr);
    SECTION("its configuration") { lineage.config["learning-rate"] = 1e-5; }
    SECTION("its metrics") { lineage.metrics["loss"] = 0.001; }
    SECTION("its inputs") { lineage.inputs.erase("targets"); }
    seal_artifact(path / "student", lineage.files, lineage, run.key);
    CHECK_THAT(failures(path),
               Contains("calibrated/claims.jsonl: was made from 'student' (as 'student') with statement sha256:"));
    CHECK(failures(path / "soft-targets").empty());
  }
  SECTION("an input named by its files alone, although it has a statement") {
    Lineage lineage = *open_artifact(path / "int8", VerifyFiles::no, nullptr);
    lineage.inputs.at("model").statement.reset();
    seal_artifact(path / "int8", lineage.files, lineage, run.key);
    CHECK_THAT(failures(path), Contains("int8/claims.jsonl: names its input 'calibrated' (as 'model') by its files alone"));
  }
  SECTION("a corpus named by its files alone") {
    Lineage lineage = *open_artifact(path / "statistics", VerifyFiles::no, nullptr);
    lineage.inputs.at("corpus").statement.reset();
    seal_artifact(path / "statistics", lineage.files, lineage, run.key);
    CHECK_THAT(failures(path / "statistics"), Contains("names its input 'corpus' (as 'corpus') by its files alone"));
    fs::remove_all(path / "corpus");
    CHECK_THAT(failures(path / "statistics"), Contains("statistics/: was made from 'corpus'"));
  }
  SECTION("a statement about another artifact") {
    Json statement = Json::parse(read_claims(path / "student/claims.jsonl").front().payload);
    statement["predicateType"] = "https://example.com/praise/v1";
    append_claim(path / "int8/claims.jsonl",
                 sign_envelope(kInTotoPayloadType, statement.dump(), run.key, run.key.public_key().hint()));
    CHECK_THAT(failures(path), Contains("int8/claims.jsonl: line 2 is about another artifact"));
  }
  SECTION("a second lineage statement") {
    append_claim(path / "int8/claims.jsonl", read_claims(path / "student/claims.jsonl").front());
    CHECK_THAT(failures(path), Contains("holds 2 lineage statements, expected one"));
  }
  SECTION("a wrong trusted key") {
    write_text(path / "other.pub", stranger.public_key().pem());
    CHECK_THAT(failures(path, {(path / "other.pub").string()}), Contains("teacher/model.sig: is signed by key"));
  }
  SECTION("a chain that does not reach the teacher") {
    write_text(path / "orphan/model.safetensors", "made of nothing");
    run.seal("orphan", "quantize", "quantized-from", {});
    CHECK_THAT(failures(path),
               Contains("orphan/: is 'quantized-from', but its chain reaches no model that came from outside, from a seed or from training on a corpus alone"));
  }
  SECTION("a chain that does not reach a corpus") {
    write_text(path / "orphan/model.safetensors", "made of a teacher");
    run.seal("orphan", "distill", "distilled-from", {{"student", "teacher"}});
    CHECK_THAT(failures(path), Contains("its chain reaches no corpus"));
  }
  SECTION("soft targets whose statement names another corpus than they do") {
    run.seal("soft-targets", "teach", "taught", {{"teacher", "teacher"}, {"corpus", "statistics"}});
    CHECK_THAT(failures(path), Contains("soft-targets/targets.safetensors: was made with corpus"));
  }
  SECTION("soft targets whose statement names no teacher, or another") {
    run.seal("soft-targets", "teach", "taught", {{"corpus", "corpus"}});
    CHECK_THAT(failures(path),
               Contains("soft-targets/targets.safetensors: was made with teacher") && Contains("the statement names none"));
    run.seal("soft-targets", "teach", "taught", {{"teacher", "statistics"}, {"corpus", "corpus"}});
    CHECK_THAT(failures(path), Contains("soft-targets/targets.safetensors: was made with teacher"));
  }
  SECTION("a distilled student signed as carved: its kind and its stage do not belong together") {
    // The program refuses to sign it, so the statement is changed as text and signed with the maker's key.
    const std::vector<Envelope> claims = read_claims(path / "student/claims.jsonl");
    Json statement = Json::parse(claims.front().payload);
    statement["predicate"]["overproof_lineage"]["kind"] = "carved-from";
    write_text(path / "student/claims.jsonl",
               sign_envelope(kInTotoPayloadType, statement.dump(), run.key, run.key.public_key().hint()).to_json().dump() + "\n");
    CHECK_THAT(failures(path), Contains("student/claims.jsonl:") &&
                                   Contains("stage 'distill' does not make artifacts of lineage kind 'carved-from'"));
  }
  SECTION("a distilled student signed as carved, its stage and inputs to match: by the files that only training leaves") {
    run.seal("student", "carve", "carved-from", {{"teacher", "student-init"}, {"statistics", "statistics"}});
    CHECK_THAT(failures(path), Contains("student/steps.jsonl: does not belong into an artifact of lineage kind 'carved-from'") &&
                                   Contains("student/routing/router_counts.safetensors: does not belong"));
    for (const char* file : {"steps.jsonl", "routing/router_counts.safetensors"}) fs::remove(path / "student" / file);
    run.seal("student", "carve", "carved-from", {{"teacher", "student-init"}, {"statistics", "statistics"}}, Json::object(),
             {{"step_chain", "00"}});
    CHECK_THAT(failures(path), Contains("student/: signs a chain of training steps as lineage kind 'carved-from'"));
  }
  SECTION("soft targets signed as statistics") {
    run.seal("soft-targets", "observe", "observed", {{"teacher", "teacher"}, {"corpus", "corpus"}});
    CHECK_THAT(failures(path), Contains("soft-targets/targets.safetensors: does not belong"));
  }
  SECTION("a model from outside that holds records of training is no fault, and nothing is claimed of it") {
    write_text(path / "bought/model.safetensors", "w");
    write_text(path / "bought/steps.safetensors", "s");
    run.seal("bought", "import", "imported", {});
    CHECK(failures(path).empty());
    const Verification v = verify_run(path, {});
    CHECK(std::ranges::any_of(
        v.findings, [](const Finding& f) { return f.what.find("nothing here shows how it was made") != std::string::npos; }));
  }
}

TEST_CASE("a model from outside without a statement ends a chain, also next to an import of the same files") {
  const SyntheticRun run;
  const fs::path path = run.path();
  TempFolder away;
  const auto made_from = [&](const std::string& name, const std::string& stage, const std::string& kind, const std::string& slot) {
    write_text(path / name / "f", name);
    run.seal(name, stage, kind, {{slot, "teacher"}});
    Lineage lineage = *open_artifact(path / name, VerifyFiles::no, nullptr);
    lineage.inputs.at(slot).statement.reset();
    lineage.inputs.at(slot).name = "downloaded";
    seal_artifact(path / name, lineage.files, lineage, run.key);
  };
  made_from("q", "quantize", "quantized-from", "model");
  for (const bool next_to_import : {true, false}) {
    INFO("an import of the same files is next to it: " << next_to_import);
    if (!next_to_import) fs::rename(path / "teacher", away / "teacher");
    const Answer answer = audit_verify({}, path / "q");
    CHECK(answer.exit_code == 0);
    CHECK_THAT(answer.text, Contains("was made from 'downloaded' (as 'model', sha256:") && Contains("files from outside that have no statement") &&
                                Contains("a chain ends at files from outside") && !Contains("whole chain"));
    CHECK(load_run(path / "q", VerifyFiles::no, nullptr).nodes.back().parents.at("model") == -1);
  }
  // Its chain reaches a model from outside, but no corpus.
  fs::rename(away / "teacher", path / "teacher");
  made_from("trained", "distill", "distilled-from", "student");
  CHECK_THAT(failures(path / "trained"), Contains("its chain reaches no corpus"));
}

TEST_CASE("artifacts that claim each other as parents are refused") {
  const SyntheticRun run;
  write_text(run.path() / "a/f", "a");
  write_text(run.path() / "b/f", "b");
  run.seal("a", "prune", "pruned-from", {{"teacher", "b"}});
  run.seal("b", "prune", "pruned-from", {{"teacher", "a"}});
  CHECK_THAT(failures(run.path()), Contains("a/: its lineage contains a cycle") && Contains("b/: its lineage contains a cycle"));
}

TEST_CASE("a folder without artifacts is a usage error, a missing one an input error") {
  TempFolder folder;
  CHECK_THROWS_AS(verify_run(folder.path(), {}), UsageError);
  CHECK_THROWS_AS(verify_run(folder / "none", {}), IoError);
}

TEST_CASE("a foreign signature is read by what its signer left out and followed") {
  TempFolder folder;
  const Key key = Key::generate();
  write_text(folder / "m/weights", "w");
  write_text(folder / "m/linked", "l");
  const std::vector<FileRecord> files = scan_artifact(folder / "m").files;
  write_text(folder / "key.pub", key.public_key().pem());
  const VerifyConfig config{(folder / "key.pub").string()};
  const auto sign = [&](const std::vector<std::string>& ignored, bool links) {
    Json bundle = Json::parse(make_oms_bundle("m", files, key));
    Json statement = Json::parse(base64_decode(bundle["dsseEnvelope"]["payload"].get<std::string>(), "memory"));
    statement["predicate"]["serialization"]["ignore_paths"] = ignored;
    statement["predicate"]["serialization"]["allow_symlinks"] = links;
    bundle["dsseEnvelope"] = sign_envelope(kInTotoPayloadType, statement.dump(2), key, "").to_json();
    write_text(folder / "m/model.sig", bundle.dump(1));
  };
  write_text(folder / "m/NOTES.md", "hi");
  write_text(folder / "m/logs/deep/x.txt", "a");
  sign({"model.sig"}, false);
  CHECK_THAT(failures(folder / "m", config), Contains("NOTES.md: is not listed") && Contains("logs/deep/x.txt: is not listed"));
  sign({"model.sig", "NOTES.md", "logs"}, false);
  CHECK(failures(folder / "m", config).empty());
  const Verification held = verify_run(folder / "m", config);
  CHECK(std::ranges::any_of(held.findings, [](const Finding& f) {
    return f.severity == Severity::note && f.what.ends_with("left out: NOTES.md, logs");
  }));
  write_text(folder / "m/logs2", "not below logs");
  CHECK_THAT(failures(folder / "m", config), Contains("logs2: is not listed") && !Contains("NOTES.md"));
  fs::remove(folder / "m/logs2");

  // A link to a file: that file where the signature says so, else no file.
  fs::rename(folder / "m/linked", folder / "target");
  fs::create_symlink(folder / "target", folder / "m/linked");
  CHECK_THAT(failures(folder / "m", config), Contains("linked: is a symbolic link") && !Contains("is missing"));
  sign({"model.sig", "NOTES.md", "logs"}, true);
  CHECK(failures(folder / "m", config).empty());
  write_text(folder / "target", "L");
  CHECK_THAT(failures(folder / "m", config), Contains("linked: has digest"));
}

TEST_CASE("what an artifact makes other programs read is signed, too") {
  TempFolder folder;
  const Key key = Key::generate();
  write_text(folder / "key.pub", key.public_key().pem());
  const VerifyConfig config{(folder / "key.pub").string()};
  const auto sign = [&](const Json& weight_map, const std::vector<std::string>& ignored) {
    fs::remove(folder / "m/model.sig");
    write_text(folder / "m/model.safetensors.index.json", Json{{"weight_map", weight_map}}.dump());
    std::vector<FileRecord> files = scan_artifact(folder / "m").files;
    std::erase_if(files, [&](const FileRecord& f) { return std::ranges::count(ignored, f.name.substr(0, f.name.find('/'))) > 0; });
    Json bundle = Json::parse(make_oms_bundle("m", files, key));
    Json statement = Json::parse(base64_decode(bundle["dsseEnvelope"]["payload"].get<std::string>(), "memory"));
    statement["predicate"]["serialization"]["ignore_paths"] = ignored;
    bundle["dsseEnvelope"] = sign_envelope(kInTotoPayloadType, statement.dump(2), key, "").to_json();
    write_text(folder / "m/model.sig", bundle.dump(1));
    return failures(folder / "m", config);
  };
  for (const char* file : {"a.safetensors", "b.safetensors", ".git/c.safetensors", "logs/d.safetensors"}) write_text(folder / "m" / file, "w");
  CHECK(sign({{"x", "a.safetensors"}, {"y", "./b.safetensors"}}, {"model.sig", ".git", "logs"}) == "");
  CHECK_THAT(sign({{"x", "a.safetensors"}, {"y", ".git/c.safetensors"}}, {"model.sig", ".git", "logs"}),
             Contains("m/model.safetensors.index.json: names the shard '.git/c.safetensors', which no signature covers"));
  CHECK_THAT(sign({{"x", "logs/d.safetensors"}}, {"model.sig", ".git", "logs"}), Contains("names the shard 'logs/d.safetensors'"));
  CHECK_THAT(sign({{"x", "../elsewhere.safetensors"}}, {"model.sig", ".git", "logs"}), Contains("names the shard '../elsewhere.safetensors'"));

  write_text(folder / "m/config.json", R"({"auto_map": {"AutoConfig": "configuration_x.C", "AutoModel": "someone/code--modeling_x.M", "AutoTokenizer": [null, "other/t--t.T"]}})");
  CHECK(sign({{"x", "a.safetensors"}}, {"model.sig", ".git", "logs"}) == "");
  std::string notes;
  for (const Finding& f : verify_run(folder / "m", config).findings) notes += f.what + "\n";
  CHECK_THAT(notes, Contains("code of another repository, 'someone/code--modeling_x.M'") && Contains("'other/t--t.T'") && !Contains("configuration_x"));
}

TEST_CASE("a model signed by another tool is checked by its signer's key") {
  TempFolder folder;
  const Key key = Key::generate();
  write_text(folder / "m/weights", "w");
  // As model-signing writes it: no room is left for claims.
  Json bundle = Json::parse(make_oms_bundle("m", scan_artifact(folder / "m").files, key));
  Json statement = Json::parse(base64_decode(bundle["dsseEnvelope"]["payload"].get<std::string>(), "memory"));
  statement["predicate"]["serialization"]["ignore_paths"] = {"model.sig"};
  bundle["dsseEnvelope"] = sign_envelope(kInTotoPayloadType, statement.dump(2), key, "").to_json();
  write_text(folder / "m/model.sig", bundle.dump(1));
  write_text(folder / "key.pub", key.public_key().pem());
  const VerifyConfig config{(folder / "key.pub").string()};
  CHECK(failures(folder / "m", config).empty());
  CHECK_THAT(failures(folder / "m"), Contains("names no signing key"));
  flip_bit(folder / "m/weights", 0, 0);
  CHECK_THAT(failures(folder / "m", config), Contains("m/weights: has digest"));
}
