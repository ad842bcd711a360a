#include "audit/prove.h"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/commitment.h"
#include "provenance/audit_record.h"
#include "provenance/json_fields.h"
#include "provenance/run_folder.h"

namespace overproof {
namespace {

constexpr int64_t kMostProofBytes = 8 << 20;
constexpr const char* kTreeNames[] = {"documents", "sorted"};

/// The one corpus of a run, or of an artifact's ancestors.
struct CorpusPlace {
  fs::path run, path;
  std::string name;
  Digest root, statement;
};

CorpusPlace find_corpus(const fs::path& folder) {
  const RunFolder run = load_run(folder, VerifyFiles::size, nullptr);
  const ArtifactNode* corpus = nullptr;
  for (const ArtifactNode& node : run.nodes) {
    if (const LineageKind* kind = node.kind(); !kind || kind->role != Role::corpus) continue;
    if (corpus)
      throw UsageError(
          fmt::format("two corpora here, '{}' and '{}': name one artifact instead of the run", corpus->name, node.name));
    corpus = &node;
  }
  if (!corpus) throw UsageError(fmt::format("{}: holds no corpus", folder.string()));
  if (!corpus->check.faults.empty())
    throw ProvenanceError(fmt::format("{}: does not hold ({} {}); run 'overproof audit verify' first", corpus->name,
                                      corpus->check.faults.front().file, corpus->check.faults.front().what));
  if (!CorpusCommitment::is_in(corpus->path))
    throw UsageError(
        fmt::format("{}: has no commitment, as it was made by an earlier version; make the corpus again", corpus->path.string()));
  // The other files are too large to hash for one answer; that they give these roots is checked by the proof itself.
  const auto& files = corpus->lineage()->files;
  const auto listed = std::find_if(files.begin(), files.end(), [](const FileRecord& f) { return f.name == "commitment.json"; });
  if (listed == files.end() || listed->digest != sha256_file(corpus->path / "commitment.json"))
    throw ProvenanceError(fmt::format("{}: is not the file that was signed", (corpus->path / "commitment.json").string()));
  return {run.single ? run.path.parent_path() : run.path, corpus->path, corpus->name, corpus->lineage()->root, corpus->lineage()->statement};
}

std::optional<Digest> as_digest(const std::string& text) {
  try {
    return Digest::from_hex(text);
  } catch (const UsageError&) {
    return std::nullopt;
  }
}

/// A digest, a file, or a name in the table, which is then read through.
Digest digest_of(const std::string& wanted, const fs::path& corpus) {
  if (const auto digest = as_digest(wanted)) return *digest;
  if (fs::is_regular_file(wanted)) return sha256_file(wanted);
  const MappedFile table(corpus / "documents.jsonl");
  const std::string quoted = Json(wanted).dump(-1, ' ', false, Json::error_handler_t::replace);
  std::optional<Digest> found;
  for_each_line(table, [&](std::string_view line, int64_t offset) {
    if (found || line.find(quoted) == std::string_view::npos) return;
    const Document document = parse_document(line, table.path(), offset);
    if (document.name == wanted) found = document.digest;
  });
  if (!found)
    throw UsageError(fmt::format(
        "'{}' is no file, no SHA-256, and no document of the corpus is called so; absence is proved of a text or its SHA-256",
        wanted));
  return *found;
}

fs::path checkpoint_path(const CorpusPlace& corpus, CorpusTree tree) {
  return corpus.run / kAuditFolder / fmt::format("{}-{}.checkpoint", corpus.name, kTreeNames[size_t(tree)]);
}

/// A published checkpoint of this tree; it may carry witnesses' signatures. Nothing when it is of another tree.
std::optional<std::string> published(const fs::path& file, const Commitment& roots, CorpusTree tree, const Digest& corpus_root) {
  const std::string note = read_file(file, 1 << 20);
  const TreeHead head = TreeHead::parse(unverified_note_text(note, file), file);
  const CorpusOrigin origin = CorpusOrigin::parse(head.origin, file);
  return head.text() == corpus_tree_head(roots, tree, corpus_root, origin.name).text() ? std::optional(note) : std::nullopt;
}

std::string checkpoint_for(const ProveConfig& config, const CorpusPlace& corpus, const Commitment& roots, CorpusTree tree) {
  if (!config.checkpoint.empty()) {
    const auto note = published(config.checkpoint, roots, tree, corpus.root);
    if (!note)
      throw UsageError(fmt::format("{}: is a checkpoint of another tree than '{}' of this corpus", config.checkpoint,
                                   kTreeNames[size_t(tree)]));
    return *note;
  }
  if (const fs::path file = checkpoint_path(corpus, tree); fs::is_regular_file(file))
    if (const auto note = published(file, roots, tree, corpus.root)) return *note;
  const NoteSigner signer =
      NoteSigner::load_or_create(note_key_path(config.key.empty() ? default_key_path() : fs::path(config.key)));
  return signer.sign_note(corpus_tree_head(roots, tree, corpus.root, signer.verifier().name()).text());
}

std::string not_the_signed_roots(const CorpusPlace& corpus, const std::string& fault) {
  return fmt::format("{}: its files do not give the roots that were signed ({}); run 'overproof audit verify'",
                     corpus.path.string(), fault);
}

std::string plural(int64_t n, const char* what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); }

/// One tree as static files: checkpoint, tiles and bundles of leaf values.
void publish_tree(const CorpusCommitment& commitment, CorpusTree which, const std::string& note, OutputFolder& folder,
                  const std::string& prefix) {
  const int64_t n = commitment.roots().documents.size;
  const TileTree tree = commitment.tree(which);
  folder.write_file(prefix + "checkpoint", note);
  Progress progress(fmt::format("publish {}", kTreeNames[size_t(which)]), n, "documents");
  for (int level = 0; level < tile_levels(n); ++level) {
    const int64_t hashes = tile_level_hashes(n, level);
    for (int64_t first = 0; first < hashes; first += kTileWidth) {
      throw_if_interrupted();
      const int64_t width = std::min(kTileWidth, hashes - first);
      std::vector<Digest> tile(static_cast<size_t>(width));
      for (int64_t i = 0; i < width; ++i) {
        const int64_t leaves = int64_t{1} << (8 * level);
        tile[size_t(i)] = tree.subtree((first + i) * leaves, (first + i + 1) * leaves);
      }
      folder.write_file(prefix + tile_path(level, first / kTileWidth, width),
                        {reinterpret_cast<const char*>(tile.data()), tile.size() * sizeof(Digest)});
      if (level > 0) continue;
      // What hashes to these leaves; of the documents tree of a private corpus only its owner could say, so there it is left out.
      if (which == CorpusTree::documents && !commitment.roots().is_private())
        folder.write_file(prefix + entries_path(first / kTileWidth, width),
                          entry_bundle(commitment.document_values(first, width)));
      if (which == CorpusTree::sorted) {
        for (int64_t i = 0; i < width; ++i) tile[size_t(i)] = commitment.index().key(first + i);
        folder.write_file(prefix + entries_path(first / kTileWidth, width), entry_bundle(tile));
      }
      progress.update(first + width);
    }
  }
}

int prove_consistency(const ProveConfig& config, const CorpusPlace& corpus, bool json, std::ostream& out) {
  const CorpusCommitment commitment(corpus.path);
  const TileTree tree = commitment.tree(CorpusTree::documents);
  ConsistencyProof proof{
      read_file(config.older, 1 << 20), checkpoint_for(config, corpus, commitment.roots(), CorpusTree::documents), {}};
  const fs::path file = config.out;
  const int64_t older = TreeHead::parse(unverified_note_text(proof.older, config.older), config.older).size;
  if (older > 0 && older <= tree.size()) proof.path = tree.consistency(older);
  const ConsistencyCheck check = consistency_of(proof, config.older);
  if (tree.root() != check.newer.root) throw ProvenanceError(not_the_signed_roots(corpus, "its root is another"));
  if (!check.holds())
    throw ProvenanceError(fmt::format("{}: corpus '{}' does not only add to it: {}", config.older, corpus.name, check.fault));
  write_file_atomically(file, proof.text());
  if (json)
    out << Json{{"out", file.string()},
                {"kind", "consistency"},
                {"corpus", "sha256:" + corpus.root.hex()},
                {"documents", check.newer.size},
                {"older", {{"corpus", "sha256:" + check.older_origin.corpus.hex()}, {"documents", check.older.size}}},
                {"signer", check.origin.name}}
               .dump(-1, ' ', false, Json::error_handler_t::replace)
        << '\n';
  else
    out << fmt::format("{}: proof that corpus '{}' (sha256:{}, {}) begins with all of corpus sha256:{} ({})\n", file.string(),
                       corpus.name, corpus.root.hex(), plural(check.newer.size, "document"), check.older_origin.corpus.hex(),
                       plural(check.older.size, "document"))
        << fmt::format(
               "  check it anywhere: overproof audit check-proof {} --checkpoint-key KEY.note.pub --older OLDER --corpus "
               "sha256:{}\n",
               file.string(), corpus.root.hex());
  return 0;
}

int check_consistency_proof(const CheckProofConfig& config, const NoteVerifier& key, const std::string& text,
                            const fs::path& file, bool json, std::ostream& out) {
  if (!config.document.empty()) throw FormatError(file, -1, "is a proof of consistency, which is about no single document");
  const NoteVerifier older_key =
      config.older_checkpoint_key.empty() ? key : NoteVerifier::from_text_or_file(config.older_checkpoint_key);
  ConsistencyCheck check = check_consistency(ConsistencyProof::parse(text, file), older_key, key, file);
  if (check.holds() && !config.older.empty()) {
    const TreeHead held = TreeHead::parse(unverified_note_text(read_file(config.older, 1 << 20), config.older), config.older);
    if (held.text() != check.older.text()) check.fault = "it is about another older checkpoint, " + check.older.origin;
  }
  if (check.holds() && !config.corpus.empty() && Digest::from_hex(config.corpus) != check.origin.corpus)
    check.fault = fmt::format("it is about another corpus, sha256:{}", check.origin.corpus.hex());
  if (json) {
    Json said = {{"holds", check.holds()}, {"kind", "consistency"}, {"fault", check.fault}};
    if (check.holds())
      said.update({{"corpus", "sha256:" + check.origin.corpus.hex()},
                   {"documents", check.newer.size},
                   {"older", {{"corpus", "sha256:" + check.older_origin.corpus.hex()}, {"documents", check.older.size}}},
                   {"signer", key.name()}});
    out << said.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  } else if (check.holds()) {
    out << fmt::format("holds: {} committed that corpus sha256:{} of {} begins with all of corpus sha256:{} of {}\n", key.name(),
                       check.origin.corpus.hex(), plural(check.newer.size, "document"), check.older_origin.corpus.hex(),
                       plural(check.older.size, "document"));
    if (config.older.empty()) out << "  that the older checkpoint is the one you were given is for you to see: --older FILE\n";
    if (config.corpus.empty())
      out << "  that the model was made from the newer corpus is what its statement says: --corpus ROOT\n";
  } else {
    out << fmt::format("does not hold: {}\n", check.fault);
  }
  return check.holds() ? 0 : 4;
}

}  // namespace

