#include "audit/impact.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "audit/trace.h"
#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

ImpactRow make_row(const RouterCounts& c, int64_t source, int64_t layer, int64_t expert, int64_t layer_tokens) {
  ImpactRow row{c.sources[size_t(source)], layer, expert, c.at(source, layer, expert), c.mass(source, layer, expert)};
  const int64_t of_source = c.of_source(source, layer);
  if (of_source > 0) {
    row.share = double(row.tokens) / double(of_source);
    row.lift = row.mass / (double(of_source) / double(layer_tokens));
  }
  return row;
}

int64_t tokens_of_layer(const RouterCounts& c, int64_t layer) {
  int64_t sum = 0;
  for (int64_t s = 0; s < int64_t(c.sources.size()); ++s) sum += c.of_source(s, layer);
  return sum;
}

std::vector<ImpactRow> largest(std::vector<ImpactRow> rows, int64_t top) {
  std::ranges::stable_sort(rows, [](const ImpactRow& a, const ImpactRow& b) { return a.mass > b.mass; });
  if (int64_t(rows.size()) > top) rows.resize(size_t(top));
  return rows;
}

std::pair<int64_t, int64_t> parse_expert(const std::string& text, const RouterCounts& c) {
  int64_t layer = -1, expert = -1;
  const char* end = text.data() + text.size();
  const auto [colon, error] = std::from_chars(text.data(), end, layer);
  if (error != std::errc() || colon == end || *colon != ':' || std::from_chars(colon + 1, end, expert).ptr != end || layer < 0 ||
      expert < 0)
    throw UsageError(fmt::format("--expert takes LAYER:EXPERT, such as 3:7, not '{}'", text));
  if (layer >= c.layers || expert >= c.experts)
    throw UsageError(
        fmt::format("there are layers 0 to {} with experts 0 to {}, so no expert {}", c.layers - 1, c.experts - 1, text));
  return {layer, expert};
}

Json to_json(const ImpactRow& r) {
  return {{"source", r.source}, {"layer", r.layer},           {"expert", r.expert}, {"tokens", r.tokens},
          {"mass", r.mass},     {"share_of_source", r.share}, {"lift", r.lift}};
}

}  // namespace

std::vector<ImpactRow> experts_of_source(const RouterCounts& counts, int64_t source, int64_t top) {
  std::vector<ImpactRow> all;
  for (int64_t l = 0; l < counts.layers; ++l) {
    const int64_t layer_tokens = tokens_of_layer(counts, l);
    std::vector<ImpactRow> layer;
    for (int64_t e = 0; e < counts.experts; ++e) layer.push_back(make_row(counts, source, l, e, layer_tokens));
    for (ImpactRow& row : largest(std::move(layer), top)) all.push_back(std::move(row));
  }
  return all;
}

std::vector<ImpactRow> sources_of_expert(const RouterCounts& counts, int64_t layer, int64_t expert, int64_t top) {
  const int64_t layer_tokens = tokens_of_layer(counts, layer);
  std::vector<ImpactRow> rows;
  for (int64_t s = 0; s < int64_t(counts.sources.size()); ++s)
    if (counts.at(s, layer, expert) > 0) rows.push_back(make_row(counts, s, layer, expert, layer_tokens));
  return largest(std::move(rows), top);
}

Impact find_impact(const fs::path& folder, const ImpactConfig& config) {
  if (!config.source.empty() && !config.expert.empty())
    throw UsageError("audit impact: ask for --source or for --expert, not both");
  const RunFolder run = load_sound_run(folder, config.verify, config.trust);
  Impact impact;
  bool found = false;
  for (const ArtifactNode& node : run.nodes) {
    if (!node.lineage() || !has_router_counts(node.path)) continue;
    if (!config.artifact.empty() && node.name != config.artifact) continue;
    RouterCounts counts = read_router_counts(node.path);
    if (found && counts.all_tokens() <= impact.counts.all_tokens()) continue;
    impact.artifact = node.name;
    impact.counts = std::move(counts);
    found = true;
  }
  if (!found)
    throw UsageError(config.artifact.empty()
                         ? fmt::format("{}: no artifact here keeps router counts; distill writes them for a mixture of experts",
                                       folder.string())
                         : fmt::format("'{}' keeps no router counts, or is not here", config.artifact));
  if (!config.source.empty()) impact.rows = experts_of_source(impact.counts, impact.counts.find(config.source), config.top);
  if (!config.expert.empty()) {
    const auto [layer, expert] = parse_expert(config.expert, impact.counts);
    impact.rows = sources_of_expert(impact.counts, layer, expert, config.top);
  }
  return impact;
}

namespace {

Json answer_json(const Impact& impact, const ImpactConfig& config) {
  const RouterCounts& c = impact.counts;
  Json value = {{"artifact", impact.artifact}, {"layers", c.layers}, {"experts", c.experts}, {"tokens", c.all_tokens()}};
  if (config.source.empty() && config.expert.empty()) {
    value["sources"] = Json::array();
    for (size_t s = 0; s < c.sources.size(); ++s) value["sources"].push_back({{"source", c.sources[s]}, {"tokens", c.tokens[s]}});
    return value;
  }
  if (!config.source.empty()) value["source_tokens"] = c.tokens[size_t(c.find(config.source))];
  value["rows"] = Json::array();
  for (const ImpactRow& row : impact.rows) value["rows"].push_back(to_json(row));
  return value;
}

std::string overview_text(const RouterCounts& c) {
  std::vector<size_t> order(c.sources.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return c.tokens[a] > c.tokens[b]; });
  std::string out;
  for (const size_t s : order) out += fmt::format("  {}: {} tokens\n", printable(c.sources[s]), c.tokens[s]);
  return out + "  For details, pass --source or --expert.\n";
}

std::string rows_text(const Impact& impact, bool of_source) {
  std::string out;
  for (const ImpactRow& r : impact.rows) {
    if (r.tokens == 0) continue;
    if (of_source)
      out += fmt::format(
          "  layer {} expert {}: {:.1f} % of its tokens are from '{}' ({:.2f} times its part), {:.1f} % of the source's "
          "routing\n",
          r.layer, r.expert, 100 * r.mass, printable(r.source), r.lift, 100 * r.share);
    else
      out += fmt::format(
          "  {}: {:.1f} % of the expert's tokens ({:.2f} times its part), {:.1f} % of the source's routing in layer {}\n",
          printable(r.source), 100 * r.mass, r.lift, 100 * r.share, r.layer);
  }
  if (!out.empty()) return out;
  return of_source ? "  No token of this source was trained on.\n" : "  No token was sent to this expert.\n";
}

}  // namespace

Answer audit_impact(const ImpactConfig& config, const fs::path& folder) {
  const Impact impact = find_impact(folder, config);
  const RouterCounts& c = impact.counts;
  const bool overview = config.source.empty() && config.expert.empty();
  return with_signers(
      {answer_json(impact, config),
          fmt::format("{}: {} tokens of {} sources through {} layers of {} experts\n", printable(impact.artifact), c.all_tokens(),
                      c.sources.size(), c.layers, c.experts) +
              (overview ? overview_text(c) : rows_text(impact, !config.source.empty()))},
      folder, config.trust);
}

}  // namespace overproof
