#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "audit/trace.h"
#include "audit/window_order.h"
#include "core/config.h"
#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/printable.h"
#include "data/document_finder.h"

namespace overproof {
namespace {

std::pair<std::string, int64_t> parse_step(const std::string& text) {
  const size_t colon = text.rfind(':');
  int64_t step = -1;
  if (colon != std::string::npos) {
    const char *begin = text.data() + colon + 1, *stop = text.data() + text.size();
    const auto [end, error] = std::from_chars(begin, stop, step);
    if (error != std::errc() || end != stop) step = -1;
  }
  if (step < 0 || colon == 0) throw UsageError(fmt::format("--step takes ARTIFACT:STEP, such as student:12, not '{}'", text));
  return {text.substr(0, colon), step};
}

/// The documents of a window's inputs and, with `labels`, of the token after them.
std::vector<StepDocument> documents_of(const DocumentFinder& corpus, int64_t window, bool labels) {
  const int64_t first = window * corpus.window_length(), end = first + corpus.window_length() + (labels ? 1 : 0);
  std::vector<StepDocument> list;
  for (const Document& d : corpus.at(Split::train, first, end))
    list.push_back({d.name, d.source, d.license, d.digest, std::max<int64_t>(0, first - d.first_token),
                    std::min(end - d.first_token, d.tokens) - 1});
  return list;
}

}  // namespace

StepTrace trace_step(const fs::path& folder, const TraceConfig& config) {
  const auto [name, step] = parse_step(config.step);
  const RunFolder run = load_sound_run(folder, config.verify, config.trust);
  const ArtifactNode& corpus_node = only_corpus(run);
  const ArtifactNode* node = run.find(name);
  if (!node) {
    std::vector<std::string> names;
    for (const ArtifactNode& n : run.nodes) names.push_back(n.name);
    const std::string near = nearest(name, names);
    throw UsageError(fmt::format("no artifact '{}' here{}", name, near.empty() ? "" : "; did you mean '" + near + "'?"));
  }
  const DocumentFinder corpus(corpus_node.path);
  const auto order = WindowOrder::of(run, *node, corpus_node.lineage()->root, corpus.windows(Split::train));
  if (!order) throw UsageError(fmt::format("{}: has no steps that read the corpus (or its tuning was thrown away)", name));
  if (step >= order->steps()) throw UsageError(fmt::format("{}: has steps 0 to {}, not {}", name, order->steps() - 1, step));
  StepTrace trace{name, corpus_node.name, step, order->steps(), std::vector<StepWindow>(size_t(order->batch()))};
  wait_in_parallel(order->batch(), [&, step = step](int64_t place) {  // the windows of a batch are all over the corpus
    const int64_t position = step * order->batch() + place, window = order->window_at(position);
    trace.windows[size_t(place)] = {place, window, order->block_at(position),
                                    documents_of(corpus, window, order->reads_labels())};
  });
  return trace;
}

Json to_json(const StepTrace& t) {
  Json json = {{"artifact", t.artifact}, {"corpus", t.corpus}, {"step", t.step}, {"steps", t.steps}, {"windows", Json::array()}};
  for (const StepWindow& w : t.windows) {
    Json documents = Json::array();
    for (const StepDocument& d : w.documents)
      documents.push_back({{"name", d.name},
                           {"digest", "sha256:" + d.digest.hex()},
                           {"source", d.source},
                           {"license", d.license},
                           {"first_token", d.first_token},
                           {"last_token", d.last_token}});
    Json window = {{"place", w.place}, {"window", w.window}, {"documents", std::move(documents)}};
    if (w.block >= 0) window["block"] = w.block;
    json["windows"].push_back(std::move(window));
  }
  return json;
}

std::string text_of(const StepTrace& t) {
  std::string out;
  out += fmt::format("{}: step {} of {} read {} windows of {}\n", printable(t.artifact), t.step, t.steps, t.windows.size(),
                     printable(t.corpus));
  for (const StepWindow& w : t.windows) {
    out += fmt::format("  place {}   window {}{}\n", w.place, w.window,
                       w.block >= 0 ? fmt::format(", block {} of the soft targets", w.block) : "");
    for (const StepDocument& d : w.documents)
      out += fmt::format("    {} tokens {}-{} ({}, {})\n", printable(d.name), d.first_token, d.last_token, printable(d.source),
                         printable(d.license));
  }
  return out;
}

}  // namespace overproof
