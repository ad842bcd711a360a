#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <omp.h>

#include "core/processor.h"
#include "model/ops/gemm.h"

namespace at::native {
// oneDNN's product of dense matrices: result = alpha mat1 @ mat2 + beta result. Exported by libtorch_cpu, in none of its headers; weak,
// so that a libtorch without it is used without it.
__attribute__((weak)) void mkldnn_matmul(const Tensor& mat1, const Tensor& mat2, const Tensor& result, float beta, float alpha);
}  // namespace at::native

namespace overproof::ops::cpu {
namespace {

using at::Tensor;

/// Smaller products take less time than oneDNN's call does.
constexpr int64_t kLeastOperations = 1 << 20;

/// Rows or columns of a view follow each other without gaps within one.
bool has_unit_stride(const Tensor& t) { return t.stride(0) == 1 || t.stride(1) == 1; }

/// How oneDNN divides a product, and so the order of its sums, can depend on the number of threads that it may use.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

}  // namespace

bool f32_by_onednn() {
  static const bool chosen = has_avx512_of_another_maker() && at::native::mkldnn_matmul != nullptr;
  return chosen;
}

void gemm(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate, double scale) {
  Tensor target = out;
  if (out.scalar_type() == at::kFloat && f32_by_onednn() && a.size(0) * a.size(1) * b.size(1) >= kLeastOperations && out.stride(1) == 1 &&
      has_unit_stride(a) && has_unit_stride(b)) {
    const OneThread one;
    at::native::mkldnn_matmul(a, b, out, accumulate ? 1.0f : 0.0f, float(scale));
    target.unsafeGetTensorImpl()->bump_version();
  } else if (accumulate) {
    target.addmm_(a, b, 1, scale);
  } else {
    at::mm_out(target, a, b);
    if (scale != 1) target.mul_(scale);
  }
}

int64_t gemm_row_multiple(at::ScalarType type) { return type == at::kBFloat16 || f32_by_onednn() ? 32 : 1; }

}  // namespace overproof::ops::cpu
