#include <catch2/catch.hpp>
#include <sys/stat.h>

#include "core/error.h"
#include "provenance/artifact.h"
#include "provenance/claims.h"
#include "provenance/oms.h"
#include "provenance/outside.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

Lineage some_lineage() {
  Lineage lineage;
  lineage.kind = "distilled-from";
  lineage.stage = "distill";
  lineage.stage_key = "key of the stage";
  lineage.config = {{"learning-rate", 0.001}, {"steps", 7}};
  lineage.inputs["corpus"] = {"corpus", sha256("corpus")};
  lineage.inputs["targets"] = {"soft-targets", sha256("targets")};
  lineage.metrics = {{"loss", 1.5}, {"expert_load", {{1, 2}, {3, 4}}}};
  lineage.builder = {{"overproof", "0.1.0"}};
  return lineage;
}

void fill(const fs::path& folder) {
  write_text(folder / "config.json", "{}");
  write_text(folder / "model.safetensors", std::string(5000, 'w'));
  write_text(folder / "texts/a.txt", "text");
}

/// All of a fault, as one text.
std::string faults_of(const fs::path& folder, const PublicKey* trusted = nullptr) {
  std::string all;
  for (const Fault& fault : check_artifact(folder, VerifyFiles::yes, trusted).faults)
    all += fault.file + ": " + fault.what + "\n";
  return all;
}

}  // namespace

TEST_CASE("a sealed artifact opens to what was sealed") {
  TempFolder folder;
  fill(folder.path());
  const Key key = Key::generate();
  const ArtifactRecord record = scan_artifact(folder.path());
  seal_artifact(folder.path(), record.files, some_lineage(), key);

  const auto read = open_artifact(folder.path(), VerifyFiles::yes, &key.public_key());
  REQUIRE(read);
  const Lineage expected = some_lineage();
  CHECK(read->kind == expected.kind);
  CHECK(read->stage == expected.stage);
  CHECK(read->stage_key == expected.stage_key);
  CHECK(read->config == expected.config);
  CHECK(read->metrics == expected.metrics);
  CHECK(read->builder == expected.builder);
  CHECK(read->inputs.at("corpus").root == sha256("corpus"));
  CHECK(read->inputs.at("targets").name == "soft-targets");
  CHECK(read->root == record.root);
  CHECK(read->signer_pem == key.public_key().pem());
  REQUIRE(read->files.size() == 3);
  CHECK(read->files[2].name == "texts/a.txt");
  CHECK(read->files[2].bytes == 4);
  CHECK(scan_artifact(folder.path()).root == record.root);  // signatures are no part of the identity
}

TEST_CASE("the statement is the same bytes each time") {
  Lineage lineage = some_lineage();
  lineage.files = {{"a", 1, sha256("a")}};
  lineage.root = oms_root(lineage.files);
  CHECK(make_statement(lineage) == make_statement(lineage));
  CHECK(read_statement(make_statement(lineage), "memory").config == lineage.config);
  CHECK(read_statement(make_statement(lineage), "memory").threads == 0);
  lineage.threads = 3;
  CHECK(read_statement(make_statement(lineage), "memory").threads == 3);
  for (const Json& bad : {Json(0), Json(-1), Json(2.5), Json("2"), Json(100000)}) {
    Json broken = Json::parse(make_statement(lineage));
    broken["predicate"]["buildDefinition"]["internalParameters"]["threads"] = bad;
    CHECK_THROWS_WITH(read_statement(broken.dump(), "memory"), Contains("threads"));
  }
}

TEST_CASE("a statement names itself and its inputs' statements by digest") {
  Lineage lineage = some_lineage();
  lineage.files = {{"a", 1, sha256("a")}};
  lineage.root = oms_root(lineage.files);
  const auto slot = lineage.inputs.begin()->first;
  CHECK_FALSE(read_statement(make_statement(lineage), "memory").inputs.at(slot).statement);
  lineage.inputs.at(slot).statement = sha256("its statement");
  const std::string text = make_statement(lineage);
  const Lineage read = read_statement(text, "memory");
  CHECK(read.format == 2);
  CHECK(read.statement == sha256(text));
  CHECK(read.inputs.at(slot).statement == sha256("its statement"));
  lineage.metrics["loss"] = 0.125;
  CHECK(sha256(make_statement(lineage)) != read.statement);
  for (const Json& version : {Json(0), Json(3), Json("2"), Json(2.5)}) {
    Json other = Json::parse(text);
    other["predicate"]["overproof_lineage"]["formatVersion"] = version;
    CHECK_THROWS_WITH(read_statement(other.dump(), "memory"), Contains("format"));
  }
}

