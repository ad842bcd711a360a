#pragma once
// Carving: distributes the neurons of a dense FFN over shared experts and routed experts of equal width, without changing a
// weight. Follows CMoE (Pei et al. 2025, arXiv 2502.04416): the most important neurons are shared, the others are clustered by
// the tokens that activate them. Differences to CMoE: a neuron's profile is the length of what it adds to the residual stream at
// each observed token, not only whether it is active; and the router is fitted to the output norms of the experts.

#include <ATen/core/Tensor.h>

#include <memory>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"
#include "model/layer_stream.h"
#include "formats/student_profile.h"
#include "formats/tensor_source.h"
#include "formats/tensor_name.h"
#include "student/carve_methods.h"

namespace overproof {

/// By which rows of unit length neurons are clustered.
enum class ClusterBy {
  contribution,  ///< length of what the neuron adds to the residual stream at each token
  coactivation,  ///< whether the token is among the tenth for which that length is largest
};
std::string_view cluster_name(ClusterBy by);

struct CarveOptions {
  int64_t experts = 15, shared = 1, top_k = 3;  ///< (experts + shared) divides the teacher's FFN width
  int64_t clustering_iterations = 20, ranking_steps = 60;
  double router_scale = 0.0625, ridge = 1e-2;
  std::vector<ClusterBy> clusters = {ClusterBy::contribution};  ///< each is tried
  int64_t refits = 0;                                           ///< of the router to the recovered experts, each is tried
  double recovery_ridge = 0.03;                                 ///< of the trials
  double most_load = 0;                                         ///< RouterFitOptions::most_load
  int64_t seed = 0;
  CarveMethod method = CarveMethod::clusters;
  bool fitted_router = true;  ///< else that of the method, where it has one
  int64_t active = 10;        ///< SplitOptions::active
  int64_t window = 1;         ///< tokens of an observed window
  bool tie = false;  ///< the student's head is its embedding, which the teacher's must be, too
  StudentProfile profile = StudentProfile::automatic;
};

/// Quality of one carved layer, measured on the last quarter of the observed tokens, to which nothing was fitted. Errors are the
/// sum of squares of the FFN output's change over the sum of squares of the output.
struct CarveQuality {
  double recall = 0;           ///< fraction of the top_k experts with the largest output norm that the router selects
  double centroid_recall = 0;  ///< the same with the mean gate vector of each expert as router, for comparison
  double router_error = 0;     ///< with the experts that the router selects
  double oracle_error = 0;     ///< with the experts of the largest output norm
  double static_error = 0;     ///< with as many neurons, the most important ones, for every token
  double load_spread = 0;      ///< largest expert load over the mean load
  double analytic_recall = -1, analytic_error = -1;  ///< with the router that the method publishes, where no linear router can hold it; else -1
};

/// One way to carve a layer, and its error after the output projections are solved (student/carve_trial.h).
struct CarveAttempt {
  std::string_view split;  ///< what the neurons were clustered by, or the method
  int64_t refits;
  double recovered_error, recovered_oracle_error;
};

struct LayerCarving {
  at::Tensor neurons;  ///< I64 [ff], a permutation: the shared experts' neurons, then each routed expert's
  at::Tensor gate;     ///< f32 [experts, hidden]
  at::Tensor bias;     ///< f32 [experts]
  int64_t shared_neurons = 0, top_k = 1;
  CarveQuality quality;
  double specialised = -1;             ///< NeuronSplit::specialised
  std::vector<CarveAttempt> attempts;  ///< all that was tried
  size_t best = 0;                     ///< which attempt this is
};

/// gate_up [2 x ff, hidden], down [hidden, ff], input [tokens, hidden]. Of several attempts the one with the least recovered error on
/// unseen tokens. Time: an attempt costs a clustering, a router fit and a Cholesky factorisation of order ff.
LayerCarving carve_layer(const at::Tensor& gate_up, const at::Tensor& down, const at::Tensor& input, const CarveOptions& options,
                         int64_t layer);

/// The student's shape: the teacher's with an FFN of the profile, and a separate output head unless `tie`. Throws UsageError when the options do not fit
/// the teacher, MismatchError when the profile cannot express the teacher.
ModelConfig carved_config(const ModelConfig& teacher, const CarveOptions& options);

/// The carved checkpoint under the names of its model type, read from the teacher's tensors, of which one layer is in memory at a time: one thread reads
/// at a time, and layer after layer is fast. The references must outlive it.
class CarvedTensors : public TensorSource {
 public:
  CarvedTensors(LayerStream& teacher, const ModelConfig& config, const std::vector<LayerCarving>& layers);
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;

 private:
  at::Tensor carved(const TensorName& parsed) const;  // undefined when the tensor is the teacher's own
  const TensorSource& source_;
  LayerStream& teacher_;
  ModelConfig config_;
  const std::vector<LayerCarving>& layers_;
  std::vector<TensorInfo> infos_;
};

}  // namespace overproof
