// index.safetensors and tiles.safetensors, each with its length before it, with roots for their size: refused with a
// FormatError, or every query is answered or refused, and only documents that are present have a valid proof under the signed roots.

#include <cstring>

#include "core/error.h"
#include "data/commitment.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  uint32_t documents = 0, index_bytes = 0;
  if (size < 8) return 0;
  std::memcpy(&documents, data, 4);
  std::memcpy(&index_bytes, data + 4, 4);
  const std::string_view rest(reinterpret_cast<const char*>(data) + 8, size - 8);
  const size_t cut = std::min<size_t>(index_bytes, rest.size());
  folder.put("index.safetensors", rest.substr(0, cut));
  folder.put("tiles.safetensors", rest.substr(cut));
  Commitment roots;
  roots.documents.size = roots.sorted.size = documents % 2000;
  folder.put("commitment.json", roots.text());
  try {
    const CorpusCommitment commitment(folder.path());
    const DocumentIndex& index = commitment.index();
    const int64_t n = index.documents();
    fuzz::require(n == roots.documents.size);
    commitment.tree(CorpusTree::documents).root();
    commitment.tree(CorpusTree::sorted).root();
    for (int64_t i = 0; i < n; ++i) try {
        fuzz::require(index.rank(i) < n && index.ordinal(i) < n);
        const TokenRange range = index.tokens(i);
        fuzz::require(range.first >= 0 && range.count >= 1);
        index.record(i);
        const CorpusProof proof = commitment.prove(index.key(i), CorpusTree::documents, nullptr);
        fuzz::require(proof.leaves.size() <= 2);
      } catch (const FormatError&) {
      }
    for (const Split split : {Split::train, Split::held_out})
      for (int64_t p = 0; p < std::min<int64_t>(index.stream_tokens(split), 100); ++p) try {
          fuzz::require(index.at(split, p) < n);
          if (p <= (index.stream_tokens(split) - 1) / 3) index.in_window(split, p, 3);
        } catch (const FormatError&) {
        }
  } catch (const FormatError&) {
  }
  return 0;
}