TEST_CASE("metrics are read only if they match their digest") {
  Lineage lineage = some_lineage();
  lineage.files = {{"a", 1, sha256("a")}};
  lineage.root = oms_root(lineage.files);
  Json statement = Json::parse(make_statement(lineage));
  statement["predicate"]["runDetails"]["byproducts"][0]["annotations"]["perplexity"] = 3.14;
  CHECK_THROWS_WITH(read_statement(statement.dump(), "memory"), Contains("metrics do not match"));
}

TEST_CASE("a folder that was never sealed holds no lineage") {
  TempFolder folder;
  fill(folder.path());
  CHECK_FALSE(open_artifact(folder.path(), VerifyFiles::yes, nullptr));
}

TEST_CASE("whatever changes in an artifact is named") {
  TempFolder folder;
  fill(folder.path());
  const Key key = Key::generate(), stranger = Key::generate();
  seal_artifact(folder.path(), scan_artifact(folder.path()).files, some_lineage(), key);
  REQUIRE(faults_of(folder.path()).empty());

  SECTION("one bit of a file, with both digests") {
    std::string text = read_file(folder / "model.safetensors");
    const std::string before = sha256(text).hex();
    text[1234] = char(text[1234] ^ 4);
    write_text(folder / "model.safetensors", text);
    CHECK_THAT(faults_of(folder.path()),
               Contains("model.safetensors: has digest sha256:" + sha256(text).hex()) && Contains(before));
    CHECK_THROWS_AS(open_artifact(folder.path(), VerifyFiles::yes, nullptr), ProvenanceError);
    CHECK_NOTHROW(open_artifact(folder.path(), VerifyFiles::size, nullptr));
  }
  SECTION("a file cut short") {
    write_text(folder / "model.safetensors", "w");
    CHECK_THROWS_WITH(open_artifact(folder.path(), VerifyFiles::size, nullptr), Contains("has 1 bytes, expected 5000"));
  }
  SECTION("a missing file") {
    fs::remove(folder / "texts/a.txt");
    CHECK_THAT(faults_of(folder.path()), Contains("texts/a.txt: is missing"));
  }
  SECTION("an added file") {
    write_text(folder / "texts/b.txt", "more");
    CHECK_THAT(faults_of(folder.path()), Contains("texts/b.txt: is not listed"));
  }
  SECTION("a symbolic link") {
    fs::create_symlink("config.json", folder / "link.json");
    CHECK_THAT(faults_of(folder.path()), Contains("link.json: is a symbolic link"));
    CHECK_THROWS_AS(scan_artifact(folder.path()), ProvenanceError);
  }
  SECTION("two files exchanged, which keeps the set of digests") {
    fs::rename(folder / "config.json", folder / "x");
    fs::rename(folder / "texts/a.txt", folder / "config.json");
    fs::rename(folder / "x", folder / "texts/a.txt");
    CHECK_THAT(faults_of(folder.path()), Contains("config.json: has") && Contains("texts/a.txt: has"));
  }
  SECTION("a missing signature") {
    fs::remove(folder / "model.sig");
    CHECK_THAT(faults_of(folder.path()), Contains("model.sig: is missing"));
  }
  SECTION("another signer") {
    CHECK(faults_of(folder.path(), &key.public_key()).empty());
    CHECK_THAT(faults_of(folder.path(), &stranger.public_key()),
               Contains("claims.jsonl: line 1 is signed by key") && Contains("model.sig: is signed by"));
  }
  SECTION("the bundle of another artifact by the same signer") {
    const auto other = make_oms_bundle("distill", {{"config.json", 2, sha256("{}")}}, key);
    write_text(folder / "model.sig", other);
    CHECK_THAT(faults_of(folder.path()), Contains("model.sig: signs root"));
  }
  SECTION("a claim by another signer") {
    append_claim(folder / "claims.jsonl", sign_envelope(kInTotoPayloadType, "{}", stranger, stranger.public_key().hint()));
    CHECK_THAT(faults_of(folder.path()), Contains("line 2 is signed by key"));
  }
  SECTION("a second claim by the signer is welcome") {
    append_claim(folder / "claims.jsonl", sign_envelope(kInTotoPayloadType, "{}", key, key.public_key().hint()));
    CHECK(faults_of(folder.path()).empty());
  }
}

