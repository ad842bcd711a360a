#include "audit/corpus_proofs.h"

#include <fmt/format.h>

#include <algorithm>

#include "audit/facts.h"
#include "core/error.h"
#include "core/json.h"
#include "data/commitment.h"
#include "data/corpus.h"
#include "provenance/audit_record.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

constexpr int64_t kMostProofBytes = 64 << 20, kMostNoteBytes = 1 << 20;
constexpr const char* kCommitmentFile = "commitment.json";

/// A digest, a file, or a name in the table, which is then read through.
Digest digest_of(const std::string& wanted, const fs::path& corpus) {
  if (const auto digest = as_digest(wanted)) return *digest;
  if (fs::is_regular_file(wanted)) return sha256_file(wanted);
  const MappedFile table(corpus / "documents.jsonl");
  const std::string quoted = dump_text(wanted);
  std::optional<Digest> found;
  for_each_line(table, [&](std::string_view line, int64_t offset) {
    if (found || line.find(quoted) == std::string_view::npos) return;
    const Document document = parse_document(line, table.path(), offset);
    if (document.name == wanted) found = document.digest;
  });
  if (!found)
    throw UsageError(fmt::format(
        "'{}' is no file, no SHA-256, and no document of the corpus has that name; absence is proved of a text or its SHA-256",
        wanted));
  return *found;
}

/// A published checkpoint of this tree; it may carry witnesses' signatures. Nothing when it is of another tree.
std::optional<std::string> published(const fs::path& file, const Commitment& roots, CorpusTree tree, const Digest& corpus_root) {
  const std::string note = read_file(file, kMostNoteBytes);
  const TreeHead head = TreeHead::parse(unverified_note_text(note, file), file);
  const CorpusOrigin origin = CorpusOrigin::parse(head.origin, file);
  return head.text() == corpus_tree_head(roots, tree, corpus_root, origin.name).text() ? std::optional(note) : std::nullopt;
}

std::string checkpoint_for(const ProveConfig& config, const CorpusPlace& corpus, const Commitment& roots, CorpusTree tree) {
  if (!config.checkpoint.empty()) {
    const auto note = published(config.checkpoint, roots, tree, corpus.root);
    if (!note)
      throw MismatchError(fmt::format("{}: is a checkpoint of another tree than '{}' of this corpus", config.checkpoint.string(),
                                      tree_name(tree)));
    return *note;
  }
  if (const fs::path file = checkpoint_path(corpus, tree); fs::is_regular_file(file))
    if (const auto note = published(file, roots, tree, corpus.root)) return *note;
  const NoteSigner signer = NoteSigner::load_or_create(note_key_path(config.key.empty() ? default_key_path() : config.key));
  return signer.sign_note(corpus_tree_head(roots, tree, corpus.root, signer.verifier().name()).text());
}

[[noreturn]] void fail_roots(const CorpusPlace& corpus, const std::string& fault) {
  throw ProvenanceError(fmt::format("{}: its files do not give the roots that were signed ({}); run 'overproof audit verify'",
                                    corpus.path.string(), fault));
}

CheckedProof check_consistency_file(const CheckProofConfig& config, const NoteVerifier& key, const std::string& text,
                                    const fs::path& file) {
  if (!config.document.empty()) throw FormatError(file, -1, "is a proof of consistency, which is about no single document");
  const NoteVerifier older_key =
      config.older_checkpoint_key.empty() ? key : NoteVerifier::from_text_or_file(config.older_checkpoint_key);
  const ConsistencyProof proof = ConsistencyProof::parse(text, file);
  CheckedProof checked{key.name(), {}, {}, check_consistency(proof, older_key, key, file)};
  ConsistencyCheck& check = *checked.consistency;
  if (check.holds() && !config.older.empty()) {
    const TreeHead held = TreeHead::parse(unverified_note_text(read_file(config.older, kMostNoteBytes), config.older), config.older);
    if (held.text() != check.older.text()) check.fault = "it is about another older checkpoint, " + check.older.origin;
  }
  if (check.holds() && !config.corpus.empty() && Digest::from_hex(config.corpus) != check.origin.corpus)
    check.fault = fmt::format("it is about another corpus, sha256:{}", check.origin.corpus.hex());
  return checked;
}

/// Why the record does not show that the note key, for this corpus, is the trusted signer's; "" if it does.
std::string key_record_fault(const fs::path& file, const PublicKey& trusted, const NoteVerifier& key, const Digest& corpus) {
  const AuditRecord record = read_audit_record(file, &trusted);
  const std::string name = file.filename().string();
  if (!record.signature_valid) return fmt::format("{} is not signed by key {}", name, trusted.hint());
  if (record.kind != "checkpoint" || !record.result.contains("note_key") || record.result["note_key"] != key.text())
    return fmt::format("{} does not name the note key {}", name, key.text());
  if (std::ranges::none_of(record.subjects, [&](const AuditSubject& s) { return s.root == corpus; }))
    return fmt::format("{} is about another corpus than sha256:{}", name, corpus.hex());
  return "";
}

}  // namespace

std::string_view tree_name(CorpusTree tree) { return tree == CorpusTree::documents ? "documents" : "sorted"; }

fs::path checkpoint_path(const CorpusPlace& corpus, CorpusTree tree) {
  return corpus.run / kAuditFolder / fmt::format("{}-{}.checkpoint", corpus.name, tree_name(tree));
}

