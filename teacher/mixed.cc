// A mixture of teachers: p = sum_i w_i p_i. The states of decoders stay apart until the loss makes their probabilities, chunk by
// chunk; rows of sampled targets are merged here, and stay an estimate without bias of their share.
#include <fmt/format.h>

#include <algorithm>

#include "core/digest.h"
#include "core/error.h"
#include "teacher/signal.h"

namespace overproof {
namespace {

/// sum + weight x rows, row by row. `sum` may be without rows.
SparseRows merged(const SparseRows& sum, const SparseRows& rows, double weight) {
  SparseRows out;
  const bool first = sum.rows() == 0;
  OVERPROOF_CHECK(first || sum.rows() == rows.rows());
  const auto put = [&](int32_t id, double probability) {
    out.ids.push_back(id);
    out.probabilities.push_back(float(probability));
  };
  for (size_t r = 0; r < rows.tail.size(); ++r) {
    size_t a = first ? 0 : size_t(sum.offsets[r]), b = size_t(rows.offsets[r]);
    const size_t a_end = first ? 0 : size_t(sum.offsets[r + 1]), b_end = size_t(rows.offsets[r + 1]);
    while (a < a_end || b < b_end) {
      const bool from_a = a < a_end && (b >= b_end || sum.ids[a] <= rows.ids[b]);
      const bool from_b = b < b_end && (a >= a_end || rows.ids[b] <= sum.ids[a]);
      put(from_a ? sum.ids[a] : rows.ids[b],
          (from_a ? double(sum.probabilities[a]) : 0.0) + (from_b ? weight * double(rows.probabilities[b]) : 0.0));
      a += from_a;
      b += from_b;
    }
    out.offsets.push_back(int64_t(out.ids.size()));
    out.tail.push_back(0);
  }
  return out;
}

class MixedSignal final : public TeacherSignal {
 public:
  explicit MixedSignal(std::vector<WeightedSignal> parts) : parts_(std::move(parts)) {
    OVERPROOF_CHECK(!parts_.empty());
    double sum = 0;
    for (const auto& [weight, part] : parts_) {
      OVERPROOF_CHECK(weight > 0);
      sum += weight;
      if (part->temperature() != temperature())
        throw MismatchError(
            fmt::format("temperatures of the mixed teachers differ: {} and {}; teach again with one --temperature", temperature(), part->temperature()));
      if (part->kind() == TargetKind::aligned && parts_.size() > 1)
        throw MismatchError("a teacher of another tokenizer cannot be mixed with others: their distributions are of different ids; give it documents of "
                            "its own with --route-by");
      if (part->kind() == TargetKind::top_k && parts_.size() > 1)
        throw MismatchError("top-k targets cannot be mixed with those of another teacher: the probabilities of ids that only the "
                            "other one names are not known; make them with teach --mode sample");
    }
    for (auto& [weight, part] : parts_) weight /= sum;
  }

  int64_t vocab_size() const override {
    int64_t least = parts_.front().second->vocab_size();
    for (const WeightedSignal& part : parts_) least = std::min(least, part.second->vocab_size());
    return least;
  }
  double temperature() const override { return parts_.front().second->temperature(); }
  TargetKind kind() const override {
    const bool whole = std::ranges::all_of(parts_, [](const WeightedSignal& p) { return p.second->kind() == TargetKind::whole; });
    return whole ? TargetKind::whole : TargetKind::sampled;
  }

  std::vector<Targets> rows(const TokenBatch& batch, int64_t first, int64_t count) const override {
    Targets all{.kind = kind()};
    for (const auto& [weight, part] : parts_) {
      std::vector<Targets> whole = part->rows(batch, first, count);
      OVERPROOF_CHECK(whole.size() == 1 && whole.front().rows.empty());
      Targets targets = std::move(whole.front());
      for (DenseStates& states : targets.states) {
        states.weight *= weight;
        all.states.push_back(std::move(states));
      }
      if (targets.sparse.rows() > 0) all.sparse = merged(all.sparse, targets.sparse, weight);
    }
    return {std::move(all)};
  }

  std::vector<Digest> digests(const TokenBatch& batch) const override {
    std::vector<std::vector<Digest>> of_parts;
    for (const WeightedSignal& part : parts_) of_parts.push_back(part.second->digests(batch));
    std::vector<Digest> list(size_t(batch.batch));
    for (size_t b = 0; b < list.size(); ++b) {
      std::vector<Digest> of_sequence;
      for (const std::vector<Digest>& digests : of_parts) of_sequence.push_back(digests[b]);
      list[b] = joined_digest(of_sequence);
    }
    return list;
  }

  Evidence evidence() const override {
    const bool all =
        std::ranges::all_of(parts_, [](const WeightedSignal& p) { return p.second->evidence() == Evidence::re_derivable; });
    return all ? Evidence::re_derivable : Evidence::recorded;
  }

 private:
  std::vector<WeightedSignal> parts_;
};

}  // namespace

Digest joined_digest(std::span<const Digest> of_parts) {
  if (std::ranges::all_of(of_parts, [](const Digest& digest) { return digest == Digest{}; })) return {};
  Sha256 hash;
  for (const Digest& digest : of_parts) hash.update(digest.bytes.data(), digest.bytes.size());
  return hash.finish();
}

std::unique_ptr<TeacherSignal> mixed_signal(std::vector<WeightedSignal> parts) {
  return std::make_unique<MixedSignal>(std::move(parts));
}

}  // namespace overproof
