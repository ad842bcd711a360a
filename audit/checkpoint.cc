// Signs the roots of a corpus's trees, and writes the trees as static files.

#include <fmt/format.h>

#include <algorithm>

#include "audit/corpus_proofs.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "core/temp_folder.h"
#include "data/commitment.h"
#include "provenance/audit_record.h"

namespace overproof {
namespace {

constexpr CorpusTree kTrees[] = {CorpusTree::documents, CorpusTree::sorted};

/// One tree as static files: checkpoint, tiles and bundles of leaf values.
void write_tree(const CorpusCommitment& commitment, CorpusTree which, const std::string& note, OutputFolder& folder) {
  const std::string prefix = fmt::format("{}/", tree_name(which));
  const int64_t n = commitment.roots().documents.size;
  const TileTree tree = commitment.tree(which);
  folder.write_file(prefix + "checkpoint", note);
  Progress progress(fmt::format("publish {}", tree_name(which)), n, "documents");
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
      // The values that hash to these leaves. For the documents tree of a private corpus only its owner knows them: left out.
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

/// The folder appears whole or not at all.
void publish(const CorpusCommitment& commitment, const SignedCheckpoints& checkpoints, const fs::path& folder) {
  const fs::path clean = fs::absolute(folder).lexically_normal(), whole = clean.has_filename() ? clean : clean.parent_path();
  std::error_code error;
  fs::create_directories(whole.parent_path(), error);
  if (error) throw IoError(whole.parent_path(), "cannot make this folder", error.value());
  const TempFolder work(whole.parent_path());
  const fs::path made = work / "trees";
  OutputFolder files(made);
  write_tree(commitment, CorpusTree::documents, checkpoints.notes[0], files);
  if (!checkpoints.sorted_held_back) write_tree(commitment, CorpusTree::sorted, checkpoints.notes[1], files);
  fs::rename(made, whole, error);
  if (error) throw IoError(whole, "cannot move the finished folder into place", error.value());
}

}  // namespace

SignedCheckpoints sign_checkpoints(const CheckpointConfig& config, const fs::path& folder) {
  SignedCheckpoints made;
  made.corpus = find_corpus(folder, config.trust);
  const CorpusPlace& corpus = made.corpus;
  const CorpusCommitment commitment(corpus.path);
  const fs::path key_file = config.key.empty() ? default_key_path() : config.key;
  const Key key = load_or_create_key(key_file);
  const NoteSigner signer = NoteSigner::load_or_create(note_key_path(key_file), config.name);
  if (!config.publish.empty() && fs::exists(config.publish))
    throw UsageError(fmt::format("{}: exists already; name a new folder", config.publish.string()));

  made.note_key = signer.verifier().text();
  AuditRecord record{"checkpoint",
                     {{corpus.name, corpus.root, corpus.statement}},
                     {{"note_key", made.note_key}, {"trees", Json::object()}}};
  for (const CorpusTree tree : kTrees) {
    const TreeHead head = corpus_tree_head(commitment.roots(), tree, corpus.root, signer.verifier().name());
    if (commitment.tree(tree).root() != head.root)
      throw ProvenanceError(fmt::format("{}: its tiles do not give the roots of commitment.json; run 'overproof audit verify'",
                                        corpus.path.string()));
    made.notes[size_t(tree)] = signer.sign_note(head.text());
    made.files[size_t(tree)] = checkpoint_path(corpus, tree);
    record.result["trees"][std::string(tree_name(tree))] = {
        {"origin", head.origin}, {"size", head.size}, {"root", head.root.hex()}};
  }
  write_audit_record(corpus.run / kAuditFolder / fmt::format("checkpoint-{}.json", corpus.name), record, key);
  for (const CorpusTree tree : kTrees) write_file_atomically(made.files[size_t(tree)], made.notes[size_t(tree)]);
  made.sorted_held_back = commitment.roots().is_private();
  if (!config.publish.empty()) publish(commitment, made, config.publish);
  return made;
}

}  // namespace overproof