CorpusPlace find_corpus(const fs::path& folder, const TrustOptions& trust) {
  const auto trusted = trust.key();
  const RunFolder run = load_run(folder, VerifyFiles::size, trusted.get());
  require_one_signer(run, trusted.get());
  const ArtifactNode* corpus = &only_corpus(run);
  require_sound(*corpus);
  if (!CorpusCommitment::is_in(corpus->path))
    throw FormatError(corpus->path / kCommitmentFile, -1, "is missing: an earlier version made this corpus; make it again");
  // The other files are too large to hash for one answer; that they give these roots is checked by the proof itself.
  CorpusPlace place{run.single ? run.path.parent_path() : run.path, corpus->path, corpus->name, corpus->lineage()->root,
                    corpus->lineage()->statement, {}};
  const auto& files = corpus->lineage()->files;
  place.binding.commitment = read_file(corpus->path / kCommitmentFile, kMostNoteBytes);
  if (files.front().name != kCommitmentFile || files.front().digest != sha256(place.binding.commitment))
    throw ProvenanceError(
        fmt::format("{}: is not the first file that was signed; run 'overproof audit verify'", (corpus->path / kCommitmentFile).string()));
  for (size_t i = 1; i < files.size(); ++i) place.binding.other_files.push_back(files[i].digest);
  return place;
}

MadeProof prove_document(const ProveConfig& config, const fs::path& folder) {
  outside_artifacts(config.out);
  const CorpusPlace corpus = find_corpus(folder, config.trust);
  const CorpusCommitment commitment(corpus.path, Reads::scattered);
  std::optional<CorpusSalt> salt;
  if (!config.salt.empty()) salt = CorpusSalt::read(config.salt);
  MadeProof made{config.out, corpus.name, {}, {}, {}};
  made.proof = commitment.prove(digest_of(config.document, corpus.path),
                                config.tree == "sorted" ? CorpusTree::sorted : CorpusTree::documents, salt ? &*salt : nullptr);
  made.proof.checkpoint = checkpoint_for(config, corpus, commitment.roots(), made.proof.tree);
  made.proof.corpus = corpus.binding;
  made.head = TreeHead::parse(unverified_note_text(made.proof.checkpoint, config.out), config.out);
  made.check.origin = CorpusOrigin::parse(made.head.origin, config.out);
  made.check.documents = made.head.size;
  made.check.fault = corpus_proof_fault(made.proof, made.head, made.check.origin);
  if (!made.check.holds()) fail_roots(corpus, made.check.fault);
  write_file_atomically(config.out, made.proof.text());
  return made;
}

MadeConsistency prove_consistency(const ProveConfig& config, const fs::path& folder) {
  outside_artifacts(config.out);
  const CorpusPlace corpus = find_corpus(folder, config.trust);
  const CorpusCommitment commitment(corpus.path);
  const TileTree tree = commitment.tree(CorpusTree::documents);
  ConsistencyProof proof{read_file(config.older, kMostNoteBytes),
                         checkpoint_for(config, corpus, commitment.roots(), CorpusTree::documents),
                         {},
                         corpus.binding};
  const int64_t older = TreeHead::parse(unverified_note_text(proof.older, config.older), config.older).size;
  if (older > 0 && older <= tree.size()) proof.path = tree.consistency(older);
  MadeConsistency made{config.out, corpus.name, consistency_of(proof, config.older)};
  if (tree.root() != made.check.newer.root) fail_roots(corpus, "its root is another");
  if (!made.check.holds())
    throw ProvenanceError(fmt::format("{}: corpus '{}' does not only add to it: {}", config.older.string(), corpus.name,
                                      made.check.fault));
  write_file_atomically(config.out, proof.text());
  return made;
}

CheckedProof check_proof(const CheckProofConfig& config, const fs::path& file) {
  const auto trusted = config.trust.key();
  if (config.record.empty() != !trusted)
    throw UsageError("audit check-proof: --record and --public-key belong together: the signer's key, and what it signed about the note key");
  if (config.checkpoint_key.empty())
    throw UsageError("audit check-proof: --checkpoint-key is missing; without the signer's key a proof shows nothing");
  const NoteVerifier key = NoteVerifier::from_text_or_file(config.checkpoint_key);
  const std::string text = read_file(file, kMostProofBytes);
  const auto check_key = [&](CheckedProof& checked, std::string& fault, const Digest& corpus) {
    if (!trusted || !checked.holds()) return;
    fault = key_record_fault(config.record, *trusted, key, corpus);
    if (fault.empty()) checked.signing_key = trusted->hint();
  };
  if (ConsistencyProof::is_named_by(parse_json(text, file))) {
    CheckedProof checked = check_consistency_file(config, key, text, file);
    check_key(checked, checked.consistency->fault, checked.consistency->origin.corpus);
    return checked;
  }
  if (!config.older.empty() || !config.older_checkpoint_key.empty())
    throw FormatError(file, -1, "is no proof of consistency: there is no older checkpoint in it");
  CheckedProof checked{key.name(), CorpusProof::parse(text, file), {}, {}};
  ProofCheck& check = checked.check = check_corpus_proof(*checked.proof, key, file);
  if (check.holds() && !config.document.empty()) {
    const auto digest = as_digest(config.document);
    if ((digest ? *digest : sha256_file(config.document)) != checked.proof->document)
      check.fault = fmt::format("it is about another document, sha256:{}", checked.proof->document.hex());
  }
  if (check.holds() && !config.corpus.empty() && Digest::from_hex(config.corpus) != check.origin.corpus)
    check.fault = fmt::format("it is about another corpus, sha256:{}", check.origin.corpus.hex());
  check_key(checked, check.fault, check.origin.corpus);
  return checked;
}

}  // namespace overproof
