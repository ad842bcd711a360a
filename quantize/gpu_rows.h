#pragma once
// A weight's rows quantised by a GPU in the engine's stead: the bytes, scales and error sums of the CPU, bit for bit, for the
// schemes that kernels cover (Scheme::device_tiles).

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quantize/gpu.h"
#include "quantize/scheme.h"

namespace overproof {

class GpuRows {
 public:
  /// Null when kernels do not cover the scheme. `quantizer` is the CPU's for the same weight, and says its scale where one is
  /// given.
  static std::unique_ptr<GpuRows> make(GpuSession& gpu, const Scheme& scheme, const TensorInfo& weight,
                                       const RowQuantizer& quantizer);
  /// Rows [first_row, first_row + rows), first_row a multiple of row_unit(): x [rows, columns] f32 or bf16 -> bytes and scales as
  /// RowQuantizer has them. Appends to `errors` one sum for each `grain` rows, itself a multiple of row_unit(). Returns the first
  /// row with an infinity or NaN, then errors are unspecified; or -1. Thread-safe. Throws IoError with the driver's words.
  int64_t quantize(int64_t first_row, int64_t rows, int64_t grain, ElementType type, const void* x, std::span<uint8_t> bytes,
                   std::span<float> scales, std::vector<RowError>& errors) const;

 private:
  GpuRows(GpuSession& gpu, const DeviceTiles& tiles, int64_t columns, int64_t row_bytes)
      : gpu_(gpu), tiles_(tiles), columns_(columns), row_bytes_(row_bytes) {}
  void add_errors(const ScaleTiles& t, int64_t grain, const std::vector<TileError>& tiles, std::vector<RowError>& errors) const;
  GpuSession& gpu_;
  DeviceTiles tiles_;
  int64_t columns_, row_bytes_;
  float given_scale_ = 0;
};

/// What `--device` asks for: "cpu" gives null, "cuda" the first device or UsageError saying what is missing, "auto" the first
/// device that the kernels are made for, or null with the reason in `note`.
std::unique_ptr<GpuSession> open_device(std::string_view device, const GpuPlugin& plugin, std::string& note);

}  // namespace overproof
