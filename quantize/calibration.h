#pragma once
// What recorded activations do for quantising a checkpoint, in one object that the stage asks weight by weight:
//
//   Calibration calibration(options, model, scheme, statistics, is_quantised);   // searches smoothing strengths
//   for each tensor:   calibration.scaling(name).apply(first_row, rows, values)   // before quantising, or copying
//   for each weight:   facts.statistics = calibration.for_weight(name).get()
//                      quantizer = calibration.wrap(info, scheme, scheme.prepare(info, facts))
//
// In memory: the factors of smoothed channels; the GPTQ factors of the last kFactorSlots
// inputs (in x in x 4 bytes each; while one is made, 24 bytes an element)
// and, while strengths are searched, a few megabytes of the weight at hand.

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/json_fwd.h"
#include "quantize/gptq.h"
#include "quantize/scheme.h"
#include "quantize/smooth.h"

namespace overproof {

/// Neighbours share a factor (q, k and v; gate and up), and a few weights are worked on at once.
inline constexpr size_t kFactorSlots = 3;

struct CalibrationOptions {
  bool smooth = false;
  double strength = -1;  ///< negative: searched
  bool gptq = false;
  GptqOptions gptq_options;
  int64_t min_tokens = 128;  ///< inputs that saw fewer are quantised without calibration
};

class Calibration {
 public:
  /// Throws UsageError when smoothing or gptq does not go with the scheme or the model, or the Hessians are missing; FormatError
  /// when the recorded inputs do not have the weights' widths. is_quantised(weight name) says what the scheme will take.
  Calibration(const CalibrationOptions& options, const Checkpoint& model, const Scheme& scheme,
              const ActivationStatistics& statistics, std::function<bool(const std::string&)> is_quantised);

  /// Empty for a tensor that stays as it is.
  const TensorScaling& scaling(std::string_view name) const;
  /// What this weight's input looks like after smoothing, without samples and Hessian; null when it was not recorded, or saw
  /// fewer than min_tokens.
  std::shared_ptr<const LinearStatistics> for_weight(std::string_view name) const;
  /// `inner` itself, or a GPTQ around it; `scheme` is what made inner, which may be another than the main one. Thread-safe.
  /// Counts what it does for metrics(): call it once a weight.
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
  std::function<bool(const std::string&)> is_quantised_;
  std::map<std::string, TensorScaling, std::less<>> scaling_;
  std::map<std::string, std::shared_ptr<const std::vector<float>>, std::less<>> smoothed_;  // weight -> s by column
  int64_t smoothed_sites_ = 0, sites_ = 0;
  double strengths_ = 0, errors_ = 0;

  /// A group's factor, made by the first thread that needs it while the others go on with other groups.
  struct Slot {
    std::string group;
    std::once_flag once;
    std::shared_ptr<const GptqFactor> factor;
  };
  std::shared_ptr<Slot> slot_of(const std::string& group) const;
  mutable std::mutex mutex_;                          // of what follows
  mutable std::vector<std::shared_ptr<Slot>> slots_;  // the latest last
  mutable int64_t by_gptq_ = 0;
  mutable std::vector<std::string> data_free_;
};

/// How the scheme wants inputs rounded; nullopt when it leaves them alone.
std::optional<ActivationRounding> activations_of(const Scheme& scheme);

}  // namespace overproof
