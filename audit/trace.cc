#include "audit/trace.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "audit/window_order.h"
#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "data/document_finder.h"
#include "provenance/signers.h"
#include "records/router_counts.h"

namespace overproof {
namespace {

constexpr std::string_view kStatusNames[] = {"not in the corpus", "in the corpus, held out", "in the corpus, never reached",
                                             "in the corpus, used"};

class Tracer {
 public:
  Tracer(const RunFolder& run, const ArtifactNode& corpus_node, Trace& trace)
      : run_(run), corpus_node_(corpus_node), corpus_(corpus_node.path), trace_(trace) {}

  void find(const std::string& wanted) {
    // A file is meant before a name that a maker may have given to another document.
    const bool is_file = fs::is_regular_file(wanted);
    std::optional<Document> found = corpus_.find(is_file ? sha256_file(wanted).hex() : wanted);
    if (is_file && !found) {
      found = corpus_.find(wanted);
      trace_.other_text = found.has_value();
    }
    trace_.corpus = corpus_node_.name;
    trace_.window_length = corpus_.window_length();
    if (!found) return;
    trace_.document = found;
    trace_.windows = corpus_.windows(found->split);
    find_windows();
    if (found->split == Split::held_out) {
      trace_.status = TraceStatus::held_out;
      return;
    }
    for (size_t i = 0; i < run_.nodes.size(); ++i)
      if (reads_corpus(run_.nodes[i], corpus_node_.lineage()->root)) find_uses(int(i));
    find_descendants();
    const bool used = !trace_.uses.empty() || !trace_.rows.empty();
    trace_.status = used ? TraceStatus::used : TraceStatus::never_reached;
  }

 private:
  /// Window w holds the ids [w L, w L + L]; the last is a label only, and the next window's first input.
  void find_windows() {
    const Document& d = *trace_.document;
    if (d.tokens < 1) return;
    const int64_t length = trace_.window_length, first = d.first_token, last = d.first_token + d.tokens - 1;
    for (int64_t w = std::max<int64_t>(0, (first - 1) / length); w <= last / length && w < trace_.windows; ++w)
      trace_.in_windows.push_back({w, std::max<int64_t>(first - 1 - w * length, 0), std::min(last - w * length, length - 1)});
  }

  void find_uses(int index) {
    const ArtifactNode& node = run_.nodes[size_t(index)];
    const LineageKind* kind = node.kind();
    if (!kind) return;
    if (kind->role == Role::targets) taught(node, index);
    const auto order = WindowOrder::of(run_, node, corpus_node_.lineage()->root, trace_.windows);
    if (!order) return;
    bool used = false;
    for (const TracedWindow& w : trace_.in_windows) {
      // Where only inputs are read and the document begins with the window's last label, it is not seen.
      if (!order->reads_labels() && trace_.document->first_token >= (w.window + 1) * trace_.window_length) continue;
      for (const int64_t position : order->positions_of(w.window)) {
        trace_.uses.push_back({node.name, node.lineage()->kind, w.window, position / order->batch(), position % order->batch()});
        used = true;
      }
    }
    if (!used) return;
    (kind->trains ? trained_ : looked_at_).push_back(index);
    if (kind->trains && has_router_counts(node.path)) experts(node);
  }

  void taught(const ArtifactNode& node, int index) {
    const TaughtBlocks targets = read_taught_blocks(node);
    const TrainingOrder order(targets.order_key, trace_.windows, targets.blocks);
    for (const TracedWindow& w : trace_.in_windows)
      if (const int64_t block = order.block_of_window(w.window); block >= targets.first && block < targets.end) {
        trace_.rows.push_back({node.name, w.window, block, block * trace_.window_length + w.first_position,
                               block * trace_.window_length + w.last_position});
        looked_at_.push_back(index);
      }
  }

