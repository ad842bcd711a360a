#include "audit/prove.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <sstream>

#include "audit/verify.h"
#include "core/error.h"
#include "core/progress.h"
#include "data/commitment.h"
#include "provenance/audit_record.h"
#include "tests/audit/synthetic_run.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

constexpr int64_t kDocuments = 40;

std::string text_of(int64_t i) { return "text number " + std::to_string(i); }

/// How a dishonest maker's table differs from what he committed to.
struct Lie {
  int64_t wrong_digest = -1;  ///< this line's digest is another
  int64_t exchanged = -1;     ///< this line and the next have changed places
  bool drop_last = false;
  std::optional<CorpusSalt> salt;
  int64_t documents = kDocuments, first = 0;  ///< no lie: how many there are, and which
};

/// A corpus folder with a commitment.
void fill_corpus(const fs::path& folder, const Lie& lie) {
  fs::create_directories(folder);
  OutputFolder out(folder);
  CommitmentWriter writer(lie.salt);
  std::vector<std::string> lines;
  int64_t first[2] = {0, 0}, at = 0;
  for (int64_t i = lie.first; i < lie.first + lie.documents; ++i) {
    const Split split = i % 5 == 2 ? Split::held_out : Split::train;
    const int64_t tokens = 3 + i % 4;
    const Digest listed = sha256(text_of(i == lie.wrong_digest ? i + 1000 : i));
    lines.push_back(Json{{"digest", listed.hex()},
                         {"name", "pack/" + std::to_string(i)},
                         {"source", "pack"},
                         {"license", "MIT"},
                         {"license_rule", "test"},
                         {"bytes", text_of(i).size()},
                         {"split", split == Split::train ? "train" : "held_out"},
                         {"first_token", first[size_t(split)]},
                         {"tokens", tokens}}
                        .dump() +
                    "\n");
    writer.add(sha256(text_of(i)), split, tokens, at);
    first[size_t(split)] += tokens;
    at += int64_t(lines.back().size());
  }
  if (lie.exchanged >= 0) std::swap(lines[size_t(lie.exchanged)], lines[size_t(lie.exchanged) + 1]);
  if (lie.drop_last) lines.pop_back();
  std::string table;
  for (const std::string& line : lines) table += line;
  writer.finish(out, at);
  write_text(folder / "documents.jsonl", table);
}

struct ProvableRun : SyntheticRun {
  explicit ProvableRun(const Lie& lie = {}) : SyntheticRun([&](const fs::path& folder) { fill_corpus(folder, lie); }) {
    set_progress_mode(ProgressMode::off);
  }
};

std::string failures(const fs::path& folder, const std::string& salt = "") {
  std::string all;
  VerifyConfig config;
  config.salt = salt;
  for (const Finding& f : verify_run(folder, config).findings)
    if (f.severity == Severity::failure) all += f.artifact + "/" + f.file + ": " + f.what + "\n";
  return all;
}

/// Keys, proofs and printed answers, outside the run.
struct Desk {
  TempFolder folder;
  std::string said;
  std::string key() const { return (folder / "signing-key.pem").string(); }
  std::string public_key() const { return key() + ".note.pub"; }
  std::string file(const std::string& name) const { return (folder / name).string(); }
  int prove(const fs::path& run, const std::string& document, const std::string& out, const std::string& salt = "",
            const std::string& tree = "documents") {
    ProveConfig config;
    config.document = document;
    config.out = file(out);
    config.key = key();
    config.salt = salt;
    config.tree = tree;
    const Answer answer = audit_prove(config, run);
    said = answer.text;
    return answer.exit_code;
  }
  int check(const std::string& proof, const std::string& document = "", const std::string& corpus = "") {
    CheckProofConfig config;
    config.checkpoint_key = public_key();
    config.document = document;
    config.corpus = corpus;
    const Answer answer = audit_check_proof(config, file(proof));
    said = answer.text;
    return answer.exit_code;
  }
};

}  // namespace