int audit_prove(const ProveConfig& config, const fs::path& folder, bool json, std::ostream& out) {
  if (config.document.empty() == config.older.empty())
    throw UsageError(
        "audit prove: give --document (a text file, a digest or a document's name), or --older (a checkpoint), and not both");
  if (config.out.empty()) throw UsageError("audit prove: --out is empty");
  const CorpusPlace corpus = find_corpus(folder);
  if (!config.older.empty()) return prove_consistency(config, corpus, json, out);
  const CorpusCommitment commitment(corpus.path, Reads::scattered);
  std::optional<CorpusSalt> salt;
  if (!config.salt.empty()) salt = CorpusSalt::read(config.salt);
  CorpusProof proof =
      commitment.prove(digest_of(config.document, corpus.path),
                       config.tree == "sorted" ? CorpusTree::sorted : CorpusTree::documents, salt ? &*salt : nullptr);
  proof.checkpoint = checkpoint_for(config, corpus, commitment.roots(), proof.tree);

  const fs::path file = config.out;
  const TreeHead head = TreeHead::parse(unverified_note_text(proof.checkpoint, file), file);
  const CorpusOrigin origin = CorpusOrigin::parse(head.origin, file);
  if (const std::string fault = corpus_proof_fault(proof, head, origin); !fault.empty())
    throw ProvenanceError(not_the_signed_roots(corpus, fault));
  write_file_atomically(file, proof.text());
  if (json) {
    out << Json{{"out", file.string()},
                {"kind", proof.present ? "presence" : "absence"},
                {"document", "sha256:" + proof.document.hex()},
                {"corpus", "sha256:" + corpus.root.hex()},
                {"tree", kTreeNames[size_t(proof.tree)]},
                {"documents", head.size},
                {"signer", origin.name}}
               .dump(-1, ' ', false, Json::error_handler_t::replace)
        << '\n';
  } else {
    out << fmt::format("{}: proof that sha256:{} is {} corpus '{}' (sha256:{}, {})\n", file.string(), proof.document.hex(),
                       proof.present ? "in" : "not in", corpus.name, corpus.root.hex(), plural(head.size, "document"));
    out << fmt::format("  check it anywhere: overproof audit check-proof {} --checkpoint-key KEY.note.pub --corpus sha256:{}\n",
                       file.string(), corpus.root.hex());
    if (!proof.present && origin.is_private)
      out << "  it reveals the salt of the sorted tree: its holder can try guessed texts against the two values in it, and "
             "others that he sees\n";
  }
  return 0;
}

