#pragma once
// What a corpus commits to, and proofs about one document that need nothing but the public note key.
//
// A corpus has two trees over the same documents: "documents" in the order of its table, and "sorted" with strictly ascending
// values. A leaf's data, its value, is 32 bytes: the SHA-256 of the text. Where values ascend, two neighbours show that no document
// is between them: that is a proof of absence.
//
// A private corpus commits to salted values, SHA-256("overproof salted leaf v1" || salt || digest), so that guessed texts cannot be
// tried against its hashes. Salts come from the owner's secret by HMAC-SHA256:
//   documents   A salt a document, HMAC(secret, "document" || digest). A proof reveals that one salt. Whether it is the right one
//               need not be shown: any salt that gives a committed value will do.
//   sorted      One salt for the corpus, HMAC(secret, "sorted"), whose SHA-256 is in the tree's signed origin. Absence needs that:
//               with a salt a document, a maker could hide a document by a salt that it was not committed under. The price: the
//               holder of an absence proof can try guessed texts against the values in it, which are two a proof, or against all
//               of them if the sorted tree's tiles are published. That is the owner's choice; presence never costs it.
//   files       HMAC(secret, "file" || name), a line in each of the corpus's files, so that their digests cannot be guessed either.
//   batches     HMAC(secret, "batch"), for digests outside the corpus that texts decide: batch roots, draws of soft targets.
//
// A proof of format 2 binds its tree to the corpus artifact: it holds the text of commitment.json and the digests of the artifact's
// other files. The artifact's root is SHA-256 over these digests in the order of file names (provenance/oms.h), and commitment.json
// is the first of them; `audit verify` refuses a corpus in which it is not. So the root, which every descendant's statement names,
// fixes both trees. Format 1 has neither; that its tree is the corpus's has to be compared by hand.
//
// A proof of absence rests on the sorted tree being sorted and of the same documents. `audit verify` shows both, given the corpus
// or, for those who may not see texts, its table. Towards the holder of the proof alone, the signer has bound himself: a presence
// proof of the same document under the same corpus root convicts him.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"
#include "provenance/signed_note.h"

namespace overproof {

enum class CorpusTree { documents, sorted };

/// The secret of a private corpus: 32 random bytes.
class CorpusSalt {
 public:
  static CorpusSalt read(const fs::path& file);  ///< throws ProvenanceError when others may read it, FormatError on its size
  static void create(const fs::path& file);      ///< throws UsageError when the file exists
  static CorpusSalt from_bytes(std::string_view secret, const fs::path& origin);
  Digest document_salt(const Digest& document) const;
  Digest sorted_salt() const;
  Digest salt(CorpusTree tree, const Digest& document) const;
  Digest file_salt(std::string_view file) const;  ///< `file`: its name in the artifact
  Digest batch_salt() const;

