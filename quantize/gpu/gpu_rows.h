#pragma once
// Quantizes the rows of a weight on a GPU: the bytes, scales and error sums of the CPU, bit for bit, for the schemes that have
// kernels (Scheme::device_tiles).

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quantize/gpu/gpu.h"
#include "quantize/schemes/scheme.h"

namespace overproof {

class GpuRows {
 public:
  /// Null when the scheme has no kernels. `quantizer` is the CPU's for the same weight; it provides the scale when one is given.
  static std::unique_ptr<GpuRows> make(GpuSession& gpu, const Scheme& scheme, const TensorInfo& weight,
                                       const RowQuantizer& quantizer);
  /// Rows [first_row, first_row + rows), first_row a multiple of row_unit(): x [rows, columns] f32 or bf16 -> bytes and scales as
  /// of RowQuantizer. Appends to `errors` one sum for each `grain` rows, a multiple of row_unit(). Returns -1, or the first row
  /// with an infinity or NaN; errors are unspecified then. Thread-safe. Throws IoError with the driver's message.
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

/// cpu: null. cuda: the first device; throws UsageError naming what is missing. automatic: the first device if the kernels
/// support it, else null with the reason in `note`.
std::unique_ptr<GpuSession> open_device(DeviceChoice device, const GpuPlugin& plugin, std::string& note);

}  // namespace overproof
