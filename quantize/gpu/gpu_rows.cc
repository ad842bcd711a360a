#include "quantize/gpu/gpu_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace overproof {

std::unique_ptr<GpuRows> GpuRows::make(GpuSession& gpu, const Scheme& scheme, const TensorInfo& weight,
                                       const RowQuantizer& quantizer) {
  const std::optional<DeviceTiles> tiles = scheme.device_tiles(weight);
  if (!tiles) return nullptr;
  std::unique_ptr<GpuRows> rows(new GpuRows(gpu, *tiles, weight.shape[1], scheme.row_bytes(weight.shape[1])));
  if (tiles->given_scale) {
    const std::vector<uint8_t> scale = quantizer.side_output(1, {});
    OVERPROOF_CHECK(scale.size() == sizeof(float));
    std::memcpy(&rows->given_scale_, scale.data(), sizeof(float));
  }
  return rows;
}

int64_t GpuRows::quantize(int64_t first_row, int64_t rows, int64_t grain, ElementType type, const void* x,
                          std::span<uint8_t> bytes, std::span<float> scales, std::vector<RowError>& errors) const {
  const ScaleTiles t = tiles_of(rows, columns_, tiles_.given_scale ? rows : tiles_.rows, tiles_.columns);
  float given = given_scale_;
  uint64_t bad_row = kNoBadRow;
  std::vector<TileError> sums(size_t(t.rows * t.across()));
  const QuantizeJob job{t,        type,     tiles_.codes, tiles_.given_scale, tiles_.flip,
                        x,        columns_, bytes.data(), row_bytes_,         tiles_.given_scale ? &given : scales.data(),
                        &bad_row, nullptr};
  gpu_.quantize(job, sums.data());
  if (bad_row != kNoBadRow) return first_row + int64_t(bad_row);
  for (int64_t r = 0; row_bytes_ > columns_ && r < rows; ++r)
    std::fill_n(bytes.begin() + r * row_bytes_ + columns_, row_bytes_ - columns_, uint8_t{0});
  add_errors(t, grain, sums, errors);
  return -1;
}

/// Adds in the CPU's order: tiles to pieces, pieces to rows, rows to rows of tiles, these to grains.
void GpuRows::add_errors(const ScaleTiles& t, int64_t grain, const std::vector<TileError>& tiles,
                         std::vector<RowError>& errors) const {
  const int64_t piece = tiles_.error_piece > 0 ? tiles_.error_piece : t.across();
  for (int64_t first = 0; first < t.rows; first += grain) {
    RowError in_grain;
    const int64_t end = std::min(t.rows, first + grain);
    for (int64_t top = first; top < end; top += tiles_.rows) {
      RowError in_tiles;
      for (int64_t r = top; r < std::min(end, top + tiles_.rows); ++r) {
        RowError in_row;
        for (int64_t left = 0; left < t.across(); left += piece) {
          RowError in_piece;
          for (int64_t j = left; j < std::min(t.across(), left + piece); ++j) {
            const TileError& e = tiles[size_t(r * t.across() + j)];
            in_piece += RowError{e.signal, e.noise};
          }
          in_row += in_piece;
        }
        in_tiles += in_row;
      }
      in_grain += in_tiles;
    }
    errors.push_back(in_grain);
  }
}

std::unique_ptr<GpuSession> open_device(DeviceChoice device, const GpuPlugin& plugin, std::string& note) {
  if (device == DeviceChoice::cpu) return nullptr;
  if (device == DeviceChoice::cuda) require_gpu(plugin);
  std::string reason = plugin.reason;
  const auto devices = plugin.api ? gpu_devices(*plugin.api, reason) : std::vector<GpuDeviceInfo>{};
  if (!devices.empty() && devices[0].capability < kOldestCapability) {
    reason = fmt::format("{} has compute capability {}.{}; the kernels need 8.0 or later", devices[0].name,
                         devices[0].capability / 10, devices[0].capability % 10);
    if (device == DeviceChoice::cuda) throw UsageError(fmt::format("{}; use --device cpu", reason));
  } else if (!devices.empty()) {
    return std::make_unique<GpuSession>(*plugin.api, 0);
  }
  note = fmt::format("quantized on the CPU: {}", reason);
  return nullptr;
}

}  // namespace overproof
