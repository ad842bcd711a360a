#pragma once
// Stage "recover": replaces the output projections of a carved or pruned student's FFNs by the least-squares solution towards its
// parent's, layer by layer on the student's own inputs (student/recovery.h). No gradient, no optimizer.

#include "core/config.h"
#include "core/stage.h"
#include "formats/weight_dtype.h"
#include "model/compute.h"

namespace overproof {

struct RecoverConfig {
  enum class Target { local, residual };
  enum class Zeros { automatic, yes, no };
  int64_t tokens = 16384;
  int64_t batch_size = 4;
  double ridge = 0.003;
  Target target = Target::local;
  int64_t passes = 1;
  bool attention = false;
  int64_t min_tokens = 64;
  double max_load = 1.5;
  double held_out = 1.0 / 16;
  Zeros zeros = Zeros::automatic;
  int64_t seed = 0;
  WeightDType dtype = WeightDType::automatic;
  Compute compute = Compute::automatic;
  template <class V>
  void visit(V&& v) {
    v("tokens", tokens, in_range(2, 1 << 30), "training tokens to solve on, rounded up to whole windows");
    v("batch-size", batch_size, in_range(1, 4096), "windows run through a layer at once");
    v("ridge", ridge, in_range(0, 1e6), "penalty on the change of a weight, relative to the mean square of the activations");
    v("target", target, enum_of<Target>({{"local", Target::local}, {"residual", Target::residual}}),
      "local: what the parent's FFN makes of the student's input; residual: the parent's residual stream after the layer");
    v("passes", passes, in_range(1, 16), "how often a layer is solved; before each further pass the router is fitted to the solved experts");
    v("attention", attention, any_value(), "also solve the output projections of attention, towards the parent's residual stream");
    v("max-load", max_load, in_range(0, 4096), "largest load of a routed expert over the mean when the router is fitted; 0: no limit");
    v("min-tokens", min_tokens, in_range(0, 1 << 30), "an expert with fewer tokens keeps its weights");
    v("held-out", held_out, in_range(0, 0.5), "part of the windows that is only measured, not solved on");
    v("keep-zeros", zeros, enum_of<Zeros>({{"auto", Zeros::automatic}, {"yes", Zeros::yes}, {"no", Zeros::no}}),
      "whether weights of the solved projections that are zero stay zero, as prune-weights made them; auto: in projections that are zero in a tenth or more");
    v("seed", seed, in_range(0, 9007199254740991.0), "chooses the windows");
    visit_weight_dtype(v, dtype);
    visit_compute(v, compute);
  }
};

/// Slots: student (dense or a mixture of experts), teacher (its parent: as many layers, the same hidden size and vocabulary), corpus.
/// Memory: one layer of each model in f32, the residual stream of all tokens (tokens x hidden x 4 bytes; twice with --target residual or
/// --attention), and for F features of a layer about 3 F^2 doubles, which does not depend on how many layers there are. Operations: a pass of the student's attention, one of the
/// parent's FFN, two of the student's, products for the Gram matrix and a factorisation of order FFN width a layer; more with --passes,
/// --attention and --target residual.
/// Throws MismatchError when the models or the corpus do not belong together, UsageError for a student whose activations are rounded.
StageReport run_recover(const RecoverConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
