#pragma once
// Applies recorded activations to the quantizing of a checkpoint: SmoothQuant and GPTQ. Used weight by weight:
//
//   Calibration calibration(options, model, scheme, statistics, is_quantized);   // searches smoothing strengths
//   for each tensor:   calibration.scaling(name).apply(first_row, rows, values)   // before it is quantized or copied
//   for each weight:   facts.statistics = calibration.for_weight(name).get()
//                      quantizer = calibration.wrap(info, scheme, scheme.prepare(info, facts))
//
// Memory: the factors of smoothed channels; the GPTQ factors of the last kFactorSlots inputs (4 in x in bytes each, 24 in x in
// while one is computed); and, while strengths are searched, a few megabytes of the current weight.

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/json_fwd.h"
#include "quantize/calibration/gptq.h"
#include "quantize/calibration/smooth.h"
#include "quantize/schemes/scheme.h"

namespace overproof {

/// Neighbouring weights share a factor (q, k and v; gate and up), and workers hold a few weights at once.
inline constexpr size_t kFactorSlots = 3;

struct CalibrationOptions {
  bool smooth = false;
  std::optional<double> strength;  ///< of smoothing, 0 to 1; nullopt: searched for each site
  bool gptq = false;
  FactorOptions gptq_options;
  int64_t min_tokens = 128;  ///< weights whose input saw fewer are quantized without calibration
};

class Calibration {
 public:
  /// is_quantized(weight name): whether the weight gets a scheme. Throws UsageError when the scheme has no codes for GPTQ or does
  /// not round activations, or when smoothing does not support the architecture; MismatchError when `statistics` lacks Hessians
  /// or records other widths than the model has.
  Calibration(const CalibrationOptions& options, const Checkpoint& model, const Scheme& scheme,
              const ActivationStatistics& statistics, std::function<bool(const std::string&)> is_quantized);

  /// Empty for a tensor that is not scaled.
  const TensorScaling& scaling(std::string_view name) const;
  /// Statistics of this weight's input after smoothing, without samples and Hessian; null when the input was not recorded or saw
  /// fewer than min_tokens.
  std::shared_ptr<const LinearStatistics> for_weight(std::string_view name) const;
  /// `inner`, wrapped in GPTQ when that is asked for and possible. `scheme` made inner; it may differ from the main scheme.
  /// Thread-safe. Counts weights for metrics(): call it once per weight.
  std::unique_ptr<RowQuantizer> wrap(const TensorInfo& weight, const Scheme& scheme, std::unique_ptr<RowQuantizer> inner) const;

  /// For the statement: {"smoothed_sites", "left_alone", "mean_strength", "gptq", "data_free", "data_free_weights"}.
  Json metrics() const;
  std::vector<std::string> summary() const;

 private:
  void find_scaling(const Checkpoint& model);
  void multiply(const std::string& name, std::shared_ptr<const std::vector<float>> TensorScaling::*side,
                std::vector<float> factors);
  const std::string* usable_group(std::string_view weight) const;
  std::shared_ptr<const std::vector<float>> smoothing_of(std::string_view weight) const;

  CalibrationOptions options_;
  const Scheme& scheme_;
  const ActivationStatistics& statistics_;
  std::function<bool(const std::string&)> is_quantized_;
  std::map<std::string, TensorScaling, std::less<>> scaling_;
  std::map<std::string, std::shared_ptr<const std::vector<float>>, std::less<>> smoothed_;  // weight -> s by column
  int64_t smoothed_sites_ = 0, sites_ = 0;
  double strengths_ = 0, errors_ = 0;

  /// The factor of one group. The first thread that needs it computes it; threads that need other groups do not wait.
  struct Factor {
    std::string group;
    std::once_flag once;
    std::shared_ptr<const HessianFactor> factor;
  };
  std::shared_ptr<Factor> factor_of(const std::string& group) const;
  mutable std::mutex mutex_;                              // guards the members below
  mutable std::vector<std::shared_ptr<Factor>> factors_;  // newest last
  mutable int64_t by_gptq_ = 0;
  mutable std::vector<std::string> data_free_;
};

}  // namespace overproof
