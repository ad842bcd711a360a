#pragma once
// SmoothQuant (Xiao et al. 2022, equations 3 and 4): where one tensor's output channels are another's input channels, channel j
// is divided by s_j on one side and multiplied by s_j on the other. The function stays; outliers move from activations, whose
// rounding suffers from them, into weights, whose rounding suffers less: s_j = amax_x[j]^a / amax_w[j]^(1 - a).
//
// The strength a of each place is searched by what it is for: the error of the outputs on recorded samples, weights and inputs
// both rounded. s_j is rounded to a power of two, so that scaling is exact in every floating type: norms of 16 bits and
// routers lose nothing, and the scaled model without rounding gives the same logits bit for bit.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/activation_rounding.h"
#include "core/json_fwd.h"
#include "formats/tensor_source.h"
#include "records/activation_statistics.h"

namespace overproof {

/// What a tensor is multiplied with before it is quantised or copied. Null: ones.
struct TensorScaling {
  std::shared_ptr<const std::vector<float>> rows, columns;
  bool empty() const { return !rows && !columns; }
  /// Rows [first_row, first_row + rows) of the tensor, [rows, columns]; of a vector each element is a row.
  void apply(int64_t first_row, int64_t count, std::span<float> x) const;
};

/// A place where channels can be rescaled without changing the function.
struct SmoothSite {
  std::vector<std::string> producers;    ///< tensors whose rows give the channels: a norm, or up_proj, or v_proj and its bias
  std::vector<std::string> consumers;    ///< weights whose columns take them and that are quantised
  std::vector<std::string> compensated;  ///< weights whose columns take them and that are not: routers, excluded ones
  std::vector<int32_t> channel_of;       ///< consumer's column -> channel; empty: the same (o_proj reads a KV head several times)
  int64_t channels = 0;
};

/// The sites of a checkpoint whose layers are those of Llama (llama, mistral, qwen2, qwen3, glm4_moe), in order:
///   input_layernorm -> q, k, v;  v -> o (a KV head's channel has one factor for all its query heads);
///   post_attention_layernorm -> gate and up of the FFN or of all experts, and the router;  up -> down of each FFN
/// is_quantised tells consumers from compensated. Throws UsageError for another model_type: another wiring would be broken
/// silently; FormatError when tensors of a site do not fit together.
std::vector<SmoothSite> smooth_sites(const Json& config, const TensorSource& tensors,
                                     const std::function<bool(const std::string&)>& is_quantised);

struct SmoothOptions {
  std::optional<double> strength;  ///< of all sites, 0 to 1; nullopt: searched for each
  int64_t min_tokens = 0;          ///< inputs that saw fewer are ignored
  ActivationRounding activations;  ///< is_static: the scale is made from what was recorded
  int64_t weight_group = 0;        ///< columns that share a weight's scale; 0: all
};

struct SmoothResult {
  std::vector<float> factors;  ///< s [channels]; empty: better left alone
  double strength = 0;
  double error = 1;  ///< of the outputs, relative to that of no smoothing, when searched
};

/// Reads the site's weights once or twice, in pieces. Same result for any number of threads.
SmoothResult smooth(const SmoothSite& site, const TensorSource& tensors, const ActivationStatistics& statistics,
                    const SmoothOptions& options);

/// amax_x^a / amax_w^(1 - a), before rounding to powers of two, scaled to a geometric mean of one; magnitudes below 1e-5 count as
/// that.
std::vector<double> smooth_factors(std::span<const float> amax_x, std::span<const float> amax_w, double strength);

/// The recorded input as it is after smoothing with s (by column): amax and samples divided, and the range of the result, from
/// the samples, widened in proportion where a channel's amax is beyond them. hessian too, when it is there.
void smooth_statistics(LinearStatistics& statistics, std::span<const float> s);

}  // namespace overproof
