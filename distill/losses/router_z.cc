// The squared log-partition of the router's scores: keeps them small, where rounding in narrow types costs least.
#include <ATen/ATen.h>

#include "distill/losses/inner.h"

namespace overproof {
namespace {

at::Tensor inner(const InnerRows& rows) {
  at::Tensor sum;
  for (const RouterRecord& layer : rows.routing) {
    const at::Tensor value = layer.scores.logsumexp(1).square().mul(rows.weight).sum(at::kDouble);
    sum = sum.defined() ? sum + value : value;
  }
  return sum / double(rows.routing.size());
}

}  // namespace

const Loss kRouterZ{
    .name = "router-z", .help = "squared log-sum-exp of the router's scores", .inside = Inside::router, .inner = inner};

}  // namespace overproof
