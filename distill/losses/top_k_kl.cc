// Forward KL over the teacher's k likeliest ids and one more bin for all others: sum_K p_i (log p_i - log q_i) + t (log t - log r),
// t = 1 - sum_K p, r = 1 - sum_K q. Never renormalised: without the tail it would be no divergence, and below zero where the student
// has more mass on the k ids than the teacher. Gradient q_i - p_i at the k ids and q_v (1 - t / r) elsewhere.
#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "distill/losses/divergence.h"

namespace overproof {
namespace {

/// Rows of at most k ids are forward-kl's; of longer ones the least likely ids go to the tail.
double sparse(const SparseRow& row, const TermFactors& factors, SparseGradient* gradient) {
  const auto k = size_t(factors.parameter);
  if (row.p.size() <= k) return kForwardKl.sparse(row, factors, gradient);
  std::vector<size_t> order(row.p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::nth_element(order.begin(), order.begin() + std::ptrdiff_t(k), order.end(), [&](size_t a, size_t b) {
    return row.p[a] != row.p[b] ? row.p[a] > row.p[b] : a < b;  // equal ones: the lower id
  });
  std::vector<float> p, log_q;
  double tail = row.tail;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i < k) p.push_back(row.p[order[i]]), log_q.push_back(row.log_q[order[i]]);
    else tail += double(row.p[order[i]]);
  }
  SparseGradient of_k;
  of_k.at.assign(k, 0.0);
  const double value = kForwardKl.sparse({p, log_q, tail}, factors, gradient ? &of_k : nullptr);
  if (gradient) {
    gradient->rest += of_k.rest;
    gradient->named += of_k.named;
    for (size_t i = 0; i < order.size(); ++i)
      gradient->at[order[i]] += i < k ? of_k.at[i] : (of_k.rest - of_k.named) * std::exp(double(row.log_q[order[i]]));
  }
  return value;
}

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  const int64_t k = std::min(int64_t(factors.parameter), rows.p.size(1));
  const auto [p, ids] = rows.p.topk(k, 1, true, /*sorted=*/false);
  at::Tensor q = at::exp(rows.log_q);
  // The sum of all less that of the k is the tail to full precision, which 1 - sum_K p is not where the tail is small.
  const auto outside = [](const at::Tensor& all, const at::Tensor& named) {
    return all.sum(1, false, at::kDouble).sub_(named.sum(1, false, at::kDouble)).clamp_min_(0);
  };
  const at::Tensor tail = outside(rows.p, p), rest = outside(q, q.gather(1, ids)).clamp_min_(0x1p-24);
  const at::Tensor named = at::sub(rows.log_p.gather(1, ids), rows.log_q.gather(1, ids)).mul_(p).sum(1, false, at::kDouble);
  const at::Tensor values = (named + at::xlogy(tail, tail) - tail * rest.log()).clamp_min_(0);  // below zero by rounding only
  if (gradient) {
    gradient->q += factors.weight;
    q.mul_(at::div(tail, rest).neg_().to(q.scalar_type()).unsqueeze(1)).scatter_(1, ids, p.neg());
    gradient->add(q, factors.weight);
  }
  return rows.total(values);
}

}  // namespace

const Loss kTopKKl{.name = "top-k-kl",
                   .help = "forward-kl over the teacher's k likeliest ids, all others being one more",
                   .takes = {TargetKind::whole, TargetKind::top_k},
                   .parameter = 32,
                   .least = 1,
                   .most = 65536,
                   .integer = true,
                   .sparse = sparse,
                   .dense = dense};

}  // namespace overproof
