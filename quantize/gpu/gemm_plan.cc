#include "quantize/gpu/gemm_plan.h"

#include <fmt/format.h>

#include "core/error.h"

namespace overproof {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

struct Choice {
  GemmPath path;
  std::string_view why;
};

Choice choose_path(const GemmProblem& p) {
  const bool ada = p.capability >= 89, hopper = p.capability == 90;
  const bool blocks = p.scaling == GemmScaling::block_128;
  if (p.codes == ElementType::int8) {
    if (blocks) return {GemmPath::dequantize, "cuBLASLt has no block scales for int8"};
    if (p.columns > kInt8Columns) return {GemmPath::widen_then_scale, "so many columns could overflow int32 sums"};
    return {GemmPath::int8_then_scale, "int8 tensor cores, 8.0 and later"};
  }
  if (!ada) {
    if (blocks) return {GemmPath::dequantize, "no fp8 tensor cores before 8.9"};
    return {GemmPath::widen_then_scale, "no fp8 tensor cores before 8.9; bf16 holds the codes exactly"};
  }
  if (blocks) {
    if (hopper) return {GemmPath::f8_block, "cuBLASLt's 128-element scales, 9.0 only"};
    return {GemmPath::dequantize, "cuBLASLt takes 128-element f32 scales on 9.0 only"};
  }
  if (p.scaling == GemmScaling::per_tensor) return {GemmPath::f8_scalar, "cuBLASLt's tensor-wide scales, 8.9 and later"};
  if (hopper) return {GemmPath::f8_vector, "cuBLASLt's outer vectors, 9.0 only"};
  return {GemmPath::f8_then_scale, "cuBLASLt takes outer vectors on 9.0 only"};
}

void check(const GemmProblem& p) {
  if (p.capability < 80)
    throw UsageError(fmt::format("compute capability {}.{} is too old: the GPU path needs 8.0 or later; use --device cpu",
                                 p.capability / 10, p.capability % 10));
  constexpr int64_t kLargest = (int64_t{1} << 31) - 256;  // padding included, below 2^31
  for (const int64_t n : {p.tokens, p.outputs, p.columns})
    if (n < 1 || n > kLargest)
      throw MismatchError(fmt::format("a product of [{}, {}] and [{}, {}] cannot be computed: sizes go from 1 to {}", p.tokens,
                                      p.columns, p.outputs, p.columns, kLargest));
  OVERPROOF_CHECK(p.codes == ElementType::int8 || p.codes == ElementType::f8_e4m3);
  OVERPROOF_CHECK(p.out == ElementType::f32 || p.out == ElementType::bf16);
}

}  // namespace

std::string_view to_string(GemmPath path) {
  switch (path) {
    case GemmPath::int8_then_scale:
      return "int8, then scale";
    case GemmPath::f8_scalar:
      return "fp8, tensor-wide scales";
    case GemmPath::f8_vector:
      return "fp8, outer vector scales";
    case GemmPath::f8_block:
      return "fp8, 1x128 and 128x128 block scales";
    case GemmPath::f8_then_scale:
      return "fp8, then scale";
    case GemmPath::widen_then_scale:
      return "codes as bf16, then scale";
    case GemmPath::dequantize:
      return "dequantized to bf16";
  }
  return "unknown";
}

std::string_view to_string(GemmScaling scaling) {
  switch (scaling) {
    case GemmScaling::per_tensor:
      return "tensor x tensor";
    case GemmScaling::token_channel:
      return "token x channel";
    case GemmScaling::block_128:
      return "1x128 x 128x128";
  }
  return "unknown";
}

GemmPlan choose_gemm_plan(const GemmProblem& p) {
  check(p);
  GemmPlan plan{};
  const Choice choice = choose_path(p);
  plan.path = choice.path;
  plan.why = choice.why;
  const bool converts = choice.path == GemmPath::widen_then_scale || choice.path == GemmPath::dequantize;
  plan.operand = converts ? ElementType::bf16 : p.codes;
  plan.scale_after = choice.path == GemmPath::int8_then_scale || choice.path == GemmPath::f8_then_scale ||
                     choice.path == GemmPath::widen_then_scale;
  const ElementType d = choice.path == GemmPath::int8_then_scale ? ElementType::int32
                        : plan.scale_after                       ? ElementType::f32
                                                                 : p.out;

  // Rows in multiples of 16 bytes in every operand: required for fp8, and fastest for int8 and bf16. The token count is
  // cuBLAS's n and unrestricted, except with block scales.
  plan.columns = round_up(p.columns, 16 / element_bytes(plan.operand));
  plan.outputs = round_up(p.outputs, 16 / element_bytes(d));
  plan.tokens = choice.path == GemmPath::f8_block ? round_up(p.tokens, 4) : p.tokens;

  MatmulJob& job = plan.job;
  job.m = plan.outputs;
  job.n = plan.tokens;
  job.k = job.lda = job.ldb = plan.columns;
  job.ldd = plan.outputs;
  job.ab = plan.operand;
  job.d = d;
  job.a_scale = job.b_scale = MatmulScale::none;
  job.split_k = choice.path == GemmPath::int8_then_scale;
  // What NVIDIA recommends for cuBLAS: 32 MiB from Hopper on, 4 MiB before.
  job.workspace_bytes = p.capability >= 90 ? 32 * kMiB : 4 * kMiB;

  // The scales, dense and in the order of the files unless cuBLASLt needs another order.
  ScaleTiles& x = plan.activation_scales;
  ScaleTiles& w = plan.weight_scales;
  switch (p.scaling) {
    case GemmScaling::per_tensor:
      x = per_tensor(plan.tokens, plan.columns);
      w = per_tensor(plan.outputs, plan.columns);
      break;
    case GemmScaling::token_channel:
      x = per_row(plan.tokens, plan.columns);
      w = per_row(plan.outputs, plan.columns);
      break;
    case GemmScaling::block_128:
      x = per_group(plan.tokens, plan.columns, 128);
      w = per_block(plan.outputs, plan.columns, 128);
      break;
  }
  plan.activation_scale_count = x.count();
  plan.weight_scale_count = w.count();
  if (choice.path == GemmPath::f8_scalar) job.a_scale = job.b_scale = MatmulScale::scalar;
  if (choice.path == GemmPath::f8_vector) job.a_scale = job.b_scale = MatmulScale::outer_vector;
  if (choice.path == GemmPath::f8_block) {
    job.a_scale = MatmulScale::block_128;
    job.b_scale = MatmulScale::vector_128;
    // Activations: tokens next to each other, one row of them a block of columns. Weight: blocks of columns next to each
    // other, rows of them a multiple of four apart.
    x.row_step = 1;
    x.column_step = plan.tokens;
    w.row_step = round_up(w.across(), 4);
    plan.weight_scale_count = w.row_step * w.down();
  }
  return plan;
}

}  // namespace overproof
