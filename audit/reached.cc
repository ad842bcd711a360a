#include "audit/reached.h"

#include "audit/window_order.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "data/document_finder.h"

namespace overproof {

std::map<std::string, int64_t> documents_reached(const RunFolder& run, const std::vector<int>& family,
                                                 const ArtifactNode& corpus_node) {
  constexpr int64_t kDocumentsAtOnce = 65536;
  const DocumentFinder corpus(corpus_node.path, Reads::onwards);
  const int64_t windows = corpus.windows(Split::train), length = corpus.window_length();
  std::vector<bool> inputs(size_t(windows + 1)), labels(size_t(windows + 1));
  for (const int i : family) {
    const ArtifactNode& node = run.nodes[size_t(i)];
    if (const LineageKind* kind = node.kind(); !kind || !kind->is_model()) continue;
    const auto order = WindowOrder::of(run, node, corpus_node.lineage()->root, windows);
    if (!order) continue;
    for (int64_t p = 0; p < order->positions_for_all(); ++p) {
      if (p % 65536 == 0) throw_if_interrupted();
      const int64_t window = order->window_at(p);
      inputs[size_t(window)] = true;
      if (order->reads_labels()) labels[size_t(window)] = true;
    }
  }
  // The index shows whether a document was reached; its licence is in the table, of which only its own line is read.
  const int64_t documents = corpus.documents();
  std::vector<std::map<std::string, int64_t>> pieces(size_t((documents + kDocumentsAtOnce - 1) / kDocumentsAtOnce));
  const auto is_reached = [&](const TokenRange& tokens) {
    if (tokens.split != Split::train) return false;
    const int64_t first = tokens.first, last = tokens.first + tokens.count - 1;
    bool reached = first > 0 && labels[size_t((first - 1) / length)];  // its first token as the last label of the window before
    for (int64_t w = first / length; w <= last / length && w < windows && !reached; ++w) reached = inputs[size_t(w)];
    return reached;  // windows end where the last whole one does; a token there may still be that one's label
  };
  parallel_for(documents, kDocumentsAtOnce, [&](int64_t begin, int64_t end) {
    throw_if_interrupted();
    for (int64_t i = begin; i < end; ++i)
      if (is_reached(corpus.tokens(i))) ++pieces[size_t(begin / kDocumentsAtOnce)][corpus.document(i).license];
  });
  std::map<std::string, int64_t> reached;
  for (const auto& piece : pieces)
    for (const auto& [license, count] : piece) reached[license] += count;
  return reached;
}

}  // namespace overproof