TEST_CASE("presence and absence are proved without the run") {
  auto run = std::make_unique<ProvableRun>();
  Desk desk;
  const std::string root = run->root("corpus").hex(), digest = sha256(text_of(7)).hex();
  write_text(desk.file("mine.txt"), text_of(7));
  write_text(desk.file("other.txt"), "never seen");
  for (const std::string& way : {digest, "sha256:" + digest, desk.file("mine.txt"), std::string("pack/7")}) {
    CHECK(desk.prove(run->path(), way, "present.json") == 0);
    CHECK_THAT(desk.said, Contains(digest + " is in corpus"));
    CHECK(desk.check("present.json", desk.file("mine.txt"), root) == 0);
    CHECK_THAT(desk.said, Contains("holds") && Contains("is in corpus sha256:" + root + " of 40 documents"));
  }
  CHECK(desk.prove(run->path() / "corpus", digest, "sorted.json", "", "sorted") == 0);
  CHECK(desk.prove(run->path() / "int8", desk.file("other.txt"), "absent.json") == 0);
  CHECK_THAT(desk.said, Contains("is not in corpus"));
  CHECK_THROWS_AS(desk.prove(run->path(), "pack/none", "none.json"), UsageError);
  run.reset();
  CHECK(desk.check("sorted.json", digest) == 0);
  CHECK(desk.check("absent.json", desk.file("other.txt"), "sha256:" + root) == 0);
  CHECK(desk.check("absent.json", desk.file("mine.txt")) == 4);
  CHECK_THAT(desk.said, Contains("another document"));
  CHECK(desk.check("absent.json", "", std::string(64, 'a')) == 4);
  CHECK_THAT(desk.said, Contains("another corpus"));
}

TEST_CASE("a tree of another corpus cannot be passed off as this one's, although its checkpoint is signed") {
  // The maker signs, with his own note key, a checkpoint that names this corpus over the tree of a corpus without the document.
  const ProvableRun run, other({.documents = 7});
  Desk desk;
  REQUIRE(desk.prove(other.path(), sha256(text_of(9)).hex(), "absent.json") == 0);
  CorpusProof forged = CorpusProof::parse(read_file(desk.file("absent.json")), "p");
  TreeHead head = TreeHead::parse(unverified_note_text(forged.checkpoint, "p"), "p");
  const std::string honest = head.origin;
  head.origin.replace(head.origin.find(other.root("corpus").hex()), 64, run.root("corpus").hex());
  REQUIRE(head.origin != honest);
  forged.checkpoint = NoteSigner::load_or_create(note_key_path(desk.key())).sign_note(head.text());
  const std::string root = run.root("corpus").hex();
  SECTION("with the binding of the other corpus") {
    write_text(desk.file("forged.json"), forged.text());
    CHECK(desk.check("forged.json", sha256(text_of(9)).hex(), root) == 4);
    CHECK_THAT(desk.said, Contains("are not those of the corpus"));
  }
  SECTION("with the binding of this corpus") {
    forged.corpus = find_corpus(run.path()).binding;
    write_text(desk.file("forged.json"), forged.text());
    CHECK(desk.check("forged.json", sha256(text_of(9)).hex(), root) == 4);
    CHECK_THAT(desk.said, Contains("another tree than the corpus commits to"));
  }
  SECTION("without a binding it is of format 1, which is reported") {
    forged.corpus.reset();
    write_text(desk.file("forged.json"), forged.text());
    CHECK(desk.check("forged.json", sha256(text_of(9)).hex(), root) == 0);
    CHECK_THAT(desk.said, Contains("format 1 does not bind") && Contains(head.root.hex()));
  }
}

TEST_CASE("the same key and corpus give the same proof, byte for byte") {
  const ProvableRun run;
  Desk desk;
  desk.prove(run.path(), sha256("x").hex(), "a.json");
  desk.prove(run.path(), sha256("x").hex(), "b.json");
  CHECK(read_file(desk.file("a.json")) == read_file(desk.file("b.json")));
}