  /// Counts are kept by source: one document's own routing is not known without running the model on it.
  void experts(const ArtifactNode& node) {
    const RouterCounts counts = read_router_counts(node.path);
    const auto found = std::ranges::lower_bound(counts.sources, trace_.document->source);
    if (found == counts.sources.end() || *found != trace_.document->source) return;
    const int64_t source = found - counts.sources.begin();
    TracedExperts traced{node.name, counts.tokens[size_t(source)], {}};
    for (int64_t l = 0; l < counts.layers; ++l) {
      const auto all = double(std::max<int64_t>(1, counts.of_source(source, l)));
      std::vector<TracedExpert>& layer = traced.layers.emplace_back();
      for (int64_t e = 0; e < counts.experts; ++e)
        layer.push_back({e, double(counts.at(source, l, e)) / all, counts.mass(source, l, e)});
      std::ranges::stable_sort(layer, [](const TracedExpert& a, const TracedExpert& b) { return a.share > b.share; });
    }
    trace_.experts.push_back(std::move(traced));
  }

  /// Models made, by any way, from what the document was used for.
  void find_descendants() {
    const auto any = [](const std::vector<int>& of, const std::vector<int>& ancestors) {
      return std::ranges::any_of(of, [&](int i) { return std::ranges::find(ancestors, i) != ancestors.end(); });
    };
    for (size_t i = 0; i < run_.nodes.size(); ++i) {
      const ArtifactNode& node = run_.nodes[i];
      const LineageKind* kind = node.kind();
      if (!kind || !kind->is_model() || kind->origin != Origin::inputs) continue;
      const std::vector<int> ancestors = run_.ancestors_of(int(i));
      const bool trained = any(trained_, ancestors);
      if (trained || any(looked_at_, ancestors)) trace_.reaches.push_back({node.name, node.lineage()->kind, trained});
    }
  }

