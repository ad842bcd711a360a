#include "distill/router_counts.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/checked.h"
#include "core/error.h"

namespace overproof {
namespace {

constexpr int64_t kMostCounts = int64_t{1} << 29;  // 4 GB, kept in memory and in each checkpoint

}  // namespace

TokenSources::TokenSources(const Corpus& corpus) : corpus_(corpus) {
  for (const Document& d : corpus.documents()) names_.push_back(d.source);
  std::ranges::sort(names_);
  names_.erase(std::unique(names_.begin(), names_.end()), names_.end());
  source_of_.reserve(corpus.documents().size());
  for (const Document& d : corpus.documents())
    source_of_.push_back(int32_t(std::ranges::lower_bound(names_, d.source) - names_.begin()));
}

void TokenSources::read_window(Split split, int64_t window, std::span<int32_t> out) const {
  const int64_t length = corpus_.window_length();
  OVERPROOF_CHECK(int64_t(out.size()) == length);
  for (int64_t at = window * length, end = at + length; at < end;) {
    const Document& d = corpus_.document_at(split, at);
    const int64_t stop = std::min(end, d.first_token + d.tokens);
    const int32_t source = source_of_[size_t(&d - corpus_.documents().data())];
    std::fill(out.begin() + (at - window * length), out.begin() + (stop - window * length), source);
    at = stop;
  }
}

RouterCounter::RouterCounter(std::vector<std::string> sources, int64_t layers, int64_t experts) : sources_(std::move(sources)) {
  const auto count = int64_t(sources_.size());
  const auto cells = checked_mul(layers, experts), all = checked_mul(count, cells.value_or(INT64_MAX));
  if (!cells || !all || *all > kMostCounts)
    throw UsageError(
        fmt::format("counting where the tokens of {} sources go, over {} layers with {} experts, would take more than {} GB: "
                    "name coarser sources in the corpus's documents.jsonl",
                    count, layers, experts, kMostCounts * 8 / 1000000000));
  counts_ = at::zeros({count, layers, experts}, at::kLong);
  tokens_ = at::zeros({count}, at::kLong);
}

void RouterCounter::add(const std::vector<RouterRecord>& routing, std::span<const int32_t> token_sources) {
  const int64_t layers = counts_.size(1), experts = counts_.size(2);
  OVERPROOF_CHECK(int64_t(routing.size()) == layers);
  int64_t* counts = counts_.data_ptr<int64_t>();
  for (int64_t l = 0; l < layers; ++l) {
    const at::Tensor& selected = routing[size_t(l)].selected;
    OVERPROOF_CHECK(selected.defined() && selected.size(0) == int64_t(token_sources.size()));
    const int32_t* expert = selected.const_data_ptr<int32_t>();
    const int64_t k = selected.size(1);
    for (const int32_t source : token_sources) {
      int64_t* row = counts + (int64_t(source) * layers + l) * experts;
      for (int64_t j = 0; j < k; ++j) ++row[*expert++];
    }
  }
  int64_t* tokens = tokens_.data_ptr<int64_t>();
  for (const int32_t source : token_sources) ++tokens[source];
}

RouterCounts RouterCounter::result() const {
  RouterCounts result;
  result.sources = sources_;
  result.layers = counts_.size(1);
  result.experts = counts_.size(2);
  result.counts.assign(counts_.const_data_ptr<int64_t>(), counts_.const_data_ptr<int64_t>() + counts_.numel());
  result.tokens.assign(tokens_.const_data_ptr<int64_t>(), tokens_.const_data_ptr<int64_t>() + tokens_.numel());
  return result;
}

void write_router_counts(OutputFolder& folder, const RouterCounter& counter, const fs::path& trained_from) {
  const RouterCounts counted = counter.result();
  write_router_counts(folder,
                      has_router_counts(trained_from) ? add_router_counts(read_router_counts(trained_from), counted) : counted);
}

}  // namespace overproof
