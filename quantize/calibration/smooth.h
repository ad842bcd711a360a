#pragma once
// SmoothQuant (Xiao et al. 2022, equations 3 and 4): where one tensor's output channels are another's input channels, channel j
// is divided by s_j on one side and multiplied by s_j on the other. The function does not change; outliers move from activations, whose
// rounding they harm, into weights, whose rounding they harm less: s_j = amax_x[j]^a / amax_w[j]^(1 - a).
//
// The strength a of each site is searched: the one with the least error of the outputs on recorded samples, weights and inputs
// both rounded. s_j is rounded to a power of two, so that scaling is exact in every floating-point type: 16-bit norms and
// routers lose nothing, and the scaled model without rounding gives the same logits bit for bit.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"
#include "formats/activation_rounding.h"
#include "formats/tensor_source.h"
#include "records/activation_statistics.h"

namespace overproof {

/// Factors by which a tensor is multiplied before it is quantized or copied. Null: ones.
struct TensorScaling {
  std::shared_ptr<const std::vector<float>> rows, columns;
  bool empty() const { return !rows && !columns; }
  /// Rows [first_row, first_row + rows) of the tensor, [rows, columns]; of a vector each element is a row.
  void apply(int64_t first_row, int64_t count, std::span<float> x) const;
};

/// A set of tensors in which channels can be rescaled without changing the function.
struct SmoothSite {
  std::vector<std::string> producers;    ///< tensors whose rows give the channels: a norm, or up_proj, or v_proj and its bias
  std::vector<std::string> consumers;    ///< quantized weights whose columns read the channels
  std::vector<std::string> compensated;  ///< kept weights whose columns read the channels: routers, excluded ones
  std::vector<int32_t> channel_of;       ///< consumer's column -> channel; empty: the same (o_proj reads a KV head several times)
  int64_t channels = 0;
};

/// The sites of a checkpoint whose layers are those of Llama (the kinds that model/ computes, formats/model_kinds.h), in order:
///   input_layernorm -> q, k, v;  v -> o (a KV head's channel has one factor for all its query heads);
///   post_attention_layernorm -> gate and up of the FFN or of all experts, and the router;  up -> down of each FFN
/// is_quantized(name) separates consumers from compensated weights. Throws UsageError for another model_type, whose layers may be
/// connected differently; FormatError when the shapes of a site's tensors do not match.
std::vector<SmoothSite> smooth_sites(const Json& config, const TensorSource& tensors,
                                     const std::function<bool(const std::string&)>& is_quantized);

struct SmoothOptions {
  std::optional<double> strength;  ///< of all sites, 0 to 1; nullopt: searched for each
  int64_t min_tokens = 0;          ///< inputs that saw fewer are ignored
  ActivationRounding activations;  ///< is_static: the scale is computed from the recorded range
  int64_t weight_group = 0;        ///< columns that share a weight's scale; 0: all
};

struct SmoothResult {
  std::vector<float> factors;  ///< s [channels]; empty: no smoothing is best
  double strength = 0;
  double error = 1;  ///< of the outputs, relative to that of no smoothing, when searched
};

/// Reads the weights of the site once or twice, in pieces. Same result for any number of threads.
SmoothResult smooth(const SmoothSite& site, const TensorSource& tensors, const ActivationStatistics& statistics,
                    const SmoothOptions& options);

/// amax_x^a / amax_w^(1 - a), before rounding to powers of two, scaled to a geometric mean of one; magnitudes below 1e-5 count as
/// 1e-5.
std::vector<double> smooth_factors(std::span<const float> amax_x, std::span<const float> amax_w, double strength);

/// Converts recorded statistics to those of the input after smoothing with s (by column): divides amax, samples and, if present,
/// the Hessian; the range is that of the samples, widened in proportion where a channel's amax exceeds them.
void smooth_statistics(LinearStatistics& statistics, std::span<const float> s);

}  // namespace overproof