int audit_check_proof(const CheckProofConfig& config, const fs::path& file, bool json, std::ostream& out) {
  if (config.checkpoint_key.empty())
    throw UsageError("audit check-proof: --checkpoint-key is missing; without the signer's key a proof shows nothing");
  const NoteVerifier key = NoteVerifier::from_text_or_file(config.checkpoint_key);
  const std::string text = read_file(file, kMostProofBytes);
  if (ConsistencyProof::is_named_by(parse_json(text, file))) return check_consistency_proof(config, key, text, file, json, out);
  if (!config.older.empty() || !config.older_checkpoint_key.empty())
    throw FormatError(file, -1, "is no proof of consistency: there is no older checkpoint in it");
  const CorpusProof proof = CorpusProof::parse(text, file);
  ProofCheck check = check_corpus_proof(proof, key, file);
  if (check.holds() && !config.document.empty()) {
    const auto digest = as_digest(config.document);
    if ((digest ? *digest : sha256_file(config.document)) != proof.document)
      check.fault = fmt::format("it is about another document, sha256:{}", proof.document.hex());
  }
  if (check.holds() && !config.corpus.empty() && Digest::from_hex(config.corpus) != check.origin.corpus)
    check.fault = fmt::format("it is about another corpus, sha256:{}", check.origin.corpus.hex());
  if (json) {
    Json said = {{"holds", check.holds()},
                 {"kind", proof.present ? "presence" : "absence"},
                 {"document", "sha256:" + proof.document.hex()},
                 {"fault", check.fault}};
    if (check.holds())
      said.update({{"corpus", "sha256:" + check.origin.corpus.hex()},
                   {"documents", check.documents},
                   {"signer", key.name()},
                   {"private", check.origin.is_private}});
    out << said.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  } else if (check.holds()) {
    out << fmt::format("holds: {} committed that sha256:{} is {} corpus sha256:{} of {}\n", key.name(), proof.document.hex(),
                       proof.present ? "in" : "not in", check.origin.corpus.hex(), plural(check.documents, "document"));
    if (config.document.empty()) out << "  that this is your document's digest is for you to see: --document FILE\n";
    if (config.corpus.empty()) out << "  that the model was made from this corpus is what its statement says: --corpus ROOT\n";
    if (!proof.present)
      out << "  that the signed tree is sorted and complete is what 'audit verify' shows; a presence proof of this document "
             "would convict the signer\n";
  } else {
    out << fmt::format("does not hold: {}\n", check.fault);
  }
  return check.holds() ? 0 : 4;
}

