#pragma once
// The GPU from the program's side: opening the plugin, listing devices, and quantising, dequantising and multiplying matrices
// that stand in host memory. Nothing here needs CUDA to build or to start; without plugin, driver or device it says so.
//
// `quantize --device cuda` goes through quantize/gpu_rows.h. Codes and scales are those of the CPU, bit for bit.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "quantize/gemm_plan.h"
#include "quantize/gpu_plugin.h"
#include "quantize/tiles_cpu.h"

namespace overproof {

/// 10 x the compute capability from which on there are kernels.
inline constexpr int32_t kOldestCapability = 80;

/// The plugin, if it could be opened. It stays loaded until the program ends.
struct GpuPlugin {
  const GpuApi* api = nullptr;
  std::filesystem::path file;  ///< where it was found, or looked for first
  std::string reason;          ///< why api is null
};

/// Opens $OVERPROOF_GPU_PLUGIN if that is set, otherwise liboverproof_cuda.so beside the program or in ../lib/overproof. Does not
/// throw.
GpuPlugin open_gpu_plugin();

/// The devices there are; none, with `reason`, when driver or device is missing.
std::vector<GpuDeviceInfo> gpu_devices(const GpuApi& api, std::string& reason);

/// The table of a plugin that has a device. Throws UsageError that says what is missing and to use the CPU.
const GpuApi& require_gpu(const GpuPlugin& plugin);

/// A device with its stream. Thread-safe: calls take turns. Throws IoError with the driver's words when a call fails.
class GpuSession {
 public:
  /// `api` outlives the session.
  GpuSession(const GpuApi& api, int32_t device);
  ~GpuSession();
  GpuSession(const GpuSession&) = delete;
  GpuSession& operator=(const GpuSession&) = delete;

  const GpuDeviceInfo& device() const { return info_; }

  /// Does the job with host pointers, as quantize_tiles does; `magnitudes` is not used. With `errors` [rows, tiles across], as
  /// tile_errors does, too. At most 2^31 - 1 rows and columns and 2^34 elements: cut larger weights into rows.
  void quantize(const QuantizeJob& host, TileError* errors = nullptr);
  /// As dequantize_tiles. Only scales in the files' order (row-major).
  void dequantize(const DequantizeJob& host);
  /// out [tokens, outputs] (f32 or bf16 bits) = x w^T; returns how it was computed. Throws UsageError as gemm_scaling and the
  /// plan do.
  GemmPlan gemm(const CodeMatrix& x, const CodeMatrix& w, ElementType out_type, void* out);

 private:
  class Memory;
  void check(int32_t status, const char* action) const;
  Memory upload(const void* host, int64_t row_bytes, int64_t rows, int64_t pitch, int64_t padded_rows);
  Memory upload_scales(const CodeMatrix& m, const ScaleTiles& order, int64_t count);
  Memory operand(const CodeMatrix& m, const GemmPlan& plan, int64_t padded_rows);

  const GpuApi& api_;
  void* session_ = nullptr;
  GpuDeviceInfo info_{};
  std::mutex turn_;
};

}  // namespace overproof
