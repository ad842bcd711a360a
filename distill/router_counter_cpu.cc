#include "distill/router_counter.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/checked.h"
#include "core/error.h"

namespace overproof {
namespace {

constexpr int64_t kMostCounts = int64_t{1} << 29;  // 4 GB, kept in memory and in each checkpoint

}  // namespace

RouterCounter::RouterCounter(std::vector<std::string> sources, int64_t layers, int64_t experts, std::shared_ptr<const Group> group)
    : sources_(std::move(sources)), group_(std::move(group)) {
  const auto count = int64_t(sources_.size());
  const auto cells = checked_mul(layers, experts), all = checked_mul(count, cells.value_or(INT64_MAX));
  if (!cells || !all || *all > kMostCounts)
    throw MismatchError(
        fmt::format("router counts of {} sources, {} layers and {} experts would take more than {} GB; name fewer, coarser "
                    "sources in the corpus's documents.jsonl",
                    count, layers, experts, kMostCounts * 8 / 1000000000));
  counts_ = at::zeros({count, layers, experts}, at::kLong);
  tokens_ = at::zeros({count}, at::kLong);
  const bool alone = group_->size() == 1;
  step_counts_ = alone ? counts_ : at::zeros_like(counts_);
  step_tokens_ = alone ? tokens_ : at::zeros_like(tokens_);
}

void RouterCounter::add(const std::vector<RouterRecord>& routing, std::span<const int32_t> token_sources) {
  const int64_t layers = counts_.size(1), experts = counts_.size(2);
  OVERPROOF_CHECK(int64_t(routing.size()) == layers);
  int64_t* counts = step_counts_.data_ptr<int64_t>();
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
  int64_t* tokens = step_tokens_.data_ptr<int64_t>();
  for (const int32_t source : token_sources) ++tokens[source];
}

void RouterCounter::finish_step() {
  if (group_->size() == 1) return;
  const auto add_up = [&](at::Tensor& of_step, at::Tensor& all) {
    group_->all_reduce(std::span(of_step.data_ptr<int64_t>(), size_t(of_step.numel())));
    all.add_(of_step);
    of_step.zero_();
  };
  add_up(step_counts_, counts_);
  add_up(step_tokens_, tokens_);
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