TEST_CASE("checkpoints are outside the artifact, and proofs take the published ones") {
  const ProvableRun run;
  const Digest before = run.root("corpus");
  Desk desk;
  CheckpointConfig config;
  config.key = desk.key();
  config.name = "example.com/corpora";
  config.publish = desk.file("site");
  CHECK(audit_checkpoint(config, run.path()).exit_code == 0);
  CHECK(run.root("corpus") == before);
  CHECK(failures(run.path()) == "");
  const fs::path published = run.path() / "audits/corpus-documents.checkpoint";
  CHECK(read_file(desk.file("site/documents/checkpoint")) == read_file(published));
  CHECK(fs::is_regular_file(desk.file("site/documents/tile/0/000.p/40")));
  CHECK(fs::is_regular_file(desk.file("site/sorted/tile/entries/000.p/40")));

  // A witness adds its signature; the proof carries it, and another signer's private key is not needed.
  const NoteSigner witness = NoteSigner::generate("witness.example");
  const std::string note = read_file(published), body = note.substr(0, note.find("\n\n") + 1);
  write_text(published, note + witness.sign_note(body).substr(body.size() + 1));
  desk.prove(run.path(), sha256(text_of(3)).hex(), "present.json");
  CHECK_THAT(CorpusProof::parse(read_file(desk.file("present.json")), "p").checkpoint, Contains("witness.example"));
  CHECK(desk.check("present.json") == 0);

  const AuditRecord record = read_audit_record(run.path() / "audits/checkpoint-corpus.json", nullptr);
  CHECK(record.signature_valid);
  CHECK(record.subjects[0].root == before);
  CHECK(record.result["note_key"].get<std::string>() + "\n" == read_file(desk.public_key()));
  CHECK_THROWS_AS(audit_checkpoint(config, run.path()), UsageError);  // the folder is there
}

TEST_CASE("whose note key it is follows from a record that the signing key signed") {
  const ProvableRun run, other({.documents = 7});
  Desk desk;
  desk.prove(run.path(), sha256(text_of(3)).hex(), "present.json");
  CHECK(desk.check("present.json") == 0);
  CHECK_THAT(desk.said, Contains("not checked: whose note key it is"));
  CheckpointConfig sign;
  sign.key = desk.key();
  audit_checkpoint(sign, run.path());
  audit_checkpoint(sign, other.path());
  write_text(desk.file("maker.pub"), Key::read(desk.key()).public_key().pem());
  write_text(desk.file("stranger.pub"), Key::generate().public_key().pem());
  CheckProofConfig config;
  config.checkpoint_key = desk.public_key();
  config.record = run.path() / "audits/checkpoint-corpus.json";
  CHECK_THROWS_AS(audit_check_proof(config, desk.file("present.json")), UsageError);
  const auto checked = [&](const fs::path& record, const char* key) {
    config.record = record;
    config.trust.public_key = desk.file(key);
    return audit_check_proof(config, desk.file("present.json"));
  };
  const Answer bound = checked(config.record, "maker.pub");
  CHECK(bound.exit_code == 0);
  CHECK(bound.json["signing_key"] == Key::read(desk.key()).public_key().hint());
  CHECK_THAT(bound.text, Contains("the note key is that of the signing key"));
  const Answer stranger = checked(config.record, "stranger.pub");
  CHECK(stranger.exit_code == 4);
  CHECK_THAT(stranger.text, Contains("is not signed by key"));
  CHECK_THAT(checked(other.path() / "audits/checkpoint-corpus.json", "maker.pub").text, Contains("is about another corpus"));
  // A proof by a note key made for the occasion.
  Desk forger;
  forger.prove(run.path(), sha256(text_of(3)).hex(), "present.json");
  config.checkpoint_key = forger.public_key();
  fs::remove(run.path() / "audits/corpus-documents.checkpoint");
  forger.prove(run.path(), sha256(text_of(3)).hex(), "present.json");
  config.record = run.path() / "audits/checkpoint-corpus.json";
  config.trust.public_key = desk.file("maker.pub");
  const Answer forged = audit_check_proof(config, forger.file("present.json"));
  CHECK(forged.exit_code == 4);
  CHECK_THAT(forged.text, Contains("does not name the note key"));
}

TEST_CASE("a checkpoint of another corpus is not taken") {
  const ProvableRun run, other({.drop_last = false, .salt = CorpusSalt::from_bytes(std::string(32, 'x'), "m")});
  Desk desk;
  CheckpointConfig config;
  config.key = desk.key();
  audit_checkpoint(config, other.path());
  ProveConfig prove;
  prove.document = sha256("x").hex();
  prove.out = desk.file("p.json");
  prove.key = desk.key();
  prove.checkpoint = (other.path() / "audits/corpus-sorted.checkpoint").string();
  CHECK_THROWS_AS(audit_prove(prove, run.path()), MismatchError);
}

