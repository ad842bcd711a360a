#pragma once
// `overproof audit prove`, `audit check-proof`, `audit checkpoint`, `audit salt`: was this document in the corpus, shown to
// somebody who has nothing but a public key? provenance/corpus_proof.h says what is proved, and what is not.

#include <iosfwd>
#include <string>

#include "core/config.h"
#include "core/file.h"

namespace overproof {

struct ProveConfig {
  std::string document, older, out = "proof.json", tree = "documents", salt, checkpoint, key;
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
      "signing key, beside which the note key KEY.note stands; both are made at first use; empty: $OVERPROOF_KEY or the user's "
      "own");
  }
};

/// Decides by itself between presence and absence, checks the proof and writes it. Returns 0. Throws UsageError when there is no
/// corpus or it has no commitment, ProvenanceError when the artifact does not hold, or does not begin with the older corpus.
int audit_prove(const ProveConfig& config, const fs::path& folder, bool json, std::ostream& out);

struct CheckProofConfig {
  std::string checkpoint_key, document, corpus, older, older_checkpoint_key;
  template <class V>
  void visit(V&& v) {
    v("checkpoint-key", checkpoint_key, any_value(),
      "the signer's public note key: NAME+ID+KEY, or a file that holds it (KEY.note.pub)");
    v("document", document, any_value(), "the text file, or its SHA-256, that the proof must be about");
    v("corpus", corpus, any_value(), "the corpus that the proof must be about: the root that the model's statement names");
    v("older", older, any_value(),
      "of a proof of consistency: the older checkpoint that it must be about, as you were given it then");
    v("older-checkpoint-key", older_checkpoint_key, any_value(), "the note key of the older checkpoint, where it is another");
  }
};

/// Needs no run. Returns 0 when the proof holds, 4 when it does not. Throws FormatError when the file is no proof.
int audit_check_proof(const CheckProofConfig& config, const fs::path& proof, bool json, std::ostream& out);

struct CheckpointConfig {
  std::string key, name, publish;
  template <class V>
  void visit(V&& v) {
    v("key", key, any_value(),
      "signing key, beside which the note key KEY.note stands; both are made at first use; empty: $OVERPROOF_KEY or the user's "
      "own");
    v("name", name, any_value(),
      "how a new note key is called, a URL without scheme (example.com/corpora); empty: after its digest");
    v("publish", publish, any_value(),
      "also write the trees as static files of C2SP tlog-tiles, for any web server, to this new folder");
  }
};

/// Signs both trees' checkpoints with the note key, and with the signing key whose note key that is: into the run's audits/.
int audit_checkpoint(const CheckpointConfig& config, const fs::path& folder, bool json, std::ostream& out);

struct SaltConfig {
  std::string out;
  template <class V>
  void visit(V&& v) {
    v("out", out, any_value(), "the file to make; it must not be there");
  }
};

/// Makes the secret of a private corpus.
int audit_salt(const SaltConfig& config, bool json, std::ostream& out);

}  // namespace overproof
