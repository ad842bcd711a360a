#include "audit/commitment_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "data/commitment.h"
#include "provenance/merkle.h"

namespace overproof {
namespace {

constexpr const char* kCommittedTable = "documents.jsonl";
constexpr const char* kCommitAgain = "make the corpus again from its texts: an honest corpus stage does not make this";
constexpr size_t kPiece = 8192;

/// Reports the first fault of each kind: one wrong document can shift all that follow.
class Checker {
 public:
  Checker(const fs::path& folder, const CorpusCommitment& commitment, const CorpusSalt* salt, std::vector<Fault>& faults)
      : folder_(folder), commitment_(commitment), index_(commitment.index()), salt_(salt), faults_(faults) {}

  void table() {
    const MappedFile file(folder_ / kCommittedTable);
    const int64_t n = index_.documents();
    Progress progress("commitment", n, "documents");
    TileBuilder builder;
    std::vector<Digest> leaves;
    int64_t i = 0;
    const auto flush = [&] {
      throw_if_interrupted();
      const int64_t first = builder.size();
      compare(CorpusTree::documents, 0, first, leaves);
      builder.add(leaves);
      leaves.clear();
      progress.update(builder.size());
    };
    for_each_line(file, [&](std::string_view line, int64_t offset) {
      if (i < n) {
        const Document document = parse_document(line, file.path(), offset);
        entry(document, i, offset, offset + int64_t(line.size()) + 1);
        leaves.push_back(leaf_of(document, i));
        if (leaves.size() == kPiece) flush();
      }
      ++i;
    });
    if (i != n) return fault(kCommittedTable, fmt::format("lists {} documents, the commitment {}", i, n));
    flush();
    finish(CorpusTree::documents, builder);
  }

  void sorted() {
    const int64_t n = index_.documents();
    TileBuilder builder;
    std::vector<Digest> leaves;
    for (int64_t r = 0; r < n; ++r) {
      if (r > 0 && !(index_.key(r - 1) < index_.key(r)))
        return fault("index.safetensors", fmt::format("keys {} and {} do not ascend", r - 1, r));
      if (index_.rank(index_.ordinal(r)) != r)
        return fault("index.safetensors", fmt::format("ordinal {} and its rank do not agree", r));
      leaves.push_back(merkle_leaf(index_.key(r)));
      if (leaves.size() == kPiece || r + 1 == n) {
        throw_if_interrupted();
        builder.add(leaves);
        leaves.clear();
      }
    }
    finish(CorpusTree::sorted, builder);
  }

 private:
  bool values_known() const { return !commitment_.roots().is_private() || salt_; }

  void fault(std::string file, std::string what) {
    // The message's beginning names the kind of fault.
    const auto same = [&](const Fault& f) { return f.file == file && f.what.substr(0, 16) == what.substr(0, 16); };
    if (std::none_of(faults_.begin(), faults_.end(), same)) faults_.push_back({std::move(file), std::move(what), kCommitAgain});
  }

  std::optional<Digest> salt_of(CorpusTree tree, const Digest& document) const {
    if (!commitment_.roots().is_private()) return std::nullopt;
    return salt_->salt(tree, document);
  }

  Digest leaf_of(const Document& document, int64_t i) const {
    if (values_known()) return merkle_leaf(corpus_leaf_value(document.digest, salt_of(CorpusTree::documents, document.digest)));
    Digest stored;
    std::memcpy(stored.bytes.data(), commitment_.stored_level(CorpusTree::documents, 0).data() + i * 32, 32);
    return stored;
  }

  void entry(const Document& d, int64_t i, int64_t begin, int64_t end) {
    const TokenRange tokens = index_.tokens(i);
    if (tokens.split != d.split || tokens.first != d.first_token || tokens.count != d.tokens)
      fault("index.safetensors", fmt::format("has other tokens for document {} ('{}') than the table", i, d.name));
    if (index_.record(i) != std::pair(begin, end))
      fault("index.safetensors", fmt::format("has another place for the record of document {} ('{}') than the table", i, d.name));
    if (values_known() && index_.key(index_.rank(i)) != corpus_leaf_value(d.digest, salt_of(CorpusTree::sorted, d.digest)))
      fault("index.safetensors",
            fmt::format("the sorted tree has another value for document {} ('{}') than the table", i, d.name));
  }

  void compare(CorpusTree tree, int level, int64_t first, std::span<const Digest> made) {
    const auto stored = made.empty() ? std::span<const uint8_t>() : commitment_.stored_level(tree, level);
    for (size_t i = 0; i < made.size(); ++i)
      if (std::memcmp(stored.data() + (size_t(first) + i) * 32, made[i].bytes.data(), 32) != 0)
        return fault("tiles.safetensors",
                     level == 0
                         ? fmt::format("leaf {} is not that of the document at this place of the table", first + int64_t(i))
                         : fmt::format("hash {} of level {} of the {} tree is not that of the leaves below", first + int64_t(i),
                                       level, tree == CorpusTree::documents ? "documents" : "sorted"));
  }

  void finish(CorpusTree tree, const TileBuilder& builder) {
    for (int level = 1; level < tile_levels(builder.size()); ++level) compare(tree, level, 0, builder.level(level));
    const Digest said = commitment_.roots().tree(tree).root, made = builder.root();
    if (made != said)
      fault("commitment.json", fmt::format("has root {} for the {} tree, but the documents give {}", said.hex(),
                                           tree == CorpusTree::documents ? "documents" : "sorted", made.hex()));
  }

  const fs::path& folder_;
  const CorpusCommitment& commitment_;
  const DocumentIndex& index_;
  const CorpusSalt* salt_;
  std::vector<Fault>& faults_;
};

}  // namespace

CommitmentCheck check_commitment(const fs::path& corpus, const CorpusSalt* salt) {
  CommitmentCheck check;
  if (!CorpusCommitment::is_in(corpus) && !DocumentIndex::is_in(corpus)) return check;
  try {
    const CorpusCommitment commitment(corpus);
    if (commitment.roots().is_private()) {
      check.values_unchecked = !salt;
      if (salt && sha256(std::span<const uint8_t>(salt->sorted_salt().bytes)) != *commitment.roots().sorted_salt_digest) {
        check.faults.push_back(
            {"commitment.json", "was not made with the secret given", "give the secret of this corpus with --salt"});
        return check;
      }
    }
    Checker checker(corpus, commitment, salt, check.faults);
    checker.table();
    checker.sorted();
  } catch (const FormatError& e) {
    check.faults.push_back({"", text_within(e, corpus), kCommitAgain});
  } catch (const IoError& e) {
    check.faults.push_back({"", text_within(e, corpus), kCommitAgain});
  }
  return check;
}

}  // namespace overproof
