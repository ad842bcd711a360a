#pragma once
// The C ABI between the program and liboverproof_cuda.so: one exported function, which returns a table of functions. Only plain
// data crosses it, no exceptions and no C++ library types, so the two may come from different compilers. Every pointer to
// data is device memory unless its name has `host`. Functions return 0, or a failure whose text last_error() returns.

#include <cstdint>

#include "quantize/kernels/tiles.h"

namespace overproof {

/// Incremented when a struct or a signature here or in tiles.h changes: plugin and program must agree.
inline constexpr uint32_t kGpuApiVersion = 1;
inline constexpr char kGpuApiSymbol[] = "overproof_gpu_api";

struct GpuDeviceInfo {
  char name[256];
  int32_t capability;  ///< 10 x major + minor: 80, 86, 89, 90, 100, ...
  int32_t multiprocessors;
  int64_t memory_bytes;
};

/// How an operand is scaled; the numbers are those of cublasLtMatmulMatrixScale_t.
enum class MatmulScale : int32_t { none = -1, scalar = 0, outer_vector = 3, vector_128 = 4, block_128 = 5 };

/// D = op(A) op(B) in cuBLASLt's convention, column-major, always "TN": A [k, m] transposed, B [k, n], D [m, n]. In row-major
/// terms out [n, m] = x [n, k] w [m, k]^T, with A the weight and B the activations. No beta, alpha 1.
struct MatmulJob {
  int64_t m, n, k, lda, ldb, ldd;
  ElementType ab, d;  ///< int8 -> int32, f8_e4m3 -> f32 or bf16, bf16 -> f32 or bf16
  MatmulScale a_scale, b_scale;
  int32_t split_k;  ///< whether partial sums may be added in any order: exact for integers, not for floats
  int64_t workspace_bytes;
  const void *a, *b;
  const float *a_scales, *b_scales;
  void* d_out;
};

struct GpuApi {
  uint32_t version, bytes;  ///< kGpuApiVersion, sizeof(GpuApi)
  const char* (*last_error)();
  /// Fails without a driver. `count` is 0 then.
  int32_t (*device_count)(int32_t* count);
  int32_t (*device_info)(int32_t device, GpuDeviceInfo* info);
  /// A session is a stream with its cuBLASLt handle; one thread at a time may use it.
  int32_t (*open)(int32_t device, void** session);
  void (*close)(void* session);
  int32_t (*allocate)(void* session, int64_t bytes, void** memory);  ///< aligned to 256 bytes at least, zeroed
  void (*release)(void* session, void* memory);
  /// `rows` rows of `row_bytes`; pitches are in bytes. Host memory may be reused when these return.
  int32_t (*copy_in)(void* session, void* to, int64_t to_pitch, const void* host_from, int64_t from_pitch, int64_t row_bytes,
                     int64_t rows);
  int32_t (*copy_out)(void* session, void* host_to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes,
                      int64_t rows);
  int32_t (*quantize)(void* session, const QuantizeJob* job);
  int32_t (*errors)(void* session, const ErrorJob* job);
  int32_t (*dequantize)(void* session, const DequantizeJob* job);
  int32_t (*scale)(void* session, const ScaleJob* job);
  /// Whether cuBLASLt accepts the description of the job: its attributes and their sizes. Needs no device, and does not check
  /// that a device has an algorithm for it.
  int32_t (*check_matmul)(const MatmulJob* job);
  int32_t (*matmul)(void* session, const MatmulJob* job);
};

/// Null when the plugin does not implement `version`.
using GpuApiFunction = const GpuApi* (*)(uint32_t version);

}  // namespace overproof