TEST_CASE("that a corpus only adds to an older one is proved by their checkpoints alone") {
  Desk desk;
  const auto salt = CorpusSalt::from_bytes(std::string(32, 'x'), "m");
  const auto checkpoint = [&](const Lie& lie, const std::string& name) {
    const ProvableRun run(lie);
    CheckpointConfig config;
    config.key = desk.key();
    audit_checkpoint(config, run.path());
    for (const char* tree : {"documents", "sorted"})
      fs::copy_file(run.path() / fmt::format("audits/corpus-{}.checkpoint", tree), desk.file(name + tree));
    return run.root("corpus").hex();
  };
  const std::string older_root = checkpoint({.documents = 17}, "older-");
  checkpoint({.documents = 17, .first = 1}, "other-");
  checkpoint({.documents = 41}, "larger-");
  checkpoint({.salt = salt, .documents = 17}, "private-");
  auto run = std::make_unique<ProvableRun>();
  const std::string root = run->root("corpus").hex();
  ProveConfig prove;
  prove.key = desk.key();
  const auto proved = [&](const std::string& older) {
    prove.older = desk.file(older);
    prove.out = desk.file("proof.json");
    return audit_prove(prove, run->path()).exit_code;
  };
  CHECK_THROWS_WITH(proved("other-documents"), Contains("does not begin with the older one"));
  CHECK_THROWS_WITH(proved("larger-documents"), Contains("41 documents"));
  CHECK_THROWS_WITH(proved("private-documents"), Contains("private"));
  CHECK_THROWS_WITH(proved("older-sorted"), Contains("the sorted one"));
  CHECK_FALSE(fs::exists(desk.file("proof.json")));
  prove.document = std::string(64, '0');
  CHECK_THROWS_AS(proved("older-documents"), UsageError);
  prove.document = "";
  REQUIRE(proved("older-documents") == 0);
  run.reset();

  CheckProofConfig config;
  std::string said;
  const auto checked = [&] {
    config.checkpoint_key = desk.public_key();
    const Answer answer = audit_check_proof(config, desk.file("proof.json"));
    said = answer.text;
    return answer.exit_code;
  };
  CHECK(checked() == 0);
  CHECK_THAT(said, Contains(root + " of 40 documents begins with all of corpus sha256:" + older_root + " of 17 documents"));
  config.corpus = root;
  config.older = desk.file("older-documents");
  CHECK(checked() == 0);
  config.older = desk.file("other-documents");
  CHECK(checked() == 4);
  CHECK_THAT(said, Contains("another older checkpoint"));
  config.older = desk.file("older-documents");
  config.corpus = older_root;
  CHECK(checked() == 4);
  config = {};
  config.document = std::string(64, '0');
  CHECK_THROWS_AS(checked(), FormatError);
  config = {};

  // Its content, changed; and other signers.
  const std::string text = read_file(desk.file("proof.json"));
  const ConsistencyProof good = ConsistencyProof::parse(text, "proof.json");
  const auto refused = [&](auto change, const char* fault) {
    ConsistencyProof proof = good;
    change(proof);
    write_text(desk.file("proof.json"), proof.text());
    CHECK(checked() == 4);
    CHECK_THAT(said, Contains(fault));
  };
  refused([](ConsistencyProof& p) { p.path.front().bytes[0] ^= 1; }, "does not begin");
  refused([](ConsistencyProof& p) { p.path.pop_back(); }, "does not begin");
  refused([](ConsistencyProof& p) { p.path.push_back(p.path.back()); }, "does not begin");
  refused([&](ConsistencyProof& p) { p.older = read_file(desk.file("other-documents")); }, "does not begin");
  refused([](ConsistencyProof& p) { std::swap(p.older, p.checkpoint); }, "40 documents");
  const NoteSigner stranger = NoteSigner::generate("stranger.example");
  refused([&](ConsistencyProof& p) { p.older = stranger.sign_note(unverified_note_text(p.older, "n")); }, "signature");
  refused([&](ConsistencyProof& p) { p.checkpoint = stranger.sign_note(unverified_note_text(p.checkpoint, "n")); }, "signature");
  write_text(desk.file("proof.json"), text.substr(0, text.size() - 1));
  CHECK_THROWS_AS(checked(), FormatError);

  // The older one by an older key: it is named apart.
  TreeHead head = TreeHead::parse(unverified_note_text(good.older, "n"), "n");
  head.origin.replace(0, head.origin.find('/'), stranger.verifier().name());
  ConsistencyProof rotated = good;
  rotated.older = stranger.sign_note(head.text());
  write_text(desk.file("proof.json"), rotated.text());
  CHECK(checked() == 4);
  config.older_checkpoint_key = stranger.verifier().text();
  CHECK(checked() == 0);
}

