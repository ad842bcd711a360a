#pragma once
// The `quantization_config` of config.json: how weights were rounded, and how activations have to be. Two dialects:
//
//   compressed-tensors   config_groups {targets, weights, input_activations, format}, ignore
//                        (compressed_tensors/quantization/{quant_config,quant_scheme,quant_args}.py of PyPI compressed-tensors
//                        0.20)
//   fp8                  DeepSeek's: weight_block_size, activation_scheme, modules_to_not_convert or ignored_layers
//                        (transformers 5.23, utils/quantization_config.py, FineGrainedFP8Config)

#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"

namespace overproof {

enum class QuantDialect { compressed_tensors, fp8 };
enum class QuantType { integer, floating };
/// Which elements share a scale.
enum class QuantStrategy { tensor, channel, group, block, token, tensor_group, attn_head };
std::string_view quant_strategy_name(QuantStrategy strategy);

/// How one operand is rounded.
struct QuantArgs {
  int bits = 8;
  QuantType type = QuantType::integer;
  QuantStrategy strategy = QuantStrategy::tensor;
  bool symmetric = true;
  bool dynamic = false;             ///< the scale is computed from the values that are rounded; otherwise it is stored in the file
  int64_t group_size = 0;           ///< columns; only with QuantStrategy::group and tensor_group
  std::array<int64_t, 2> block{};   ///< rows, columns; only with QuantStrategy::block
  bool power_of_two_scale = false;  ///< scales are E8M0, as in the OCP MX formats
  bool operator==(const QuantArgs&) const = default;
};

/// Modules that are quantised in the same way.
struct QuantGroup {
  std::string name;                  ///< "group_0"
  std::string format;                ///< "pack-quantized", ...; empty where the file decides
  std::vector<std::string> targets;  ///< module names, classes ("Linear") or "re:" and a regular expression
  std::optional<QuantArgs> weights, input_activations, output_activations;
};

/// Thread-safe once parsed. Module names are tensor names without ".weight".
class QuantizationConfig {
 public:
  /// Throws FormatError naming `file` when the object is no quantization_config of a dialect above, or asks for what changes the
  /// meaning of weights beyond it (sparsity, rotations).
  QuantizationConfig(const std::filesystem::path& file, const Json& quantization_config);
  ~QuantizationConfig();
  QuantizationConfig(QuantizationConfig&&) noexcept;

  QuantDialect dialect() const;
  const std::vector<QuantGroup>& groups() const;
  const std::vector<std::string>& ignored() const;  ///< as the config has them
  /// The group that quantises the module, nullptr when it is ignored or no group's target. The most specific target wins: exact
  /// name, regular expression, class. A module whose name ends with "embed_tokens" is an Embedding, every other a Linear.
  const QuantGroup* group_for(std::string_view module) const;
  bool is_ignored(std::string_view module) const;
  /// Records that this module's weight is not quantised in the file, whatever its config.json states.
  void add_plain(std::string_view module);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// True when config.json declares quantised weights.
bool has_quantization_config(const Json& config);

/// Keys of config.json by which other programs describe quantised weights, and that transformers 5.23 does not read: of early
/// compressed-tensors, and of MLX.
inline constexpr std::string_view kForeignQuantizationKeys[] = {"compression_config", "quantization"};
/// Those that `config` has.
std::vector<std::string> foreign_quantization_keys(const Json& config);

/// The tensors that hold the static scale and the zero point of a module's input, e.g. "X.input_scale"; they are among a
/// checkpoint's tensors under these names. compressed-tensors: input_scale, input_zero_point; fp8: activation_scale or
/// input_scale.
inline constexpr std::string_view kInputScaleSuffixes[] = {".input_scale", ".activation_scale"};
inline constexpr std::string_view kInputZeroPointSuffix = ".input_zero_point";
/// True for these, for their output_ kin, and for the k_scale and v_scale of quantised key-value caches.
bool is_activation_parameter(std::string_view tensor);

}  // namespace overproof
