// Proof JSON, signed notes, checkpoints, note keys, origins and tile names: any bytes are refused with a FormatError or accepted;
// what is accepted is written as it was read, and nothing that the key did not sign holds.

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "provenance/corpus_proof.h"
#include "provenance/tlog_tiles.h"

using namespace overproof;

namespace {

template <class Read>
void try_reading(Read read) {
  try {
    read();
  } catch (const FormatError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const NoteSigner signer = NoteSigner::generate("fuzz");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try_reading([&] {
    const CorpusProof proof = CorpusProof::parse(text, "proof.json");
    fuzz::require(proof.text() == text);
    fuzz::require(!check_corpus_proof(proof, signer.verifier(), "proof.json").holds());
  });
  try_reading([&] {
    const ConsistencyProof proof = ConsistencyProof::parse(text, "proof.json");
    fuzz::require(proof.text() == text);
    fuzz::require(!check_consistency(proof, signer.verifier(), signer.verifier(), "proof.json").holds());
  });
  try_reading([&] { fuzz::require(!open_note(text, signer.verifier(), "note")); });
  try_reading([&] { fuzz::require(text.starts_with(unverified_note_text(text, "note"))); });
  try_reading([&] { fuzz::require(TreeHead::parse(text, "checkpoint").text() == text); });
  try_reading([&] { fuzz::require(NoteVerifier::parse(text, "key").text() == text); });
  try_reading([&] { fuzz::require(CorpusOrigin::parse(text, "origin").text() == text); });
  try_reading([&] {
    fuzz::require(Commitment::parse(Commitment::parse(text, "commitment").text(), "commitment") ==
                  Commitment::parse(text, "commitment"));
  });
  // A signed text of the fuzzer's choice in a proof of its choice: whatever it makes up must not hold for a tree that it does not
  // know.
  if (size > 0 && data[size - 1] == '\n')
    try_reading([&] {
      const auto opened = open_note(signer.sign_note(text), signer.verifier(), "note");
      fuzz::require(!opened || *opened == text);
    });
  return 0;
}
