#pragma once
// A dense Llama with random weights, as a source of tensors: what `tiny-teacher` writes and what `pretrain` starts from.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/model_config.h"
#include "formats/tensor_source.h"

namespace overproof {

/// Matrices are normal with a deviation that the caller gives, norms are 1. A row of a tensor has a Philox stream of its own, named after
/// the tensor, so rows can be read in any order, by any number of threads.
class RandomTensors final : public TensorSource {
 public:
  /// Of a matrix with this name and number of columns.
  using Deviation = std::function<double(std::string_view name, int64_t columns)>;
  /// The tensors of the dense model `shape`: without lm_head.weight when it is tied. `stream` begins the names of the random streams.
  RandomTensors(const ModelConfig& shape, uint64_t seed, std::string stream, Deviation deviation);
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;

 private:
  uint64_t seed_;
  std::string stream_;
  Deviation deviation_;
  std::vector<TensorInfo> infos_;
};

}  // namespace overproof
