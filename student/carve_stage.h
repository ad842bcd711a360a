#pragma once
// Stage "carve": makes the student that distillation starts from. Regroups the FFN neurons of a dense teacher into experts and
// writes a certificate that no neuron was lost: with all experts active and a zero gate the student equals the teacher.

#include "core/config.h"
#include "core/stage.h"
#include "formats/head_tying.h"
#include "formats/student_profile.h"
#include "formats/weight_dtype.h"
#include "student/carve_method.h"

namespace overproof {

struct CarveConfig {
  enum class Router { own, fitted };
  CarveMethod method = CarveMethod::clusters;
  Router router = Router::own;
  int64_t active = 10;
  int64_t experts = 15, shared = 1, top_k = 3;
  int64_t clustering_iterations = 20, ranking_steps = 60;
  double router_scale = 0.0625, ridge = 0.01;
  StringList clusters = {"contribution"}, try_shared;
  int64_t refits = 1;
  double recovery_ridge = 0.03, max_load = 1.5;
  int64_t seed = 0;
  int64_t certificate_tokens = 512;
  WeightDType dtype = WeightDType::automatic;
  Tie tie = Tie::automatic;
  StudentProfile profile = StudentProfile::automatic;
  template <class V>
  void visit(V&& v) {
    v("experts", experts, in_range(2, 4096), "routed experts in each layer");
    v("shared", shared, in_range(0, 64), "shared experts, which every token uses");
    v("top-k", top_k, in_range(1, 4096), "routed experts a token uses");
    v("method", method,
      enum_of<CarveMethod>({{"clusters", CarveMethod::clusters},
                            {"random", CarveMethod::random},
                            {"order", CarveMethod::order},
                            {"cmoe", CarveMethod::cmoe},
                            {"expertweaver", CarveMethod::expertweaver}}),
      "how neurons become experts; clusters: by 'clusters' below, with a fitted router. Baselines (docs/student.md): random, order (blocks of the "
      "checkpoint), cmoe, expertweaver");
    v("router", router, enum_of<Router>({{"own", Router::own}, {"fitted", Router::fitted}}),
      "own: the router that the method publishes; methods without one, and fitted: a router fitted to the experts' output norms");
    v("active", active, in_range(1, 1 << 20), "cmoe: neurons of a token that count as active");
    v("clustering-iterations", clustering_iterations, in_range(1, 1000), "maximum number of rounds of balanced k-means");
    v("ranking-steps", ranking_steps, in_range(0, 100000), "steps of fitting the router's ranking, after the regression");
    v("router-scale", router_scale, in_range(1e-4, 4),
      "root mean square of the router's logits z; expert weights are 2 sigmoid(z), in qwen2_moe top-k times the softmax of those chosen");
    v("ridge", ridge, in_range(0, 1e3), "ridge of the router regression, relative to the inputs' variance");
    v("clusters", clusters, one_of({"contribution", "coactivation"}),
      "how neurons are clustered, comma-separated; of several, each layer takes the one with the least error after recovery");
    v("try-shared", try_shared, any_value(),
      "other numbers of shared experts to try, comma-separated, with as many experts in all and as many active; the one with the least "
      "error after recovery is taken, measured on every fifth layer");
    v("refits", refits, in_range(0, 16),
      "how often the router is fitted to what the recovered experts gain; kept where that lowers the error after recovery");
    v("max-load", max_load, in_range(0, 4096), "largest load of a routed expert over the mean, on the observed tokens; 0: no limit");
    v("recovery-ridge", recovery_ridge, in_range(0, 1e6), "ridge of the solves by which these are compared, as recover's");
    v("seed", seed, in_range(0, 9007199254740991.0), "chooses the first cluster centres");
    v("certificate-tokens", certificate_tokens, in_range(1, 1 << 20), "tokens on which the certificate compares the logits");
    visit_weight_dtype(v, dtype);
    visit_tie(v, tie);
    visit_profile(v, profile);
  }
};

/// Slots: teacher (dense), statistics of this teacher. Writes a checkpoint of the profile in the teacher's dtype with its tokenizer,
/// carving.json (CarveQuality of each layer) and certificate.json, of the weights that are written (the
/// teacher's are rounded in the same way for it). Throws MismatchError for statistics of another teacher, and for tie = yes of a teacher with a head of its own.
StageReport run_carve(const CarveConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
