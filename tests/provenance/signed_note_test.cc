#include "provenance/signed_note.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "core/error.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

// The example of https://pkg.go.dev/golang.org/x/mod/sumdb/note: key, text and signed note, made by Go's implementation.
constexpr const char* kGoSigner = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
constexpr const char* kGoVerifier = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
constexpr const char* kGoText =
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
constexpr const char* kGoNote =
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "\xe2\x80\x94 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

}  // namespace

TEST_CASE("Go's note package and we write the same note with the same key") {
  const NoteSigner signer = NoteSigner::parse(kGoSigner, "memory");
  CHECK(signer.text() == kGoSigner);
  CHECK(signer.verifier().text() == kGoVerifier);
  CHECK(signer.sign_note(kGoText) == kGoNote);
  CHECK(open_note(kGoNote, NoteVerifier::parse(kGoVerifier, "memory"), "memory") == std::string(kGoText));
}

TEST_CASE("the specification's example note is read, but its key is not ours") {
  const std::string note =
      "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned \xc3\xa8 subito sera.\n\n"
      "\xe2\x80\x94 quasimodo.example/salvatore "
      "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
  CHECK_FALSE(open_note(note, NoteVerifier::parse(kGoVerifier, "memory"), "memory"));
}

TEST_CASE("signatures of others are passed over, a forged one under the key's own name is not") {
  const NoteSigner ours = NoteSigner::generate("example.com/log"), witness = NoteSigner::generate("witness.example");
  const std::string text = "example.com/log\n3\n" + std::string(43, 'A') + "=\n";
  const std::string note = ours.sign_note(text), theirs = witness.sign_note(text);
  const std::string their_line = theirs.substr(text.size() + 1), our_line = note.substr(text.size() + 1);
  CHECK(open_note(text + "\n" + their_line + our_line, ours.verifier(), "memory") == text);
  CHECK(open_note(text + "\n" + our_line + their_line, ours.verifier(), "memory") == text);
  CHECK_FALSE(open_note(theirs, ours.verifier(), "memory"));
  const std::string forged = ours.sign_note("another\n").substr(9);
  CHECK_FALSE(open_note(text + "\n" + our_line + forged, ours.verifier(), "memory"));
  CHECK_FALSE(open_note(text + "\n" + forged, ours.verifier(), "memory"));
  // Same name, another key: unknown, so ignored.
  const NoteSigner namesake = NoteSigner::generate("example.com/log");
  CHECK(open_note(note + namesake.sign_note(text).substr(text.size() + 1), ours.verifier(), "memory") == text);
}

TEST_CASE("every changed byte of a note is refused") {
  const NoteSigner signer = NoteSigner::generate();
  const std::string note = signer.sign_note(TreeHead{signer.verifier().name() + "/tree", 70000, sha256("root")}.text());
  for (size_t i = 0; i < note.size(); ++i)
    for (const int bit : {0, 1, 2, 5, 7}) {
      std::string changed = note;
      changed[i] = char(changed[i] ^ (1 << bit));
      bool opened = false;
      try {
        opened = open_note(changed, signer.verifier(), "memory").has_value();
      } catch (const FormatError&) {
      }
      INFO(i << " bit " << bit);
      CHECK_FALSE(opened);
    }
}

TEST_CASE("what is no note is named so") {
  const NoteSigner signer = NoteSigner::generate("n");
  const std::string note = signer.sign_note("text\n");
  for (const std::string& bad : {std::string(), std::string("text\n"), std::string("text\n\n"), note.substr(0, note.size() - 1),
                                 note + "x", note + "\n", "a\tb\n\n" + note.substr(6), std::string("text\n\n\xe2\x80\x94 n\n"),
                                 std::string("text\n\n\xe2\x80\x94 n AAAA\n"), std::string("text\n\n- n AAAAAAAA\n")})
    CHECK_THROWS_AS(open_note(bad, signer.verifier(), "memory"), FormatError);
}

TEST_CASE("a checkpoint is three lines with one spelling") {
  const TreeHead head{"example.com/behind-the-sofa", 20852163, sha256("x")};
  const TreeHead again = TreeHead::parse(head.text(), "memory");
  CHECK(again.origin == head.origin);
  CHECK(again.size == head.size);
  CHECK(again.root == head.root);
  const std::string root = head.text().substr(head.text().size() - 45);
  for (const std::string& bad : {std::string(), std::string("\n1\n") + root, "o\n01\n" + root, "o\n-1\n" + root, "o\n\n" + root,
                                 "o\n1x\n" + root, "o\n99999999999999999999\n" + root, "o\n1\n" + root + "more\n",
                                 std::string("o\n1\nAAAA\n"), "o\n1\n" + root.substr(0, 44), std::string("o\n1\n")})
    CHECK_THROWS_AS(TreeHead::parse(bad, "memory"), FormatError);
}

TEST_CASE("a note key is made once, readable by its owner only, with its public key in a second file") {
  TempFolder folder;
  const fs::path file = note_key_path(folder / "keys/signing-key.pem");
  CHECK(file == folder / "keys/signing-key.pem.note");
  const NoteSigner made = NoteSigner::load_or_create(file);
  struct stat status {};
  REQUIRE(::stat(file.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK(NoteSigner::load_or_create(file).text() == made.text());
  CHECK(NoteVerifier::from_text_or_file(file.string() + ".pub").text() == made.verifier().text());
  CHECK_THROWS_AS(NoteSigner::load_or_create(file, "another.example"), UsageError);
  ::chmod(file.c_str(), 0644);
  CHECK_THROWS_AS(NoteSigner::load_or_create(file), ProvenanceError);
}

TEST_CASE("keys that are none are refused") {
  const std::string good = NoteSigner::generate("example.com/a").verifier().text();
  std::string wrong_id = good;
  wrong_id[std::string("example.com/a+").size()] ^= 1;
  for (const std::string& bad : {std::string("x"), std::string("a+b"), std::string("+00000000+AAAA"), wrong_id, good + "A",
                                 good.substr(0, good.size() - 4), "a b" + good})
    CHECK_THROWS_AS(NoteVerifier::parse(bad, "memory"), FormatError);
  CHECK_THROWS_AS(NoteVerifier::from_text_or_file("no-such-file"), UsageError);
  CHECK_THROWS_AS(NoteSigner::generate("with space"), UsageError);
  CHECK_THROWS_AS(NoteSigner::generate("with+plus"), UsageError);
  CHECK_THROWS_AS(NoteSigner::parse(good, "memory"), FormatError);
}
