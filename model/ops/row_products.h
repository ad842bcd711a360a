#pragma once
// Products for generation: of the last token of a few sequences, or of the tokens of a prompt. The bits of a row depend on that row,
// the values of the weight and nothing else: not on how many rows there are, its place among them, how many threads run, in which form
// the weight is kept, or, in the CPU form, how wide the processor's vectors are. So a sequence gets the same tokens alone, in any
// batch, and after a resume. linear() does not promise that: a GEMM library sums in another order for another number of rows.
// Not differentiable. linear.h explains the three namespaces.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "model/ops/row_matrix.h"

namespace overproof::ops {

/// out[first + r][column + c] = <x[x_first + r], weight[c]> for r < rows and every row c of the weight.
struct RowProduct {
  at::Tensor x;    ///< [.., in]
  const RowMatrix* weight = nullptr;
  at::Tensor out;  ///< [.., ..]
  int64_t rows = 0, x_first = 0, first = 0, column = 0;
};

/// Several products at once, which cost less than one after another. The CPU form keeps each weight as it is stored, reads it once for up
/// to 64 rows and widens it in registers; each product is a sum of 16 chains of fused multiply-adds over `in`, added as a tree.
void row_products(std::span<const RowProduct> products);

/// x [n, in] @ weight^T (+ bias) (+ residual) -> [n, out]; weight [out, in], bias [out], residual [n, out]; bias and residual may be
/// undefined.
at::Tensor row_linear(const at::Tensor& x, const RowMatrix& weight, const at::Tensor& bias = {}, const at::Tensor& residual = {});

/// rows [n, kv_heads, dim] -> position lengths[i] of caches[i] [kv_heads, room, dim].
void store_positions(const at::Tensor& rows, const std::vector<at::Tensor>& caches, std::span<const int64_t> lengths);

/// Attention of one query of each of n sequences -> [n, heads x dim]. q [n, heads, dim]; keys[i] and values[i] [kv_heads, room, dim], of
/// which row i sees the positions from begins[i] (empty: 0) to lengths[i] - 1, with the values of a position next to each other; heads is a
/// multiple of kv_heads. `cap` as in attention.h.
at::Tensor row_attention(const at::Tensor& q, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                         std::span<const int64_t> lengths, std::span<const int64_t> begins = {}, double cap = 0);

/// out[to[j]] += rows[j] x weights[j], in the order of j. out [n, width], rows [m, width], weights [m].
void add_weighted_rows(const at::Tensor& out, const at::Tensor& rows, const at::Tensor& weights, std::span<const int64_t> to);

namespace cpu {
decltype(ops::row_products) row_products;
decltype(ops::store_positions) store_positions;
decltype(ops::row_attention) row_attention;
decltype(ops::add_weighted_rows) add_weighted_rows;

/// "avx512", "avx2" or "plain": what the processor has, best first. All give the same bits.
std::vector<std::string_view> row_instruction_sets();
/// Chooses one of them for this process, for tests and benchmarks; the best one unless set.
void use_row_instructions(std::string_view set);
std::string_view row_instructions();
}  // namespace cpu

namespace aten {
decltype(ops::row_products) row_products;
decltype(ops::store_positions) store_positions;
decltype(ops::row_attention) row_attention;
decltype(ops::add_weighted_rows) add_weighted_rows;
}  // namespace aten

}  // namespace overproof::ops