  const RunFolder& run_;
  const ArtifactNode& corpus_node_;
  DocumentFinder corpus_;
  Trace& trace_;
  std::vector<int> trained_, looked_at_;  // artifacts whose weights, or whose statistics, the document had a part in
};

Json to_json(const Trace& t) {
  static constexpr std::string_view kNames[] = {"absent", "held-out", "never-reached", "used"};
  Json json = {{"status", kNames[size_t(t.status)]}, {"answer", kStatusNames[size_t(t.status)]}, {"corpus", t.corpus}};
  if (const auto& d = t.document)
    json["document"] = {{"name", d->name},     {"digest", "sha256:" + d->digest.hex()},
                        {"source", d->source}, {"license", d->license},
                        {"bytes", d->bytes},   {"split", d->split == Split::train ? "train" : "held_out"},
                        {"tokens", d->tokens}, {"first_token", d->first_token}};
  json["other_text"] = t.other_text;
  json["windows"] = Json::array();
  for (const TracedWindow& w : t.in_windows)
    json["windows"].push_back({{"window", w.window}, {"first_position", w.first_position}, {"last_position", w.last_position}});
  json["teacher_rows"] = Json::array();
  for (const TracedRows& r : t.rows)
    json["teacher_rows"].push_back({{"artifact", r.artifact},
                                    {"window", r.window},
                                    {"block", r.block},
                                    {"first_row", r.first_row},
                                    {"last_row", r.last_row}});
  json["uses"] = Json::array();
  for (const TracedUse& u : t.uses)
    json["uses"].push_back(
        {{"artifact", u.artifact}, {"kind", u.kind}, {"window", u.window}, {"step", u.step}, {"place", u.place}});
  json["experts"] = Json::array();
  for (const TracedExperts& x : t.experts) {
    Json layers = Json::array();
    for (const auto& layer : x.layers) {
      Json experts = Json::array();
      for (const TracedExpert& e : layer)
        experts.push_back({{"expert", e.expert}, {"share_of_source", e.share}, {"mass", e.mass}});
      layers.push_back(std::move(experts));
    }
    json["experts"].push_back(
        {{"artifact", x.artifact}, {"by", "source"}, {"source_tokens", x.source_tokens}, {"layers", layers}});
  }
  json["reaches"] = Json::array();
  for (const TracedDescendant& d : t.reaches)
    json["reaches"].push_back({{"artifact", d.artifact}, {"kind", d.kind}, {"by", d.trained ? "training" : "statistics"}});
  return json;
}

std::string text_of(const Trace& t, const std::string& wanted) {
  std::string out;
  out += fmt::format("{}: {}\n", printable(wanted), kStatusNames[size_t(t.status)]);
  if (!t.document) return out;
  const Document& d = *t.document;
  if (t.other_text) out += "  note: the text of this file is not in the corpus; what follows is about the document that has its name\n";
  out +=
      fmt::format("  document   {}\n             sha256:{}\n  source     {}, licence {}\n  stream     {}: {} tokens from {} on\n",
                  printable(d.name), d.digest.hex(), printable(d.source), printable(d.license),
                  d.split == Split::train ? "train" : "held out", d.tokens, d.first_token);
  for (const TracedWindow& w : t.in_windows)
    out += fmt::format("  window     {} of {}, positions {}-{}\n", w.window, t.windows, w.first_position, w.last_position);
  for (const TracedRows& r : t.rows)
    out += fmt::format("  teacher    {}: rows {}-{} (block {}, window {})\n", printable(r.artifact), r.first_row, r.last_row,
                       r.block, r.window);
  for (const TracedUse& u : t.uses) {
    if (!lineage_kind(u.kind).trains) out += fmt::format("  observed   {}: window {}\n", printable(u.artifact), u.window);
    else
      out += fmt::format("  trained    {} ({}): step {}, place {} (window {})\n", printable(u.artifact), u.kind, u.step, u.place,
                         u.window);
  }
  for (const TracedExperts& x : t.experts) {
    out += fmt::format("  experts    {}: where the {} tokens of its source '{}' went, an estimate for this document\n",
                       printable(x.artifact), x.source_tokens, printable(d.source));
    for (size_t l = 0; l < x.layers.size(); ++l) {
      std::string line;
      for (size_t i = 0; i < std::min<size_t>(3, x.layers[l].size()); ++i)
        line += fmt::format("{}expert {} {:.1f} %", i ? ", " : "", x.layers[l][i].expert, 100 * x.layers[l][i].share);
      out += fmt::format("             layer {}: {}\n", l, line);
    }
  }
  for (const TracedDescendant& r : t.reaches)
    out += fmt::format("  reaches    {} ({}){}\n", printable(r.artifact), r.kind,
                       r.trained ? "" : ", by statistics or teacher's answers alone");
  if (t.status == TraceStatus::held_out) out += "  No weight was ever changed by it; measurements may have read it.\n";
  if (t.status == TraceStatus::never_reached) out += "  No stage of this run drew any of its windows.\n";
  return out;
}

}  // namespace

RunFolder load_sound_run(const fs::path& folder, VerifyFiles verify, const TrustOptions& trust) {
  const auto trusted = trust.key();
  RunFolder run = load_run(folder, verify, trusted.get());
  require_one_signer(run, trusted.get());
  for (const ArtifactNode& node : run.nodes) require_sound(node);
  return run;
}

Trace trace_document(const fs::path& folder, const TraceConfig& config) {
  if (config.document.empty())
    throw UsageError("audit trace: --document is missing (a text file, a digest or a document's name)");
  const RunFolder run = load_sound_run(folder, config.verify, config.trust);
  const ArtifactNode& corpus = only_corpus(run);
  Trace trace;
  Tracer(run, corpus, trace).find(config.document);
  return trace;
}

Answer audit_trace(const TraceConfig& config, const fs::path& folder) {
  const int asked =
      int(!config.document.empty()) + int(!config.step.empty()) + int(!config.artifact.empty()) + int(!config.span.empty());
  if (asked != 1) throw UsageError("audit trace: ask one question: --document, --step, --export or --span");
  if (!config.document.empty()) {
    const Trace trace = trace_document(folder, config);
    return with_signers({to_json(trace), text_of(trace, config.document)}, folder, config.trust);
  }
  if (!config.step.empty()) {
    const StepTrace trace = trace_step(folder, config);
    return with_signers({to_json(trace), text_of(trace)}, folder, config.trust);
  }
  if (!config.artifact.empty()) {
    const AncestryTrace trace = trace_ancestry(folder, config);
    return with_signers({to_json(trace, config.reached), text_of(trace, config.reached)}, folder, config.trust);
  }
  const SpanTrace trace = trace_span(folder, config);
  return with_signers({to_json(trace), text_of(trace)}, folder, config.trust);
}

}  // namespace overproof