TEST_CASE("a flipped bit in any byte of both signature files is noticed") {
  TempFolder folder;
  write_text(folder / "f", "x");
  Lineage lineage;
  lineage.kind = "imported";
  lineage.stage = "import";
  const Key key = Key::generate();
  seal_artifact(folder.path(), scan_artifact(folder.path()).files, lineage, key);
  for (const char* name : {"claims.jsonl", "model.sig"}) {
    const std::string intact = read_file(folder / name);
    int64_t unnoticed = 0;
    for (size_t bit = 0; bit < intact.size() * 8; bit += 9) {  // one a byte, each of the eight in turn
      std::string text = intact;
      text[bit / 8] = char(text[bit / 8] ^ (1 << bit % 8));
      std::FILE* file = std::fopen((folder / name).c_str(), "wb");
      REQUIRE(file);
      REQUIRE(std::fwrite(text.data(), 1, text.size(), file) == text.size());
      REQUIRE(std::fclose(file) == 0);
      const ArtifactCheck check = check_artifact(folder.path(), VerifyFiles::yes, nullptr);
      const bool named = !check.faults.empty() && check.faults.front().file == name;
      if (!named) {
        ++unnoticed;
        UNSCOPED_INFO(name << " bit " << bit << ": " << text);
      }
    }
    CHECK(unnoticed == 0);
    write_text(folder / name, intact);
  }
}

TEST_CASE("a single file and a folder with only that file have one identity") {
  TempFolder folder;
  write_text(folder / "in/teacher.gguf", "weights");
  CHECK(scan_artifact(folder / "in").root == scan_artifact(folder / "in/teacher.gguf").root);
  CHECK_THROWS_AS(scan_artifact(folder / "nothing"), IoError);
  fs::create_directory(folder / "empty");
  CHECK_THROWS_AS(scan_artifact(folder / "empty"), UsageError);
}

TEST_CASE("git's files and signatures are no part of an artifact, and cannot be made one") {
  TempFolder folder;
  fill(folder.path());
  const Digest root = scan_artifact(folder.path()).root;
  write_text(folder / ".git/HEAD", "ref");
  write_text(folder / ".gitattributes", "*");
  CHECK(scan_artifact(folder.path()).root == root);
  write_text(folder / "texts/.git/HEAD", "ref");  // only at the top
  CHECK(scan_artifact(folder.path()).root != root);
  CHECK_THROWS_AS(seal_artifact(folder.path(), {{"claims.jsonl", 0, {}}}, some_lineage(), Key::generate()), UsageError);
}

TEST_CASE("a fault of a malformed statement names the file in the artifact, never a path of this machine") {
  TempFolder folder;
  fill(folder / "model");
  const Key key = Key::generate();
  seal_artifact(folder / "model", scan_artifact(folder / "model").files, some_lineage(), key);
  const std::string claims = read_file(folder / "model/claims.jsonl"), signature = read_file(folder / "model/model.sig");
  const auto faults = [&](const std::string& claim, const std::string& bundle) {
    write_text(folder / "model/claims.jsonl", claim);
    write_text(folder / "model/model.sig", bundle);
    return faults_of(folder / "model");
  };
  for (const std::string& all :
       {faults("{", signature), faults(claims, "{"), faults("{}\n", "{}"),
        faults(sign_envelope(kInTotoPayloadType, "{\"_type\": 7}", key, key.public_key().hint()).to_json().dump(), signature)}) {
    INFO(all);
    CHECK_FALSE(all.empty());
    CHECK(all.find(folder.path().string()) == std::string::npos);
    CHECK(all.find("claims.jsonl: claims.jsonl") == std::string::npos);
  }
}

TEST_CASE("statements that do not make sense are refused") {
  Lineage good = some_lineage();
  good.files = {{"a", 1, sha256("a")}};
  good.root = oms_root(good.files);
  Lineage bad = good;
  bad.kind = "born-of";
  CHECK_THROWS_AS(make_statement(bad), UsageError);
  bad = good;
  bad.kind = "imported";
  CHECK_THROWS_AS(make_statement(bad), UsageError);
  bad = good;
  bad.kind = "carved-from";
  CHECK_THROWS_WITH(make_statement(bad), Contains("stage 'distill' does not make artifacts of lineage kind 'carved-from'"));
  Lineage calibrated = good;  // a kind whose slots are all named
  calibrated.kind = "calibrated-from";
  calibrated.stage = "calibrate";
  bad = calibrated;
  bad.inputs["parent"] = {"parent", sha256("parent")};
  CHECK_THROWS_WITH(make_statement(bad), Contains("'calibrated-from' has no input called 'parent'"));
  bad = good;
  bad.files = {{"../a", 1, sha256("a")}};
  CHECK_THROWS_AS(make_statement(bad), UsageError);
  bad = good;
  bad.files = {{"a\xff", 1, sha256("a")}};
  CHECK_THROWS_WITH(make_statement(bad), Contains("UTF-8"));
  bad = good;
  bad.root = sha256("other");
  CHECK_THROWS_WITH(read_statement(make_statement(bad), "memory"), Contains("root digest"));
  Json statement = Json::parse(make_statement(good));
  // As a maker with the key can sign them: kind and stage, or a slot, that do not belong together.
  Json relabelled = statement;
  relabelled["predicate"]["overproof_lineage"]["kind"] = "carved-from";
  CHECK_THROWS_AS(read_statement(relabelled.dump(), "memory"), FormatError);
  relabelled = Json::parse(make_statement(calibrated));
  relabelled["predicate"]["buildDefinition"]["resolvedDependencies"][0]["name"] = "parent";
  CHECK_THROWS_AS(read_statement(relabelled.dump(), "memory"), FormatError);
  for (const int64_t copies : {0, 2}) {
    Json other = statement;
    Json& byproducts = other["predicate"]["runDetails"]["byproducts"];
    const Json metrics = byproducts[0];
    byproducts = Json::array();
    for (int64_t i = 0; i < copies; ++i) byproducts.push_back(metrics);
    CHECK_THROWS_WITH(read_statement(other.dump(), "memory"),
                      Contains(std::to_string(copies) + " entries 'metrics', expected 1"));
  }
  for (const auto& path :
       {"/subject", "/predicate/buildDefinition", "/predicate/runDetails/builder", "/predicate/overproof_lineage/kind"}) {
    Json broken = statement;
    broken[Json::json_pointer(path)] = 7;
    CHECK_THROWS_AS(read_statement(broken.dump(), "memory"), FormatError);
  }
}

