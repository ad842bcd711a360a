#pragma once
// A scheme says what stands in the output in the place of a Linear weight. Adding one: a class here or beside it, a line
// in find_scheme's table, a row in docs, a test that its result loads in the peer it is made for.
//
// The stage asks in this order: takes() for each weight, outputs() for what to declare, prepare() once a weight, then
// quantize() for its rows from the first to the last in pieces that begin at multiples of row_unit().

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"
#include "formats/tensor_source.h"
#include "quantize/int8_cpu.h"
#include "quantize/tiles.h"

namespace overproof {

struct LinearStatistics;  // what calibration saw of this weight's inputs; records/activation_statistics.h

/// What quantising a piece of a weight gave.
struct RowsResult {
  RowError error;
  int64_t bad_row = -1;  ///< first row of the weight with an infinity or NaN; then bytes and scales are unspecified
};

/// One weight on its way: what is the same for all its rows. Every scheme quantises rows of any piece to the same bytes.
class RowQuantizer {
 public:
  virtual ~RowQuantizer() = default;
  /// Rows [first_row, first_row + rows) of the weight: x [rows, columns] may be changed -> bytes [rows x row_bytes], scales: the
  /// row_scales(rows) values from row_scales(first_row) on. Thread-safe. No allocation that grows with the weight.
  virtual RowsResult quantize(int64_t first_row, int64_t rows, std::span<float> x, std::span<uint8_t> bytes,
                              std::span<float> scales) const = 0;
  /// The same from bf16 bits, byte for byte and sum for sum; schemes that can save themselves the widened copy. By default
  /// widens into a buffer of the thread, as large as `x`.
  virtual RowsResult quantize_bf16(int64_t first_row, int64_t rows, std::span<const uint16_t> x, std::span<uint8_t> bytes,
                                   std::span<float> scales) const;
  /// The little-endian bytes of output `which` (1, 2, ...), when all rows are done; `scales` of the whole weight.
  virtual std::vector<uint8_t> side_output(int which, std::span<const float> scales) const = 0;
};

/// What prepare() may need to know of the whole weight.
struct WeightFacts {
  float amax = 0;                                ///< largest magnitude; given only to schemes that need_amax()
  const LinearStatistics* statistics = nullptr;  ///< null without calibration, or when this weight saw too few tokens
};

/// How a GPU's kernels make the codes of a weight.
struct DeviceTiles {
  ElementType codes = ElementType::int8;
  int64_t rows = 1, columns = 0;  ///< that share a scale
  uint8_t flip = 0;               ///< XORed to each code
  bool given_scale = false;       ///< one for the whole weight, found beforehand: the quantizer's side output 1
  int64_t error_piece = 0;        ///< tiles of a row whose errors the CPU adds up before it adds them to the row's; 0: all
};

class Scheme {
 public:
  virtual ~Scheme() = default;
  virtual std::string_view name() const = 0;

  /// False for a weight that the format cannot hold (columns that the group does not divide, say): it keeps its precision.
  virtual bool takes(const TensorInfo& weight) const { return weight.shape.size() == 2; }
  /// What weights get that this scheme does not take; null: they keep their precision.
  virtual std::unique_ptr<Scheme> fallback() const { return nullptr; }
  /// Rows that share a scale: 1, or the height of a block.
  virtual int64_t row_unit() const { return 1; }
  /// True when the scale depends on the largest magnitude of the whole weight, which then is read twice.
  virtual bool needs_amax() const { return false; }

  /// The tensors that replace Linear weight `weight` (shape [out, in]), in the order in which they are written. The first is
  /// streamed row by row; the others are small and are written after it.
  virtual std::vector<TensorInfo> outputs(const TensorInfo& weight) const = 0;
  /// Bytes of one row of the first output.
  virtual int64_t row_bytes(int64_t columns) const = 0;
  /// f32 scales kept for the first `rows` rows, a multiple of row_unit() or all rows; 0 where they stand among the bytes.
  virtual int64_t row_scales(int64_t rows, int64_t columns) const = 0;

  virtual std::unique_ptr<RowQuantizer> prepare(const TensorInfo& weight, const WeightFacts& facts) const = 0;
  /// What a GPU may do in the quantizer's place (quantize/gpu_rows.h); nullopt where there are no kernels: clipping by squared
  /// error, scales that are powers of two, blocks of ggml.
  virtual std::optional<DeviceTiles> device_tiles(const TensorInfo&) const { return std::nullopt; }

  /// The group that a compressed-tensors config needs for these weights; null where the format is another's.
  virtual Json config_group() const = 0;
  /// The name of the format: compressed-tensors' "pack-quantized" and so on, "fp8" for DeepSeek's, "gguf" for rows of ggml
  /// blocks.
  virtual std::string_view format() const = 0;
  /// config.json's whole quantization_config. `ignored`: modules left alone, by name, or as "re:" and a regular expression that
  /// matches from the start of a name. By default compressed-tensors' with one group; null where there is none to write (GGUF).
  virtual Json quantization_config(const std::vector<std::string>& ignored) const;
};

struct SchemeOptions {
  Clipping clipping = Clipping::absmax;
  bool per_tensor = false;  ///< fp8: one scale a weight in place of one an output channel
  bool asymmetric = false;  ///< w8a8, w8a8-static: activations get a zero point
};

/// Throws UsageError with the schemes there are, or naming the option that this scheme does not have.
std::unique_ptr<Scheme> find_scheme(std::string_view name, const SchemeOptions& options);
/// Names for the option's list of choices.
std::vector<std::string> scheme_names();

}  // namespace overproof
