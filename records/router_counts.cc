#include "records/router_counts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/checked.h"
#include "core/config.h"
#include "core/error.h"
#include "core/json.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

std::vector<std::string> read_sources(const SafetensorsFile& file) {
  const auto found = file.metadata().find("sources");
  if (found == file.metadata().end()) throw FormatError(file.path(), -1, "metadata 'sources' is missing");
  const Json list = parse_json(found->second, file.path());
  std::vector<std::string> sources;
  if (!list.is_array()) throw FormatError(file.path(), -1, "metadata 'sources' is not a list of names");
  for (const Json& name : list) {
    if (!name.is_string()) throw FormatError(file.path(), -1, "metadata 'sources' is not a list of names");
    sources.push_back(name.get<std::string>());
    if (sources.size() > 1 && sources[sources.size() - 2] >= sources.back())
      throw FormatError(file.path(), -1, fmt::format("metadata 'sources' does not ascend at '{}'", sources.back()));
  }
  return sources;
}

/// Throws FormatError unless all counts are >= 0 and their sum fits: then every partial sum fits as well.
void require_counts(const std::vector<int64_t>& values, const fs::path& file, const char* name) {
  int64_t sum = 0;
  for (const int64_t value : values) {
    const auto next = checked_add(sum, value);
    if (value < 0 || !next) throw FormatError(file, -1, fmt::format("'{}' has a negative count, or counts that sum to more than 2^63 - 1", name));
    sum = *next;
  }
}

}  // namespace

int64_t RouterCounts::of_expert(int64_t layer, int64_t expert) const {
  int64_t sum = 0;
  for (int64_t s = 0; s < int64_t(sources.size()); ++s) sum += at(s, layer, expert);
  return sum;
}

int64_t RouterCounts::of_source(int64_t source, int64_t layer) const {
  int64_t sum = 0;
  for (int64_t e = 0; e < experts; ++e) sum += at(source, layer, e);
  return sum;
}

int64_t RouterCounts::all_tokens() const {
  int64_t sum = 0;
  for (const int64_t n : tokens) sum += n;
  return sum;
}

double RouterCounts::mass(int64_t source, int64_t layer, int64_t expert) const {
  const int64_t all = of_expert(layer, expert);
  return all > 0 ? double(at(source, layer, expert)) / double(all) : 0.0;
}

int64_t RouterCounts::find(const std::string& source) const {
  const auto it = std::lower_bound(sources.begin(), sources.end(), source);
  if (it != sources.end() && *it == source) return it - sources.begin();
  const std::string near = nearest(source, sources);
  throw UsageError(fmt::format("no source '{}' in the router counts; {}", source,
                               !near.empty()     ? "did you mean '" + near + "'?"
                               : sources.empty() ? "they have no sources"
                                                 : fmt::format("they have {}, from '{}' to '{}'", sources.size(),
                                                               sources.front(), sources.back())));
}

bool has_router_counts(const fs::path& artifact) { return fs::is_regular_file(artifact / kRouterCountsFile); }

RouterCounts read_router_counts(const fs::path& artifact) { return read_router_counts_file(artifact / kRouterCountsFile); }

RouterCounts read_router_counts_file(const fs::path& path) {
  const SafetensorsFile file(path);
  RouterCounts result;
  result.sources = read_sources(file);
  const std::vector<int64_t>& shape = file.info("counts").shape;
  if (shape.size() != 3 || shape[0] != int64_t(result.sources.size()) || shape[1] < 1 || shape[2] < 1)
    throw FormatError(path, -1, fmt::format("'counts' must be I64 [{} sources, layers, experts]", result.sources.size()));
  if (file.info("tokens").shape != std::vector<int64_t>{shape[0]})
    throw FormatError(path, -1, fmt::format("'tokens' must be I64 [{} sources]", result.sources.size()));
  for (const char* name : {"counts", "tokens"})
    if (file.info(name).dtype != DType::i64) throw FormatError(path, -1, fmt::format("'{}' must be I64", name));
  result.layers = shape[1];
  result.experts = shape[2];
  const auto counts = file.values<int64_t>("counts"), tokens = file.values<int64_t>("tokens");
  result.counts.assign(counts.begin(), counts.end());
  result.tokens.assign(tokens.begin(), tokens.end());
  require_counts(result.counts, path, "counts");
  require_counts(result.tokens, path, "tokens");
  return result;
}

void write_router_counts(OutputFolder& folder, const RouterCounts& c) {
  const auto sources = int64_t(c.sources.size());
  OVERPROOF_CHECK(int64_t(c.counts.size()) == sources * c.layers * c.experts && int64_t(c.tokens.size()) == sources);
  const std::string names = dump_text(c.sources);
  SafetensorsWriter writer(folder, kRouterCountsFile,
                           {{"counts", DType::i64, {sources, c.layers, c.experts}}, {"tokens", DType::i64, {sources}}},
                           {{"sources", names}, {"format_version", "1"}});
  writer.append(c.counts.data(), c.counts.size() * sizeof(int64_t));
  writer.append(c.tokens.data(), c.tokens.size() * sizeof(int64_t));
  writer.close();
}

RouterCounts add_router_counts(const RouterCounts& a, const RouterCounts& b) {
  if (a.layers != b.layers || a.experts != b.experts)
    throw MismatchError(fmt::format("router counts differ in shape: {} layers of {} experts, and {} of {}", a.layers, a.experts,
                                    b.layers, b.experts));
  std::map<std::string, std::vector<std::pair<const RouterCounts*, size_t>>> parts;
  for (const RouterCounts* c : {&a, &b})
    for (size_t s = 0; s < c->sources.size(); ++s) parts[c->sources[s]].emplace_back(c, s);
  RouterCounts sum;
  sum.layers = a.layers;
  sum.experts = a.experts;
  const auto cells = size_t(a.layers * a.experts);
  for (const auto& [name, list] : parts) {
    sum.sources.push_back(name);
    sum.tokens.push_back(0);
    sum.counts.resize(sum.counts.size() + cells);
    int64_t* to = sum.counts.data() + sum.counts.size() - cells;
    for (const auto& [c, s] : list) {
      const auto add = [](int64_t& total, int64_t count) {
        if (__builtin_add_overflow(total, count, &total)) throw MismatchError("router counts sum to more than 2^63 - 1");
      };
      add(sum.tokens.back(), c->tokens[s]);
      for (size_t i = 0; i < cells; ++i) add(to[i], c->counts[s * cells + i]);
    }
  }
  return sum;
}

}  // namespace overproof