TEST_CASE("a cache whose files are links has the identity of a plain copy; bookkeeping of downloads has none") {
  TempFolder folder;
  fill(folder / "plain");
  const Digest root = scan_artifact(folder / "plain").root;
  for (const FileRecord& file : scan_artifact(folder / "plain").files) {
    const fs::path blob = folder / "blobs" / sha256(file.name).hex(), link = folder / "cache" / file.name;
    fs::create_directories(blob.parent_path());
    fs::create_directories(link.parent_path());
    fs::copy_file(folder / "plain" / file.name, blob);
    fs::create_symlink(blob, link);
  }
  CHECK(scan_input(folder / "cache").root == root);
  CHECK(scan_input(folder / "cache/config.json").root == scan_input(folder / "plain/config.json").root);
  CHECK_THROWS_AS(scan_artifact(folder / "cache"), ProvenanceError);  // no other tool verifies a seal over links
  write_text(folder / "cache/.cache/huggingface/download/x.metadata", "when");
  write_text(folder / "cache/sub/.DS_Store", "x");
  CHECK(scan_input(folder / "cache").root == root);
  const Digest before = stat_fingerprint(folder / "cache");
  write_text(folder / "blobs" / sha256(std::string_view("config.json")).hex(), "another content");
  CHECK(stat_fingerprint(folder / "cache") != before);

  fs::create_symlink(folder / "gone", folder / "cache/dangling");
  CHECK_THROWS_WITH(scan_input(folder / "cache"), Contains("cache/dangling") && Contains("leads to no file"));
  CHECK_THROWS_AS(scan_input(folder / "cache"), FormatError);
  fs::remove(folder / "cache/dangling");
  fs::create_directory_symlink(folder / "plain", folder / "cache/folder");
  CHECK_THROWS_WITH(scan_input(folder / "cache"), Contains("link to a folder") && Contains("cp -rL"));
}

TEST_CASE("an input that is a pipe or a device is named as what it is") {
  const TempFolder folder;
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  for (const fs::path& path : {folder / "pipe", fs::path("/dev/null")}) {
    CHECK_THROWS_AS(scan_input(path), IoError);
    CHECK_THROWS_WITH(scan_input(path), Contains(path.string()) && Contains("neither a file nor a folder"));
  }
  CHECK_THROWS_WITH(scan_input(folder / "none"), Contains("No such file"));
}

TEST_CASE("a link below what signatures leave out is refused, as other verifiers do") {
  TempFolder folder;
  fill(folder.path());
  write_text(folder / ".git/HEAD", "ref");
  CHECK_NOTHROW(scan_artifact(folder.path()));
  fs::create_symlink("HEAD", folder / ".git/x");
  CHECK_THROWS_WITH(scan_artifact(folder.path()), Contains(".git/x"));
}

TEST_CASE("a file that was replaced by a link is one fault") {
  TempFolder folder;
  fill(folder.path());
  const Key key = Key::generate();
  seal_artifact(folder.path(), scan_artifact(folder.path()).files, some_lineage(), key);
  const TempFolder elsewhere;
  fs::rename(folder / "config.json", elsewhere / "config.json");
  fs::create_symlink(elsewhere / "config.json", folder / "config.json");
  const std::string all = faults_of(folder.path());
  CHECK_THAT(all, Contains("config.json: is a symbolic link") && !Contains("is missing"));
}
