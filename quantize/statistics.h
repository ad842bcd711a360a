#pragma once
// What calibration saw of the inputs of a model's Linear weights, as the `activations` artifact keeps it. Read here as plain
// safetensors; written by evaluate/, which runs the model.
//
//   activations/activations.safetensors      one group for each set of weights that are given the same input
//     G.amax      F32 [in]        largest magnitude of each input channel
//     G.range     F32 [2]         least and largest value over all channels
//     G.samples   F16 [n, in]     rows of the input, n <= `samples`
//     G.hessian   F32 [in, in]    mean over tokens of x x^T; only when asked for
//     G.tokens    I64 [2]         tokens that the router sent here, and tokens that were sent here by force besides
//   metadata: model_root, corpus_root, tokens, format_version, and "groups": JSON {weight name: group name}
//
// G is the first weight of the group without ".weight": "model.layers.0.self_attn.q_proj" (also k and v),
// "model.layers.0.mlp.experts.3.gate_proj" (also up), ...

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/digest.h"
#include "core/file.h"

namespace overproof {

inline constexpr char kActivationsFile[] = "activations.safetensors";

/// One group, read into memory: the largest part is the Hessian, in x in floats.
struct LinearStatistics {
  int64_t columns = 0;
  std::vector<float> amax;     ///< [in]
  float least = 0, largest = 0;
  int64_t sample_rows = 0;
  std::vector<float> samples;  ///< [sample_rows, in]
  std::vector<float> hessian;  ///< [in, in], or empty
  int64_t tokens = 0;          ///< seen in all
  int64_t forced_tokens = 0;   ///< of which the router would not have sent here
};

}  // namespace overproof
