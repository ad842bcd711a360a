// Translates a MatmulJob to cuBLASLt calls. quantize/gpu/gemm_plan.cc chose what to compute and how.

#include <memory>

#include "quantize/cuda/session.h"

namespace overproof::gpu {
namespace {

cudaDataType_t data_type(ElementType type) {
  switch (type) {
    case ElementType::f32:
      return CUDA_R_32F;
    case ElementType::bf16:
      return CUDA_R_16BF;
    case ElementType::int8:
      return CUDA_R_8I;
    case ElementType::f8_e4m3:
      return CUDA_R_8F_E4M3;
    case ElementType::int32:
      return CUDA_R_32I;
  }
  return CUDA_R_32F;
}

static_assert(int(MatmulScale::scalar) == CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F);
static_assert(int(MatmulScale::outer_vector) == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
static_assert(int(MatmulScale::vector_128) == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F);
static_assert(int(MatmulScale::block_128) == CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F);

template <class Handle, cublasStatus_t (*destroy)(Handle)>
struct Owned {
  Handle handle = nullptr;
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (handle != nullptr) destroy(handle);
  }
};
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

/// Runs steps until one fails.
struct Steps {
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  template <class Call, class... Args>
  void operator()(Call call, Args... args) {
    if (status == CUBLAS_STATUS_SUCCESS) status = call(args...);
  }
};

int32_t prepare_workspace(Session& session, int64_t bytes) {
  if (bytes <= session.workspace_bytes) return 0;
  if (const int32_t bad = status(cudaStreamSynchronize(session.stream), "wait for the device")) return bad;
  cudaFree(session.workspace);
  session.workspace = nullptr;
  session.workspace_bytes = 0;
  if (const int32_t bad = status(cudaMalloc(&session.workspace, size_t(bytes)), "allocate the workspace")) return bad;
  session.workspace_bytes = bytes;
  return 0;
}

/// A job as cuBLASLt descriptors, and the status of creating them.
struct Descriptors {
  Description description;
  Layout a, b, d;
  Preference preference;
  Steps step;

  explicit Descriptors(const MatmulJob& job) {
    const bool integers = job.ab == ElementType::int8;
    step(cublasLtMatmulDescCreate, &description.handle, integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
         integers ? CUDA_R_32I : CUDA_R_32F);
    describe(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    describe(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    scaled(job.a_scale, job.a_scales, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
    scaled(job.b_scale, job.b_scales, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
    // Hopper's fp8 units add with few bits; without fast accumulation cuBLAS regularly moves the sums to f32 registers.
    if (job.ab == ElementType::f8_e4m3) describe(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{0});

    step(cublasLtMatrixLayoutCreate, &a.handle, data_type(job.ab), uint64_t(job.k), uint64_t(job.m), job.lda);
    step(cublasLtMatrixLayoutCreate, &b.handle, data_type(job.ab), uint64_t(job.k), uint64_t(job.n), job.ldb);
    step(cublasLtMatrixLayoutCreate, &d.handle, data_type(job.d), uint64_t(job.m), uint64_t(job.n), job.ldd);

    step(cublasLtMatmulPreferenceCreate, &preference.handle);
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(job.workspace_bytes));
    if (!job.split_k) prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_NONE));
  }

 private:
  template <class Value>
  void describe(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    step(cublasLtMatmulDescSetAttribute, description.handle, attribute, static_cast<const void*>(&value), sizeof(value));
  }
  template <class Value>
  void prefer(cublasLtMatmulPreferenceAttributes_t attribute, const Value& value) {
    step(cublasLtMatmulPreferenceSetAttribute, preference.handle, attribute, static_cast<const void*>(&value), sizeof(value));
  }
  void scaled(MatmulScale scale, const float* scales, cublasLtMatmulDescAttributes_t mode,
              cublasLtMatmulDescAttributes_t pointer) {
    if (scale == MatmulScale::none) return;
    describe(mode, static_cast<int32_t>(scale));
    describe(pointer, scales);
  }
};

int32_t result(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? 0 : fail("multiply", cublasLtGetStatusString(status));
}

}  // namespace

int32_t describe_matmul(const MatmulJob& job) { return result(Descriptors(job).step.status); }

int32_t matmul_on(Session& session, const MatmulJob& job) {
  if (const int32_t bad = status(cudaSetDevice(session.device), "choose the device")) return bad;
  if (const int32_t bad = prepare_workspace(session, job.workspace_bytes)) return bad;
  Descriptors product(job);
  Steps& step = product.step;
  const cublasLtMatrixLayout_t a = product.a.handle, b = product.b.handle, d = product.d.handle;
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  step(cublasLtMatmulAlgoGetHeuristic, session.blas, product.description.handle, a, b, d, d, product.preference.handle, 1, &found,
       &count);
  if (step.status == CUBLAS_STATUS_SUCCESS && count == 0)
    return fail("multiply", "cuBLASLt has no algorithm for this product on this device");
  // Alpha and beta have the scale type: int32 for int32 sums.
  const bool integers = job.ab == ElementType::int8;
  const float one = 1.0f, zero = 0.0f;
  const int32_t integer_one = 1, integer_zero = 0;
  const void *alpha = &one, *beta = &zero, *c = job.d_out;
  if (integers) alpha = &integer_one, beta = &integer_zero;
  step(cublasLtMatmul, session.blas, product.description.handle, alpha, job.a, a, job.b, b, beta, c, d, job.d_out, d, &found.algo,
       session.workspace, size_t(session.workspace_bytes), session.stream);
  return result(step.status);
}

}  // namespace overproof::gpu