 private:
  std::string secret_;
};

/// A leaf's data. `salt`: nullopt where the corpus is not private.
Digest corpus_leaf_value(const Digest& document, const std::optional<Digest>& salt);

/// The roots, as the artifact's commitment.json holds them.
struct Commitment {
  struct Tree {
    int64_t size = 0;
    Digest root;
    bool operator==(const Tree&) const = default;
  };
  Tree documents, sorted;
  std::optional<Digest> sorted_salt_digest;  ///< SHA-256 of sorted_salt(); set exactly where the corpus is private
  bool is_private() const { return sorted_salt_digest.has_value(); }
  const Tree& tree(CorpusTree which) const { return which == CorpusTree::documents ? documents : sorted; }
  std::string text() const;
  static Commitment parse(std::string_view text, const fs::path& origin);  ///< throws FormatError
  bool operator==(const Commitment&) const = default;
};

/// Names one tree of one corpus artifact, as a checkpoint's first line: NAME/CORPUS/TREE, where CORPUS is the artifact's root in
/// hex, and TREE "documents", "documents-salted", "sorted", or "sorted-" and SHA-256 of the sorted tree's salt in hex. Every
/// corpus is a log of its own; that one begins with another is for a ConsistencyProof to show.
struct CorpusOrigin {
  std::string name;  ///< the note key's
  Digest corpus;
  CorpusTree tree = CorpusTree::documents;
  bool is_private = false;
  std::optional<Digest> sorted_salt_digest;
  std::string text() const;
  static CorpusOrigin parse(std::string_view text, const fs::path& origin);  ///< throws FormatError
};

/// The checkpoint of one tree, yet to be signed.
TreeHead corpus_tree_head(const Commitment& commitment, CorpusTree tree, const Digest& corpus_root, const std::string& name);

/// What ties a tree to a corpus artifact (format 2).
struct CorpusBinding {
  std::string commitment;           ///< the text of commitment.json, the first file of the artifact
  std::vector<Digest> other_files;  ///< of all others, in the order of their names
};

/// Why the corpus of `origin` does not commit to the tree `tree`; "" if it does. Throws FormatError on a bad commitment.
std::string corpus_binding_fault(const CorpusBinding& binding, const TreeHead& tree, const CorpusOrigin& origin);

/// A leaf with its path to the root.
struct ProvenLeaf {
  int64_t index = 0;
  std::optional<Digest> value;  ///< of a neighbour; the document's own value follows from its digest and salt
  std::vector<Digest> path;
};

/// Presence: one leaf of either tree. Absence: the neighbours in the sorted tree, of which there is one at its ends, and none in
/// an empty tree.
struct CorpusProof {
  bool present = false;
  CorpusTree tree = CorpusTree::documents;
  Digest document;
  std::optional<Digest> salt;
  std::vector<ProvenLeaf> leaves;
  std::string checkpoint;  ///< the signed note, with whatever witnesses added to it
  std::optional<CorpusBinding> corpus = {};  ///< none in format 1

  std::string text() const;  ///< JSON
  /// Throws FormatError. A proof has one spelling: what text() would not have written is refused.
  static CorpusProof parse(std::string_view text, const fs::path& origin);
};

/// Why leaves and paths do not show the proof's claim about the tree with this head and origin; "" if they do.
std::string corpus_proof_fault(const CorpusProof& proof, const TreeHead& tree, const CorpusOrigin& origin);

struct ProofCheck {
  std::string fault;  ///< "" when the proof holds
  CorpusOrigin origin;
  int64_t documents = 0;  ///< in the corpus
  Digest tree_root;       ///< of the signed tree
  bool bound = false;     ///< the tree was shown to be the one that the corpus commits to (format 2)
  bool holds() const { return fault.empty(); }
};

/// Checks signature, origin, leaves and ways. `origin` is for messages. Throws FormatError where the note is none.
ProofCheck check_corpus_proof(const CorpusProof& proof, const NoteVerifier& key, const fs::path& origin);

/// That a corpus only adds to an older one: its documents tree begins with all of the older's leaves, in their order (RFC 9162,
/// section 2.1.4). Both heads are signed. Private corpora have the same leaves as long as they keep the same secret.
struct ConsistencyProof {
  std::string older, checkpoint;  ///< signed notes, with whatever witnesses added to them
  std::vector<Digest> path;
  std::optional<CorpusBinding> corpus = {};  ///< of the newer one; none in format 1

  std::string text() const;  ///< JSON
  /// Whether a parsed file has the format of one; else it should be a CorpusProof.
  static bool is_named_by(const Json& json);
  /// Throws FormatError. A proof has one spelling, as above.
  static ConsistencyProof parse(std::string_view text, const fs::path& origin);
};

struct ConsistencyCheck {
  std::string fault;  ///< "" when the proof holds
  TreeHead older, newer;
  CorpusOrigin older_origin, origin;
  bool holds() const { return fault.empty(); }
};

/// All but the signatures. Throws FormatError where a note is none, or of no corpus.
ConsistencyCheck consistency_of(const ConsistencyProof& proof, const fs::path& origin);
/// Checks signatures, origins and way. `older_key`: whose the older checkpoint is.
ConsistencyCheck check_consistency(const ConsistencyProof& proof, const NoteVerifier& older_key, const NoteVerifier& key,
                                   const fs::path& origin);

}  // namespace overproof
