#pragma once
// Causal attention with grouped keys and values (Ainslie et al. 2023). linear.h explains the three namespaces.

#include <ATen/core/Tensor.h>

namespace overproof::ops {

/// softmax(q k^T / sqrt(dim)) v -> [batch, heads, new, dim]. q [batch, heads, new, dim]; k and v [batch, kv_heads, length, dim],
/// length >= new; heads is a multiple of kv_heads, and head h uses key head h / (heads / kv_heads). The last query is at the
/// position of the last key: query i sees keys 0 .. length - new + i. Any of the three may be a transposed view.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

namespace cpu {
decltype(ops::attention) attention;
}
namespace aten {
decltype(ops::attention) attention;
}

}  // namespace overproof::ops