int audit_checkpoint(const CheckpointConfig& config, const fs::path& folder, bool json, std::ostream& out) {
  const CorpusPlace corpus = find_corpus(folder);
  const CorpusCommitment commitment(corpus.path);
  const fs::path key_file = config.key.empty() ? default_key_path() : fs::path(config.key);
  const Key key = load_or_create_key(key_file);
  const NoteSigner signer = NoteSigner::load_or_create(note_key_path(key_file), config.name);
  if (!config.publish.empty() && fs::exists(config.publish))
    throw UsageError(fmt::format("{}: is there already; name a new folder", config.publish));

  AuditRecord record{
      "checkpoint", {{corpus.name, corpus.root, corpus.statement}}, {{"note_key", signer.verifier().text()}, {"trees", Json::object()}}, "", false};
  std::string notes[2];
  for (const CorpusTree tree : {CorpusTree::documents, CorpusTree::sorted}) {
    const TreeHead head = corpus_tree_head(commitment.roots(), tree, corpus.root, signer.verifier().name());
    const CorpusCommitment& c = commitment;
    if (c.tree(tree).root() != head.root)
      throw ProvenanceError(fmt::format("{}: its tiles do not give the roots of commitment.json; run 'overproof audit verify'",
                                        corpus.path.string()));
    notes[size_t(tree)] = signer.sign_note(head.text());
    record.result["trees"][kTreeNames[size_t(tree)]] = {{"origin", head.origin}, {"size", head.size}, {"root", head.root.hex()}};
  }
  write_audit_record(corpus.run / kAuditFolder / fmt::format("checkpoint-{}.json", corpus.name), record, key);
  for (const CorpusTree tree : {CorpusTree::documents, CorpusTree::sorted})
    write_file_atomically(checkpoint_path(corpus, tree), notes[size_t(tree)]);

  const bool hide_sorted = commitment.roots().is_private();
  if (!config.publish.empty()) {
    fs::path partial = fs::path(config.publish).lexically_normal();
    if (!partial.has_filename()) partial = partial.parent_path();
    const fs::path whole = partial;
    partial += ".partial";
    std::error_code error;
    fs::remove_all(partial, error);
    try {
      OutputFolder files(partial);
      publish_tree(commitment, CorpusTree::documents, notes[0], files, "documents/");
      // Holders of an absence proof could try guessed texts against all of it.
      if (!hide_sorted) publish_tree(commitment, CorpusTree::sorted, notes[1], files, "sorted/");
      fs::rename(partial, whole, error);
      if (error) throw IoError(whole, "cannot move the finished folder into place", error.value());
    } catch (...) {
      fs::remove_all(partial, error);
      throw;
    }
  }
  if (json) {
    out << Json{{"corpus", "sha256:" + corpus.root.hex()},
                {"note_key", signer.verifier().text()},
                {"documents", notes[0]},
                {"sorted", notes[1]},
                {"published", config.publish}}
               .dump(-1, ' ', false, Json::error_handler_t::replace)
        << '\n';
    return 0;
  }
  for (const CorpusTree tree : {CorpusTree::documents, CorpusTree::sorted})
    out << checkpoint_path(corpus, tree).string() << ":\n" << notes[size_t(tree)] << '\n';
  out << "public note key: " << signer.verifier().text() << '\n';
  if (!config.publish.empty())
    out << fmt::format(
        "{}: {} as static files{}\n", config.publish, hide_sorted ? "the documents tree" : "both trees",
        hide_sorted ? "; the sorted tree of a private corpus is kept back, because absence proofs reveal its salt" : "");
  return 0;
}

int audit_salt(const SaltConfig& config, bool json, std::ostream& out) {
  if (config.out.empty()) throw UsageError("audit salt: --out is missing");
  CorpusSalt::create(config.out);
  if (json) out << Json{{"out", config.out}}.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  else
    out << fmt::format("{}: keep it as you keep your signing key; without it nothing about the corpus can be proved\n",
                       config.out);
  return 0;
}

}  // namespace overproof
