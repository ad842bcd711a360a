#pragma once
// Internal to the plugin: a session, and the text of failures. Compiled by nvcc and g++.

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "quantize/gpu/gpu_plugin.h"

namespace overproof::gpu {

struct Session {
  int32_t device = 0;
  cudaStream_t stream = nullptr;
  cublasLtHandle_t blas = nullptr;
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
};

/// Keeps "what: text" for last_error() of this thread; returns 1.
int32_t fail(const char* what, const char* text);
inline int32_t status(cudaError_t error, const char* what) {
  return error == cudaSuccess ? 0 : fail(what, cudaGetErrorString(error));
}

int32_t quantize_on(Session& session, const QuantizeJob& job);
int32_t errors_on(Session& session, const ErrorJob& job);
int32_t dequantize_on(Session& session, const DequantizeJob& job);
int32_t scale_on(Session& session, const ScaleJob& job);
int32_t describe_matmul(const MatmulJob& job);
int32_t matmul_on(Session& session, const MatmulJob& job);

}  // namespace overproof::gpu
