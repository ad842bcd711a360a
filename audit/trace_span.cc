#include <fmt/format.h>

#include <algorithm>

#include "audit/trace.h"
#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/printable.h"
#include "data/span_index.h"

namespace overproof {
namespace {

/// The index of a corpus that is in the run as well.
const ArtifactNode& find_index(const RunFolder& run, const ArtifactNode& corpus) {
  for (const ArtifactNode& node : run.nodes)
    if (node.kind() && node.kind()->role == Role::index)
      for (const std::string& slot : node.slots_of(Entry::documents))
        if (node.lineage()->inputs.at(slot).root == corpus.lineage()->root) return node;
  throw UsageError(fmt::format("no index of '{}' here; make one with: overproof index --corpus {} --out {}", corpus.name,
                               corpus.path.string(), (corpus.path.parent_path() / "index").string()));
}

/// One record of documents.jsonl, read at its offset: the table of a large corpus is not read for a few documents.
Document record_at(const MappedFile& table, int64_t offset) {
  const std::string_view all(reinterpret_cast<const char*>(table.bytes().data()), table.bytes().size());
  if (offset < 0 || offset >= int64_t(all.size()))
    throw FormatError(table.path(), offset, "no record begins here, but the index has this offset");
  const std::string_view line = all.substr(size_t(offset), std::min(all.find('\n', size_t(offset)), all.size()) - size_t(offset));
  return parse_document(line, table.path(), offset);
}

}  // namespace

SpanTrace trace_span(const fs::path& folder, const TraceConfig& config) {
  const std::string text = config.span.starts_with('@') ? read_file(config.span.substr(1), kLongestQuery) : config.span;
  const RunFolder run = load_sound_run(folder, config.verify, config.trust);
  const ArtifactNode& corpus = only_corpus(run);
  const ArtifactNode& node = find_index(run, corpus);
  const SpanIndex index(node.path);
  if (index.corpus_root() != corpus.lineage()->root)
    throw ProvenanceError(fmt::format("{}: is an index of another corpus than its statement names; make it again", node.name));
  const MappedFile table(corpus.path / "documents.jsonl", Reads::scattered);

  SpanTrace trace{node.name, corpus.name, int64_t(text.size()), int64_t(words_of(text).begins.size()), {}};
  struct Place {
    size_t span, at;
    SpanHit hit;
  };
  std::vector<Place> places;
  for (const MatchedSpan& span : index.find(text, {config.min_words, config.min_bytes, config.documents})) {
    for (size_t i = 0; i < span.hits.size(); ++i) places.push_back({trace.spans.size(), i, span.hits[i]});
    trace.spans.push_back({span.begin, span.end, span.words, span.occurrences,
                           text.substr(size_t(span.begin), size_t(span.end - span.begin)), span.more_documents,
                           std::vector<SpanDocument>(span.hits.size())});
  }
  wait_in_parallel(int64_t(places.size()), [&](int64_t i) {
    const auto& [span, at, hit] = places[size_t(i)];
    const std::string& passage = trace.spans[span].text;
    const Document document = record_at(table, index.record_offset(hit.document));
    // The index is not trusted: the document itself must hold the passage, and be the one of the table.
    const std::string_view whole = index.text_of(hit.document);
    if (whole.substr(size_t(hit.byte), passage.size()) != passage || sha256(whole) != document.digest)
      throw ProvenanceError(fmt::format("{}: the text of '{}' is not the corpus's", node.name, document.name));
    trace.spans[span].documents[at] = {document.name,    document.source,
                                       document.license, document.split == Split::train ? "train" : "held_out",
                                       document.digest,  hit.byte};
  });
  return trace;
}

Json to_json(const SpanTrace& t) {
  Json json = {{"index", t.index}, {"corpus", t.corpus}, {"bytes", t.bytes}, {"words", t.words}, {"spans", Json::array()}};
  for (const TracedSpan& s : t.spans) {
    Json documents = Json::array();
    for (const SpanDocument& d : s.documents)
      documents.push_back({{"name", d.name},
                           {"digest", "sha256:" + d.digest.hex()},
                           {"source", d.source},
                           {"license", d.license},
                           {"split", d.split},
                           {"byte", d.byte}});
    json["spans"].push_back({{"begin", s.begin},
                             {"end", s.end},
                             {"words", s.words},
                             {"text", s.text},
                             {"occurrences", s.occurrences},
                             {"more_documents", s.more_documents},
                             {"documents", documents}});
  }
  return json;
}

std::string text_of(const SpanTrace& t) {
  std::string out;
  if (t.spans.empty()) {
    out += fmt::format("no passage of this text ({} words) is word for word in {}\n", t.words, printable(t.corpus));
    return out;
  }
  int64_t covered = 0, end = 0;
  for (const TracedSpan& s : t.spans) {
    covered += s.end - std::max(s.begin, end);
    end = s.end;
  }
  out += fmt::format("{} passages, {:.1f} % of the text's {} bytes, are word for word in {}\n", t.spans.size(),
                     t.bytes > 0 ? 100.0 * double(covered) / double(t.bytes) : 0.0, t.bytes, printable(t.corpus));
  constexpr size_t kShown = 100;
  for (const TracedSpan& s : t.spans) {
    std::string shown = s.text.substr(0, kShown);
    std::ranges::replace(shown, '\n', ' ');
    shown = printable(shown) + (s.text.size() > kShown ? "..." : "");
    out += fmt::format("  bytes {}-{}, {} words, {} times: {}\n", s.begin, s.end, s.words, s.occurrences, shown);
    for (const SpanDocument& d : s.documents)
      out += fmt::format("    {} at byte {} ({}, {}{})\n", printable(d.name), d.byte, printable(d.source), printable(d.license),
                         d.split == "train" ? "" : ", held out");
    if (s.more_documents) out += "    and more\n";
  }
  return out;
}

}  // namespace overproof
