#pragma once
// The host side of the GPU path: opens the plugin, lists devices, and quantizes, dequantizes and multiplies matrices in host
// memory. Building and starting the program needs no CUDA; a missing plugin, driver or device is reported when a GPU is asked for.
//
// `quantize --device cuda` uses quantize/gpu/gpu_rows.h. Codes and scales equal those of the CPU bit for bit.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "quantize/gpu/gemm_plan.h"
#include "quantize/gpu/gpu_plugin.h"
#include "quantize/kernels/tiles_cpu.h"

namespace overproof {

/// 10 x the lowest compute capability that the kernels support.
inline constexpr int32_t kOldestCapability = 80;

/// Where `quantize` computes codes.
enum class DeviceChoice { cpu, cuda, automatic };

/// The plugin, if it could be opened. It stays loaded until the program ends.
struct GpuPlugin {
  const GpuApi* api = nullptr;
  std::filesystem::path file;  ///< where it was found, or the first place searched
  std::string reason;          ///< why api is null
};

/// Opens $OVERPROOF_GPU_PLUGIN if it is set, otherwise liboverproof_cuda.so next to the program or in ../lib/overproof. Does not
/// throw.
GpuPlugin open_gpu_plugin();

/// All devices; empty, with a `reason`, when the driver or a device is missing.
std::vector<GpuDeviceInfo> gpu_devices(const GpuApi& api, std::string& reason);

/// The function table of a plugin that has a device. Throws UsageError naming what is missing.
const GpuApi& require_gpu(const GpuPlugin& plugin);

/// A device with its stream. Thread-safe: calls are serialised. Throws IoError with the driver's message when a call fails.
class GpuSession {
 public:
  /// `api` outlives the session.
  GpuSession(const GpuApi& api, int32_t device);
  ~GpuSession();
  GpuSession(const GpuSession&) = delete;
  GpuSession& operator=(const GpuSession&) = delete;

  const GpuDeviceInfo& device() const { return info_; }

  /// quantize_tiles on the device, with host pointers in the job; `magnitudes` is not used. With `errors` [rows, tiles across],
  /// tile_errors too. At most 2^31 - 1 rows and columns and 2^34 elements: pass larger weights in pieces of rows.
  void quantize(const QuantizeJob& host, TileError* errors = nullptr);
  /// dequantize_tiles on the device. Scales in the order of the files (row-major) only.
  void dequantize(const DequantizeJob& host);
  /// out [tokens, outputs] (f32 or bf16 bits) = x w^T; returns how it was computed. Throws as gemm_scaling and choose_gemm_plan.
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