TEST_CASE("a private corpus only adds, too, while its secret is the same") {
  Desk desk;
  const auto salt = CorpusSalt::from_bytes(std::string(32, 'x'), "m"),
             another = CorpusSalt::from_bytes(std::string(32, 'y'), "m");
  const ProvableRun older({.salt = salt, .documents = 16});
  CheckpointConfig checkpoint;
  checkpoint.key = desk.key();
  audit_checkpoint(checkpoint, older.path());
  ProveConfig prove;
  prove.key = desk.key();
  prove.older = (older.path() / "audits/corpus-documents.checkpoint").string();
  prove.out = desk.file("proof.json");
  const ProvableRun same({.salt = salt}), changed({.salt = another});
  CHECK_THROWS_AS(audit_prove(prove, changed.path()), ProvenanceError);
  CHECK(audit_prove(prove, same.path()).exit_code == 0);
  CHECK(desk.check("proof.json") == 0);
}

TEST_CASE("a private corpus is proved with its secret, and verified with and without it") {
  Desk desk;
  CorpusSalt::create(desk.file("salt"));
  CorpusSalt::create(desk.file("wrong"));
  const ProvableRun run({.salt = CorpusSalt::read(desk.file("salt"))});
  CHECK_THROWS_AS(desk.prove(run.path(), sha256(text_of(1)).hex(), "p.json"), UsageError);
  CHECK_THROWS_AS(desk.prove(run.path(), sha256(text_of(1)).hex(), "p.json", desk.file("wrong")), MismatchError);
  CHECK(desk.prove(run.path(), sha256(text_of(1)).hex(), "p.json", desk.file("salt")) == 0);
  CHECK(desk.check("p.json") == 0);
  CHECK_THAT(desk.said, Contains("is in corpus"));
  CHECK(desk.prove(run.path(), sha256("x").hex(), "a.json", desk.file("salt")) == 0);
  CHECK_THAT(desk.said, Contains("reveals the salt"));
  CHECK(desk.check("a.json") == 0);
  CHECK(failures(run.path()) == "");
  CHECK(failures(run.path(), desk.file("salt")) == "");
  CHECK_THAT(failures(run.path(), desk.file("wrong")), Contains("not made with the secret"));
  CHECK_THAT(audit_verify({}, run.path()).text, Contains("is private"));

  const ProvableRun liar({.wrong_digest = 4, .salt = CorpusSalt::read(desk.file("salt"))});
  CHECK_THAT(failures(liar.path(), desk.file("salt")), Contains("leaf 4 is not") && Contains("another value for document 4"));
}

TEST_CASE("a table that is not what was committed to is caught, although everything is signed") {
  SECTION("honest") { CHECK(failures(ProvableRun().path()) == ""); }
  SECTION("one digest") {
    CHECK_THAT(failures(ProvableRun({.wrong_digest = 17}).path()),
               Contains("leaf 17 is not") && Contains("another value for document 17"));
  }
  SECTION("two lines exchanged") { CHECK_THAT(failures(ProvableRun({.exchanged = 9}).path()), Contains("leaf 9 is not")); }
  SECTION("a document left out") {
    CHECK_THAT(failures(ProvableRun({.drop_last = true}).path()), Contains("lists 39 documents, the commitment 40"));
  }
}

