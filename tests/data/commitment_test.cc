#include "data/commitment.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <set>

#include "core/error.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/rng.h"
#include "provenance/merkle.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

namespace overproof {
namespace {

Digest document(int64_t i) { return sha256("document " + std::to_string(i)); }
int64_t tokens_of(int64_t i) { return 1 + i * 37 % 50; }
Split split_of(int64_t i) { return i % 7 == 3 ? Split::held_out : Split::train; }
int64_t record_of(int64_t i) { return i * 100 + i % 13; }

CorpusSalt secret(char c = 's') { return CorpusSalt::from_bytes(std::string(32, c), "memory"); }

/// The three files of a corpus of n documents.
struct Committed {
  TempFolder folder;
  Commitment roots;
  explicit Committed(int64_t n, bool is_private = false) {
    set_progress_mode(ProgressMode::off);
    OutputFolder out(folder.path());
    CommitmentWriter writer(is_private ? std::optional(secret()) : std::nullopt);
    for (int64_t i = 0; i < n; ++i) writer.add(document(i), split_of(i), tokens_of(i), record_of(i));
    roots = writer.finish(out, record_of(n));
  }
  CorpusCommitment open() const { return CorpusCommitment(folder.path()); }
};

/// A proof with its checkpoint, as it is published.
CorpusProof signed_proof(const CorpusCommitment& commitment, const NoteSigner& signer, const Digest& d, CorpusTree tree,
                         const CorpusSalt* salt = nullptr) {
  CorpusProof proof = commitment.prove(d, tree, salt);
  proof.checkpoint =
      signer.sign_note(corpus_tree_head(commitment.roots(), proof.tree, sha256("corpus"), signer.verifier().name()).text());
  return proof;
}

std::string fault_of(const CorpusProof& proof, const NoteSigner& signer) {
  return check_corpus_proof(proof, signer.verifier(), "memory").fault;
}

TEST_CASE("both trees have the roots of their leaves, and the files contain them") {
  for (const int64_t n : {0, 1, 2, 255, 256, 257, 1000}) {
    INFO(n);
    const Committed made(n);
    const CorpusCommitment read = made.open();
    CHECK(read.roots() == made.roots);
    std::vector<Digest> leaves, values;
    for (int64_t i = 0; i < n; ++i) {
      leaves.push_back(merkle_leaf(document(i)));
      values.push_back(document(i));
    }
    std::sort(values.begin(), values.end());
    CHECK(read.document_values(0, n).size() == size_t(n));
    for (int64_t i = 0; i < n; ++i) CHECK(read.document_values(i, 1)[0] == document(i));
    CHECK(made.roots.documents.root == merkle_root(leaves));
    std::vector<Digest> sorted;
    for (const Digest& value : values) sorted.push_back(merkle_leaf(value));
    CHECK(made.roots.sorted.root == merkle_root(sorted));
    for (const CorpusTree tree : {CorpusTree::documents, CorpusTree::sorted})
      CHECK(read.tree(tree).root() == made.roots.tree(tree).root);
    CHECK(Commitment::parse(made.roots.text(), "memory") == made.roots);
  }
}

TEST_CASE("the files do not depend on the number of threads") {
  std::set<std::string> seen;
  for (const int64_t threads : {1, 2, 3}) {
    set_thread_count(threads);
    const Committed made(3000);
    std::string all;
    for (const char* name : {"commitment.json", "tiles.safetensors", "index.safetensors"}) all += read_file(made.folder / name);
    seen.insert(sha256(all).hex());
  }
  set_thread_count(0);
  CHECK(seen.size() == 1);
}

TEST_CASE("the index answers what walking through the table finds") {
  const int64_t n = 700, length = 64;
  const Committed made(n);
  const DocumentIndex index(made.folder.path());
  REQUIRE(index.documents() == n);
  int64_t filled[2] = {0, 0};
  std::vector<int64_t> owner[2];
  for (int64_t i = 0; i < n; ++i) {
    CHECK(index.find(document(i)) == i);
    CHECK(index.key(index.rank(i)) == document(i));
    const TokenRange range = index.tokens(i);
    CHECK(range.split == split_of(i));
    CHECK(range.first == filled[size_t(range.split)]);
    CHECK(range.count == tokens_of(i));
    CHECK(index.record(i) == std::pair(record_of(i), record_of(i + 1)));
    filled[size_t(range.split)] += range.count;
    owner[size_t(range.split)].insert(owner[size_t(range.split)].end(), size_t(range.count), i);
  }
  for (const Split split : {Split::train, Split::held_out}) {
    const auto& owners = owner[size_t(split)];
    REQUIRE(index.stream_tokens(split) == int64_t(owners.size()));
    for (size_t p = 0; p < owners.size(); ++p) REQUIRE(index.at(split, int64_t(p)) == owners[p]);
    for (int64_t w = 0; w < (int64_t(owners.size()) - 1) / length; ++w) {
      std::set<int64_t> expected(owners.begin() + ptrdiff_t(w * length), owners.begin() + ptrdiff_t(w * length + length + 1));
      const auto found = index.in_window(split, w, length);
      REQUIRE(std::set<int64_t>(found.begin(), found.end()) == expected);
      REQUIRE(found.size() == expected.size());
    }
  }
  for (int64_t i = n; i < n + 300; ++i) CHECK_FALSE(index.find(document(i)));
}

TEST_CASE("ranks are found where keys are not uniform, too") {
  TempFolder folder;
  OutputFolder out(folder.path());
  DocumentIndexBuilder builder;
  std::vector<Digest> keys;
  for (int i = 0; i < 500; ++i) {
    Digest key;  // all in one corner
    key.bytes[30] = uint8_t(i >> 7);
    key.bytes[31] = uint8_t(2 * (i & 127));
    keys.push_back(key);
  }
  for (size_t i = 0; i < keys.size(); ++i) builder.add(keys[(i * 7) % keys.size()], Split::train, 1, int64_t(i));
  builder.write(out, 500);
  const DocumentIndex index(folder.path());
  for (size_t r = 0; r < keys.size(); ++r) {
    CHECK(index.lower_bound(keys[r]) == int64_t(r));
    Digest above = keys[r];
    above.bytes[31] += 1;
    CHECK(index.lower_bound(above) == int64_t(r) + 1);
  }
  Digest last;
  last.bytes.fill(0xff);
  CHECK(index.lower_bound(last) == 500);
  CHECK(index.lower_bound(Digest{}) == 0);
}

TEST_CASE("two documents with one digest are refused") {
  TempFolder folder;
  OutputFolder out(folder.path());
  DocumentIndexBuilder builder;
  builder.add(document(1), Split::train, 1, 0);
  builder.add(document(2), Split::train, 1, 1);
  builder.add(document(1), Split::train, 1, 2);
  CHECK_THROWS_AS(builder.write(out, 3), MismatchError);
}

TEST_CASE("presence and absence of every document of small corpora are proved") {
  const NoteSigner signer = NoteSigner::generate("example.com/corpora");
  for (const bool is_private : {false, true})
    for (const int64_t n : {0, 1, 2, 3, 255, 256, 257}) {
      INFO(n << (is_private ? " private" : ""));
      const Committed made(n, is_private);
      const CorpusCommitment commitment = made.open();
      const CorpusSalt salt = secret();
      for (int64_t i = 0; i < n + 40; ++i)
        for (const CorpusTree tree : {CorpusTree::documents, CorpusTree::sorted}) {
          const CorpusProof proof = signed_proof(commitment, signer, document(i), tree, &salt);
          CHECK(proof.present == (i < n));
          CHECK(fault_of(proof, signer) == "");
          CHECK(check_corpus_proof(proof, signer.verifier(), "memory").documents == n);
          CHECK(CorpusProof::parse(proof.text(), "memory").text() == proof.text());
        }
      Digest first, last;
      last.bytes.fill(0xff);
      for (const Digest& end : {first, last})
        CHECK(fault_of(signed_proof(commitment, signer, end, CorpusTree::sorted, &salt), signer) == "");
    }
}

TEST_CASE("no proof shows what is not so") {
  const NoteSigner signer = NoteSigner::generate("example.com/corpora");
  const Committed made(300);
  const CorpusCommitment commitment = made.open();
  CorpusProof present = signed_proof(commitment, signer, document(5), CorpusTree::documents);
  CorpusProof absent = signed_proof(commitment, signer, document(1000), CorpusTree::sorted);
  REQUIRE(fault_of(present, signer) == "");
  REQUIRE(fault_of(absent, signer) == "");
  REQUIRE(absent.leaves.size() == 2);

  SECTION("another document") {
    present.document = document(6);
    CHECK(fault_of(present, signer) != "");
    absent.document = document(5);  // is in the corpus, at another place
    CHECK(fault_of(absent, signer) != "");
  }
  SECTION("a document that is there, between its true neighbours but itself") {
    const int64_t rank = commitment.index().lower_bound(document(5));
    absent.document = document(5);
    absent.leaves.clear();
    for (const int64_t r : {rank - 1, rank + 1})
      absent.leaves.push_back({r, commitment.index().key(r), commitment.tree(CorpusTree::sorted).inclusion(r)});
    CHECK_THAT(fault_of(absent, signer), Catch::Contains("no neighbours"));
    absent.leaves[1].index = rank;  // lying about the place breaks the way
    CHECK_THAT(fault_of(absent, signer), Catch::Contains("not in the signed tree"));
    absent.leaves = {{rank, document(5), commitment.tree(CorpusTree::sorted).inclusion(rank)},
                     {rank + 1, commitment.index().key(rank + 1), commitment.tree(CorpusTree::sorted).inclusion(rank + 1)}};
    CHECK_THAT(fault_of(absent, signer), Catch::Contains("is not between"));
  }
  SECTION("one neighbour where there are two") {
    absent.leaves.pop_back();
    CHECK_THAT(fault_of(absent, signer), Catch::Contains("end of the tree"));
    absent.leaves.clear();
    CHECK_THAT(fault_of(absent, signer), Catch::Contains("does not show"));
  }
  SECTION("presence in the tree of another checkpoint") {
    present.checkpoint = absent.checkpoint;
    CHECK_THAT(fault_of(present, signer), Catch::Contains("other tree"));
  }
  SECTION("absence from the documents tree") {
    absent.tree = CorpusTree::documents;
    absent.checkpoint = present.checkpoint;
    CHECK_THAT(fault_of(absent, signer), Catch::Contains("only the sorted tree"));
  }
  SECTION("another signer") {
    CHECK_THAT(fault_of(present, NoteSigner::generate("example.com/corpora")), Catch::Contains("does not hold a signature"));
    const NoteSigner other = NoteSigner::generate("other.example");
    present.checkpoint = other.sign_note(
        corpus_tree_head(commitment.roots(), CorpusTree::documents, sha256("corpus"), "example.com/corpora").text());
    CHECK_THAT(fault_of(present, other), Catch::Contains("another signer names"));
  }
  SECTION("a salt where there is none") {
    present.salt = document(0);
    CHECK_THAT(fault_of(present, signer), Catch::Contains("not private"));
  }
  SECTION("an absence of all documents from an empty tree that is not signed") {
    absent.leaves.clear();
    absent.checkpoint =
        signer.sign_note(TreeHead{"example.com/corpora/" + sha256("corpus").hex() + "/sorted", 0, sha256("x")}.text());
    CHECK_THAT(fault_of(absent, signer), Catch::Contains("not that of an empty tree"));
  }
}

TEST_CASE("a private corpus: the right secret only, and no other salt hides a document") {
  const NoteSigner signer = NoteSigner::generate();
  const Committed made(50, true), open(50);
  const CorpusCommitment commitment = made.open();
  const CorpusSalt salt = secret(), other = secret('o');
  CHECK(made.roots.is_private());
  CHECK(made.roots.documents.root != open.roots.documents.root);
  CHECK_THROWS_AS(commitment.prove(document(1), CorpusTree::documents, nullptr), UsageError);
  CHECK_THROWS_AS(commitment.prove(document(1), CorpusTree::documents, &other), MismatchError);

  CorpusProof present = signed_proof(commitment, signer, document(1), CorpusTree::documents, &salt);
  CHECK(present.salt == salt.document_salt(document(1)));
  CHECK(present.salt != salt.document_salt(document(2)));
  CHECK(fault_of(present, signer) == "");
  present.salt.reset();
  CHECK_THAT(fault_of(present, signer), Catch::Contains("reveals no salt"));

  // The owner of document 1 asks; the prover invents a salt under which its value is not in the tree.
  CorpusProof absent;
  absent.document = document(1);
  absent.tree = CorpusTree::sorted;
  absent.salt = sha256("invented");
  const Digest value = corpus_leaf_value(absent.document, absent.salt);
  const int64_t rank = commitment.index().lower_bound(value);
  for (const int64_t r : {rank - 1, rank})
    if (r >= 0 && r < 50)
      absent.leaves.push_back({r, commitment.index().key(r), commitment.tree(CorpusTree::sorted).inclusion(r)});
  absent.checkpoint = signer.sign_note(
      corpus_tree_head(commitment.roots(), CorpusTree::sorted, sha256("corpus"), signer.verifier().name()).text());
  CHECK_THAT(fault_of(absent, signer), Catch::Contains("not the one that the tree was made with"));
  // And nothing of the three files holds a digest of a document.
  for (const char* name : {"commitment.json", "tiles.safetensors", "index.safetensors"}) {
    const std::string text = read_file(made.folder / name);
    for (int64_t i = 0; i < 50; ++i) {
      const Digest digest = document(i);
      CHECK(text.find(std::string(digest.bytes.begin(), digest.bytes.end())) == std::string::npos);
      CHECK(text.find(digest.hex()) == std::string::npos);
    }
  }
}

TEST_CASE("every changed byte of a proof is refused") {
  const NoteSigner signer = NoteSigner::generate();
  const CorpusSalt salt = secret();
  const Committed made(9, true);
  const CorpusCommitment commitment = made.open();
  for (const Digest& d : {document(4), document(77)}) {
    const std::string text = signed_proof(commitment, signer, d, CorpusTree::documents, &salt).text();
    const auto accepted = [&](const std::string& changed) {
      try {
        const CorpusProof proof = CorpusProof::parse(changed, "memory");
        // The verifier knows the document.
        return proof.document == d && proof.present == (d == document(4)) &&
               check_corpus_proof(proof, signer.verifier(), "memory").holds();
      } catch (const FormatError&) {
        return false;
      }
    };
    REQUIRE(accepted(text));
    for (size_t i = 0; i < text.size(); ++i)
      for (const uint8_t flip : {0x01, 0x02, 0x04, 0x20, 0x80}) {
        std::string changed = text;
        changed[i] = char(uint8_t(changed[i]) ^ flip);
        INFO(i << " " << int(flip) << " " << text.substr(i < 20 ? 0 : i - 20, 40));
        CHECK_FALSE(accepted(changed));
      }
    for (size_t length = 0; length < text.size(); ++length) CHECK_FALSE(accepted(text.substr(0, length)));
    CHECK_FALSE(accepted(text + " "));
    CHECK_FALSE(accepted(text + "\n"));
  }
}

TEST_CASE("a secret is 32 bytes that only its owner reads, and is never replaced") {
  TempFolder folder;
  const fs::path file = folder / "keys/corpus.salt";
  CorpusSalt::create(file);
  struct stat status {};
  REQUIRE(::stat(file.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK(read_file(file).size() == 32);
  CHECK_THROWS_AS(CorpusSalt::create(file), UsageError);
  CHECK(CorpusSalt::read(file).sorted_salt() != Digest{});
  ::chmod(file.c_str(), 0640);
  CHECK_THROWS_AS(CorpusSalt::read(file), ProvenanceError);
  write_text(folder / "short", "x");
  ::chmod((folder / "short").c_str(), 0600);
  CHECK_THROWS_AS(CorpusSalt::read(folder / "short"), FormatError);
}

TEST_CASE("origins have one spelling") {
  const std::string hex = sha256("x").hex();
  for (const std::string& good : {"a/" + hex + "/documents", "example.com/a/b/" + hex + "/sorted",
                                  "a/" + hex + "/documents-salted", "a/" + hex + "/sorted-" + hex})
    CHECK(CorpusOrigin::parse(good, "memory").text() == good);
  for (const std::string& bad : {std::string(), std::string("/"), std::string("//"), hex + "/documents", "/" + hex + "/documents",
                                 "a/" + hex, "a/" + hex + "/", "a/" + hex + "/document", "a/" + hex + "/documents-",
                                 "a/" + hex + "/sorted-", "a/" + hex + "/sorted-00", "a/" + hex.substr(1) + "/sorted",
                                 "a/" + hex + "0/sorted", "a/" + hex + "/sorted-" + std::string(64, 'A')})
    CHECK_THROWS_AS(CorpusOrigin::parse(bad, "memory"), FormatError);
}

TEST_CASE("files that do not fit together are refused") {
  const Committed made(300), other(299);
  const auto exchange = [&](const char* name) {
    fs::copy_file(other.folder / name, made.folder / name, fs::copy_options::overwrite_existing);
    CHECK_THROWS_AS(made.open(), FormatError);
  };
  SECTION("index") { exchange("index.safetensors"); }
  SECTION("tiles") { exchange("tiles.safetensors"); }
  SECTION("roots") { exchange("commitment.json"); }
  SECTION("roots that are none") {
    for (const char* text : {"", "{}", "[]", R"({"format_version":2,"documents":{"size":0,"root":""},"sorted":{}})"}) {
      write_text(made.folder / "commitment.json", text);
      CHECK_THROWS_AS(made.open(), FormatError);
    }
  }
}

}  // namespace
}  // namespace overproof
