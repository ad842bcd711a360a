#pragma once
// A scheme defines what replaces a Linear weight in the output. Adding one: a class in *_schemes.cc, a row in find_scheme's
// table, a row in docs/quantize.md, and a test that its result loads in the peer that it is made for.
//
// Order of calls: takes() for each weight, outputs() to declare the tensors, prepare() once per weight, then
// RowQuantizer::quantize() for all rows from the first to the last, in pieces that begin at multiples of row_unit().

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"
#include "formats/activation_rounding.h"
#include "formats/tensor_source.h"
#include "quantize/kernels/int8_cpu.h"
#include "quantize/kernels/tiles.h"

namespace overproof {

struct LinearStatistics;  // what calibration recorded of a weight's inputs; records/activation_statistics.h

/// The result of quantizing some rows of a weight.
struct RowsResult {
  RowError error;
  int64_t bad_row = -1;  ///< first row of the weight with an infinity or NaN; bytes and scales are unspecified then
};

/// Quantizes the rows of one weight. Every scheme gives the same bytes whatever the size of the pieces.
class RowQuantizer {
 public:
  virtual ~RowQuantizer() = default;
  /// Rows [first_row, first_row + rows) of the weight: x [rows, columns], which may be changed -> bytes [rows x row_bytes] and
  /// scales: the row_scales(rows) values from row_scales(first_row) on. Thread-safe. Allocates nothing that grows with the weight.
  virtual RowsResult quantize(int64_t first_row, int64_t rows, std::span<float> x, std::span<uint8_t> bytes,
                              std::span<float> scales) const = 0;
  /// The same from bf16 bits, byte for byte and sum for sum. The default widens into a thread-local buffer as large as `x`;
  /// schemes override it to avoid that copy.
  virtual RowsResult quantize_bf16(int64_t first_row, int64_t rows, std::span<const uint16_t> x, std::span<uint8_t> bytes,
                                   std::span<float> scales) const;
  /// The little-endian bytes of output `which` (1, 2, ...), after all rows are done; `scales` of the whole weight.
  virtual std::vector<uint8_t> side_output(int which, std::span<const float> scales) const = 0;
};

/// Facts about the whole weight that prepare() may use.
struct WeightFacts {
  float amax = 0;                                ///< largest magnitude; set only for schemes that need_amax()
  const LinearStatistics* statistics = nullptr;  ///< null without calibration, or when this weight saw too few tokens
};

/// How a GPU's kernels make the codes of a weight.
struct DeviceTiles {
  ElementType codes = ElementType::int8;
  int64_t rows = 1, columns = 0;  ///< of a tile that shares a scale
  uint8_t flip = 0;               ///< XORed to each code
  bool given_scale = false;       ///< one scale for the whole weight, computed beforehand: the quantizer's side output 1
  int64_t error_piece = 0;        ///< tiles of a row whose errors the CPU adds up before it adds them to the row's; 0: all
};

/// Int8 codes, one byte per weight in the order of the weight, with f32 scales in a tensor of their own.
struct Int8Layout {
  int64_t group = 0;  ///< columns that share a scale; 0: the whole row
  uint8_t flip = 0;   ///< XORed to each code: 0x80 where codes are stored as q + 128
};

/// What the weights are written into.
enum class Container {
  compressed_tensors,  ///< safetensors, described by compressed-tensors' config groups; groups of several schemes can be mixed
  deepseek_fp8,        ///< safetensors in DeepSeek's layout, described by quant_method "fp8"; one scheme only
  gguf                 ///< one GGUF file
};

class Scheme {
 public:
  virtual ~Scheme() = default;
  virtual std::string_view name() const = 0;
  virtual Container container() const { return Container::compressed_tensors; }

  /// False for a weight that the format cannot hold, for example when the group does not divide its columns.
  virtual bool takes(const TensorInfo& weight) const { return weight.shape.size() == 2; }
  /// False for a weight that the format can hold, but that its loaders refuse or misread.
  virtual bool is_loaded(const TensorInfo&) const { return true; }
  /// What takes() and is_loaded() ask of a shape, for messages: " (both dimensions must be multiples of 128)", or nothing.
  virtual std::string_view needs_shape() const { return ""; }
  /// The scheme for weights that this one does not take; null: they keep their precision.
  virtual std::unique_ptr<Scheme> fallback() const { return nullptr; }
  /// Rows that share a scale: 1, or the height of a block.
  virtual int64_t row_unit() const { return 1; }
  /// True when the scale depends on the largest magnitude of the whole weight, which is read twice then.
  virtual bool needs_amax() const { return false; }

  /// Columns of one row that share a scale of their own; 0: the scale covers the whole row or several rows.
  virtual int64_t weight_group() const { return 0; }
  /// Set for schemes whose codes GPTQ can make.
  virtual std::optional<Int8Layout> int8_layout() const { return std::nullopt; }
  /// How a runtime rounds the inputs of these weights; nullopt: it leaves them alone.
  virtual std::optional<ActivationRounding> input_rounding() const { return std::nullopt; }

  /// The tensors that replace Linear weight `weight` (shape [out, in]), in the order in which they are written. The first is
  /// streamed row by row; the others are small and are written after it.
  virtual std::vector<TensorInfo> outputs(const TensorInfo& weight) const = 0;
  /// Bytes of one row of the first output.
  virtual int64_t row_bytes(int64_t columns) const = 0;
  /// f32 scales kept for the first `rows` rows, a multiple of row_unit() or all rows; 0 where scales are stored among the codes.
  virtual int64_t row_scales(int64_t rows, int64_t columns) const = 0;

  virtual std::unique_ptr<RowQuantizer> prepare(const TensorInfo& weight, const WeightFacts& facts) const = 0;
  /// What a GPU does instead of the quantizer (quantize/gpu/gpu_rows.h); nullopt where there are no kernels: clipping by squared
  /// error, scales that are powers of two, blocks of ggml.
  virtual std::optional<DeviceTiles> device_tiles(const TensorInfo&) const { return std::nullopt; }

  /// The group that a compressed-tensors config needs for these weights; null for other containers.
  virtual Json config_group() const = 0;
  /// compressed-tensors' name of the format ("pack-quantized", ...), "fp8" or "gguf". To be written, not to be compared.
  virtual std::string_view format() const = 0;
  /// config.json's whole quantization_config. `ignored`: modules left alone, by name, or as "re:" and a regular expression that
  /// matches from the start of a name. The default is compressed-tensors' with one group; null for GGUF.
  virtual Json quantization_config(const std::vector<std::string>& ignored) const;
};

struct SchemeOptions {
  Clipping clipping = Clipping::absmax;
  bool per_tensor = false;  ///< fp8: one scale per weight instead of one per output channel
  bool asymmetric = false;  ///< w8a8, w8a8-static: activations get a zero point
};

/// Throws UsageError that lists the schemes, or names the option that this scheme does not have.
std::unique_ptr<Scheme> find_scheme(std::string_view name, const SchemeOptions& options);
/// The names that find_scheme knows, for the option's choices.
std::vector<std::string> scheme_names();

}  // namespace overproof
