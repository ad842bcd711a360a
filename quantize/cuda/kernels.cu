// Launches the bodies of quantize/gpu/gpu_kernels.h. Their arithmetic must be IEEE's, as on the CPU: see the flags in
// cmake/OverproofCuda.cmake (no fused multiply-add, no flushing of subnormals, exact division).

#include "quantize/cuda/session.h"
#include "quantize/gpu/gpu_dispatch.h"

namespace overproof::gpu {
namespace {

template <class Body>
__global__ void __launch_bounds__(kThreads) walk(Body body) {
  __shared__ typename Body::Shared shared;
#pragma unroll
  for (int phase = 0; phase < Body::kPhases; ++phase) {
    if (phase > 0) __syncthreads();
    body.run(phase, blockIdx.x, int(threadIdx.x), shared);
  }
}

/// Launches the bodies that the dispatcher chooses; keeps the first failure.
struct Launcher {
  cudaStream_t stream;
  cudaError_t error = cudaSuccess;
  template <class Body>
  void operator()(const Body& body, int64_t blocks) {
    if (error != cudaSuccess) return;
    if (blocks < 1 || blocks > 2147483647) {
      error = cudaErrorInvalidConfiguration;
      return;
    }
    walk<Body><<<unsigned(blocks), kThreads, 0, stream>>>(body);
    error = cudaGetLastError();
  }
};

template <class Job>
int32_t launch(Session& session, const Job& job, int64_t rows, int64_t columns, const char* what) {
  if (!fits_device(rows, columns)) return fail(what, "the matrix is empty or too large");
  if (const int32_t bad = status(cudaSetDevice(session.device), what)) return bad;
  Launcher launcher{session.stream};
  if (!dispatch(job, launcher)) return fail(what, "no kernel takes these types");
  return status(launcher.error, what);
}

}  // namespace

int32_t quantize_on(Session& session, const QuantizeJob& job) {
  return launch(session, job, job.tiles.rows, job.tiles.columns, "quantize");
}
int32_t errors_on(Session& session, const ErrorJob& job) {
  return launch(session, job, job.quantized.tiles.rows, job.quantized.tiles.columns, "sum errors");
}
int32_t dequantize_on(Session& session, const DequantizeJob& job) {
  return launch(session, job, job.tiles.rows, job.tiles.columns, "dequantize");
}
int32_t scale_on(Session& session, const ScaleJob& job) { return launch(session, job, job.rows, job.columns, "scale sums"); }

}  // namespace overproof::gpu