TEST_CASE("changed trees and indexes are caught, although everything is signed") {
  const ProvableRun run;
  const auto lineage = *open_artifact(run.path() / "corpus", VerifyFiles::no, nullptr);
  const auto after = [&](const std::string& name, size_t from_end, const std::string& inserted = "") {
    const fs::path file = run.path() / "corpus" / name;
    std::string text = read_file(file);
    if (inserted.empty()) text[text.size() - from_end] = char(text[text.size() - from_end] ^ 1);
    else text = inserted;
    write_file_atomically(file, text);
    seal_artifact(run.path() / "corpus", scan_artifact(run.path() / "corpus").files, lineage, run.key);
    return failures(run.path());
  };
  SECTION("a stored leaf") { CHECK_THAT(after("tiles.safetensors", 1), Contains("leaf 39 is not")); }
  SECTION("a key") {
    CHECK_THAT(after("index.safetensors", kDocuments * 8 + 3 * 8 * (kDocuments + 1) + 1),
               Contains("another value") && Contains("sorted tree"));
  }
  SECTION("an ordinal") { CHECK_THAT(after("index.safetensors", kDocuments * 8), Contains("index.safetensors")); }
  SECTION("a rank") { CHECK_THAT(after("index.safetensors", kDocuments * 4), Contains("index.safetensors")); }
  SECTION("a token count") {
    CHECK_THAT(after("index.safetensors", kDocuments * 8 + 3 * 8 * (kDocuments + 1) - 16),
               Contains("index.safetensors") || Contains("tokens"));
  }
  SECTION("a root") {
    Commitment roots = CorpusCommitment(run.path() / "corpus").roots();
    roots.sorted.root.bytes[5] ^= 1;
    CHECK_THAT(after("commitment.json", 0, roots.text()), Contains("commitment.json: has root"));
  }
  SECTION("a file of it removed") {
    fs::remove(run.path() / "corpus/tiles.safetensors");
    seal_artifact(run.path() / "corpus", scan_artifact(run.path() / "corpus").files, lineage, run.key);
    CHECK_THAT(failures(run.path()), Contains("tiles.safetensors"));
  }
}

TEST_CASE("an order of training that was chosen is caught") {
  const ProvableRun run;
  const auto with = [&](Metadata change, const Json& config) {
    OutputFolder out(run.path() / "soft-targets");
    Metadata metadata = {{"corpus_root", run.root("corpus").hex()},
                         {"teacher_root", run.root("teacher").hex()},
                         {"seed", "3"},
                         {"window_length", "16"},
                         {"order_key", order_key(run.root("corpus"), 3).hex()}};
    for (const auto& [key, value] : change) metadata[key] = value;
    const std::vector<int64_t> offsets(10, 0);
    SafetensorsWriter writer(out, "targets.safetensors", {{"block_offsets", DType::i64, {10}}}, metadata);
    writer.append(offsets.data(), offsets.size() * sizeof(int64_t));
    writer.close();
    run.seal("soft-targets", "teach", "taught", {{"teacher", "teacher"}, {"corpus", "corpus"}}, config);
    const std::string all = failures(run.path());
    // What was made of the old soft targets hangs in the air now; that is not the point here.
    std::string about;
    std::istringstream lines(all);
    for (std::string line; std::getline(lines, line);)
      if (line.starts_with("soft-targets/")) about += line + "\n";
    return about;
  };
  CHECK(with({}, {{"seed", 3}}).empty());
  CHECK_THAT(with({{"order_key", order_key(run.root("corpus"), 4).hex()}}, {{"seed", 3}}),
             Contains("trains in the order of key"));
  CHECK_THAT(with({}, {{"seed", 4}}), Contains("another seed"));
  CHECK(with({{"order_beacon", "c0ffee"}, {"order_key", order_key(run.root("corpus"), 3, "c0ffee").hex()}},
             {{"seed", 3}, {"order-beacon", "c0ffee"}})
            .empty());
  CHECK_THAT(with({{"order_beacon", "c0ffee"}, {"order_key", order_key(run.root("corpus"), 3, "c0ffee").hex()}},
                  {{"seed", 3}, {"order-beacon", ""}}),
             Contains("order beacon"));
  CHECK_THAT(with({{"order_beacon", "c0ffee"}}, {{"seed", 3}, {"order-beacon", "c0ffee"}}),
             Contains("trains in the order of key"));
  CHECK_THAT(with({{"order_beacon", "xyz"}}, {{"seed", 3}, {"order-beacon", "xyz"}}), Contains("not 1 to 512 bytes"));
}
