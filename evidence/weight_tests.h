#pragma once
// Weight tests (Zhu et al. 2025, "Independence tests for language models"): do the FFN neurons of two models correspond? They need
// only weights, in any container. The neurons of a layer are those of its shared and routed experts together. They show that one
// model was initialised from the other, not that it was taught by it.

#include <string>
#include <vector>

#include "evidence/evidence.h"
#include "formats/tensor_source.h"

namespace overproof {

/// Gate and up rows of a layer's neurons.
struct NeuronRows {
  int64_t neurons = 0, hidden = 0;
  std::vector<float> gate, up;  ///< [neurons, hidden]
  std::vector<int32_t> block;   ///< [neurons]: number of the neuron's expert; all equal in a dense layer
};

/// Finds gate_proj and up_proj of each layer (w1 and w3 in mixtral); shared or dense neurons come first, then routed experts by
/// number.
class NeuronReader {
 public:
  /// The checkpoint must outlive it. Throws FormatError when gate and up of an expert, or two layers, differ in shape.
  explicit NeuronReader(const Checkpoint& checkpoint);
  int64_t layers() const { return int64_t(layers_.size()); }  ///< up to the last that has such weights
  int64_t hidden() const { return hidden_; }
  int64_t neurons(int64_t layer) const;  ///< 0 where a layer has no such weights
  /// At most `most` of a layer's neurons, spread evenly. Throws FormatError on weights that are not finite.
  NeuronRows read(int64_t layer, int64_t most) const;

 private:
  struct Part {
    std::string gate, up;
    int64_t rows = 0;
  };
  const Checkpoint& checkpoint_;
  std::vector<std::vector<Part>> layers_;
  int64_t hidden_ = 0;
};

/// For each neuron of `rows` its partner in `columns` in the pairing with the largest total cosine: of gate and up together, of gate
/// alone, of up alone. rows.neurons <= columns.neurons.
struct NeuronMatching {
  std::vector<int64_t> both, gate, up;
};
NeuronMatching match_neurons(const NeuronRows& rows, const NeuronRows& columns);

/// Are matched neurons in the same order? Spearman's test within each pair of experts that share at least three neurons; logs of
/// the p-values, which are independent and exact if the order of neurons within an expert is arbitrary.
struct OrderEvidence {
  std::vector<double> log_p;
  double weighted_rho = 0;  ///< mean over the experts' neurons
  int64_t matched = 0;      ///< neurons in these experts
};
OrderEvidence neuron_order(const NeuronRows& rows, const NeuronRows& columns, const std::vector<int64_t>& column_of);

/// Rows whose nearest column by gate is also their nearest by up, after the residual coordinates of `rows` have been permuted.
int64_t nearest_agreements(const NeuronRows& rows, const NeuronRows& columns, const std::vector<int64_t>& coordinates);

struct WeightTestOptions {
  int64_t neurons = 2048;         ///< of the side of a layer that has fewer, at most
  int64_t more_neurons = 16384;   ///< of the other
  int64_t sampled_neurons = 256;  ///< of the former, in the permutation test
  int64_t permutations = 199;
  uint64_t seed = 0;
};

/// Three tests over all layers of two models of the same hidden size.
///
/// weights-order (constrained, phi_U of the paper over gate and up): are matched neurons in the same order? Fisher's method over
/// experts and layers. Exact if the models were initialised independently and training treats the neurons of an expert alike.
/// Blind to models whose neurons were shuffled.
///
/// weights-matched (robust, phi_MATCH): do the matching by gate rows and the matching by up rows agree? Shuffling does not hide it. Its p assumes that the matchings of independent models are independent uniform permutations, which is not guaranteed,
/// so it is nominal: benchmarks/evidence.py measures its error rates.
///
/// weights-permuted (PERMTEST of the paper with the robust question): as many neurons whose nearest neighbours by gate and by up
/// agree, compared with permuted coordinates of the residual stream, the same in all layers. Exact if the models were initialised
/// independently and training treats coordinates alike; its least value is 1 / (1 + permutations).
std::vector<EvidenceTest> weight_tests(const NeuronReader& a, const NeuronReader& b, const WeightTestOptions& options);

}  // namespace overproof
