#pragma once
// Makes and checks proofs about the documents of a corpus artifact (see provenance/corpus_proof.h for what is proved, and what not),
// and signs and publishes its trees. Nothing here prints; audit/prove.h has the verbs.

#include <optional>
#include <string>

#include "core/config.h"
#include "provenance/corpus_proof.h"
#include "provenance/key_rotation.h"

namespace overproof {

/// The one corpus of a run, or of an artifact's ancestors, with the digests of its files as signed. Signatures are checked by the
/// trusted key, else by the one that all statements name.
struct CorpusPlace {
  fs::path run, path;
  std::string name;
  Digest root, statement;
  CorpusBinding binding;
};
/// Throws UsageError when there is no corpus, or several; FormatError when it has no commitment; ProvenanceError when it does not
/// hold.
CorpusPlace find_corpus(const fs::path& folder, const TrustOptions& trust = {});

std::string_view tree_name(CorpusTree tree);  ///< "documents", "sorted"

struct ProveConfig {
  std::string document, tree = "documents";
  fs::path older, out = "proof.json", salt, checkpoint, key;
  TrustOptions trust;
  template <class V>
  void visit(V&& v) {
    v("document", document, any_value(), "a text file, the SHA-256 of a text, or a document's name in the corpus");
    v("older", older, any_value(),
      "a signed checkpoint of an older corpus, instead of a document: proves that this one begins with all documents of that "
      "one");
    v("out", out, any_value(), "the proof, a JSON file");
    v("tree", tree, one_of({"documents", "sorted"}),
      "what presence is shown in: the tree in the table's order, or the sorted one; absence is always shown in the sorted one");
    v("salt", salt, any_value(), "the secret of a private corpus");
    v("checkpoint", checkpoint, any_value(),
      "a signed checkpoint of that tree; empty: the one that 'audit checkpoint' left in the run, or a new one by the note key");
    v("key", key, any_value(),
      "signing key, next to which is the note key KEY.note; both are made at first use; empty: $OVERPROOF_KEY or the user's own");
    trust.visit(v);
  }
};

/// A proof that was made, checked and written to `file`.
struct MadeProof {
  fs::path file;
  std::string corpus;  ///< the artifact's name
  CorpusProof proof;
  ProofCheck check;
  TreeHead head;
};
/// Proves presence or absence, whichever is the case. Throws as find_corpus, and ProvenanceError when the corpus's files do not give
/// the signed roots.
MadeProof prove_document(const ProveConfig& config, const fs::path& folder);

struct MadeConsistency {
  fs::path file;
  std::string corpus;
  ConsistencyCheck check;
};
/// Throws ProvenanceError when the corpus does not begin with the older one.
MadeConsistency prove_consistency(const ProveConfig& config, const fs::path& folder);

struct CheckProofConfig {
  std::string checkpoint_key, document, corpus, older_checkpoint_key;
  fs::path older, record;
  TrustOptions trust;
  template <class V>
  void visit(V&& v) {
    v("checkpoint-key", checkpoint_key, any_value(),
      "the signer's public note key: NAME+ID+KEY, or a file that holds it (KEY.note.pub)");
    v("document", document, any_value(), "the text file, or its SHA-256, that the proof must be about");
    v("corpus", corpus, any_value(), "the corpus that the proof must be about: the root that the model's statement names");
    v("older", older, any_value(),
      "of a proof of consistency: the older checkpoint that it must be about, as you were given it then");
    v("older-checkpoint-key", older_checkpoint_key, any_value(), "the note key of the older checkpoint, where it is another");
    v("record", record, any_value(),
      "audits/checkpoint-CORPUS.json of the run, by 'audit checkpoint': shows, with --public-key, that the note key is the signer's");
    trust.visit(v);
  }
};

/// A proof that was read and checked: one of the two.
struct CheckedProof {
  std::string signer;  ///< name of the note key
  std::optional<CorpusProof> proof;
  ProofCheck check;
  std::optional<ConsistencyCheck> consistency;
  std::string signing_key;  ///< hint of the trusted key that signed which note key is its owner's; "" where that was not asked
  bool holds() const { return consistency ? consistency->holds() : check.holds(); }
};
/// Needs no run. Throws FormatError when the file is no proof, UsageError without a key.
CheckedProof check_proof(const CheckProofConfig& config, const fs::path& file);

struct CheckpointConfig {
  fs::path key, publish;
  std::string name;
  TrustOptions trust;
  template <class V>
  void visit(V&& v) {
    v("key", key, any_value(),
      "signing key, next to which is the note key KEY.note; both are made at first use; empty: $OVERPROOF_KEY or the user's own");
    v("name", name, any_value(),
      "how a new note key is called, a URL without scheme (example.com/corpora); empty: after its digest");
    v("publish", publish, any_value(),
      "also write the trees as static files of C2SP tlog-tiles, for any web server, to this new folder");
    trust.visit(v);
  }
};

struct SignedCheckpoints {
  CorpusPlace corpus;
  std::string note_key;          ///< the public one
  std::string notes[2];          ///< by CorpusTree
  fs::path files[2];             ///< where they were written
  bool sorted_held_back = false;  ///< of a private corpus: its tiles were not published, as absence proofs reveal its salt
};
/// Signs both trees' checkpoints with the note key, and with the signing key whose note key that is: into the run's audits/.
/// Publishes the trees where that is asked for. Throws UsageError when that folder is there, ProvenanceError when the tiles do not
/// give the roots of commitment.json.
SignedCheckpoints sign_checkpoints(const CheckpointConfig& config, const fs::path& folder);

/// The file of a tree's checkpoint in the run.
fs::path checkpoint_path(const CorpusPlace& corpus, CorpusTree tree);

}  // namespace overproof
