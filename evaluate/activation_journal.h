#pragma once
// Inside evaluate/: what a killed run of `activations` needs to go on behind its last whole layer. In the scratch folder:
//
//   activations.spill              statistics of the finished layers (ActivationSpill)
//   activations.state.safetensors  the residual stream behind them, F32 [tokens, hidden]; metadata "state": JSON with the run's
//                                  identity, layers, counts, the spill's mark and the digest of the stream
//
// The second is replaced as a whole once the first is on the disk, so a kill at any moment leaves a pair that belongs together.
// Nothing in either is trusted: both are digested again, and when something is amiss the run begins anew.

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <string>

#include "evaluate/activation_recorder.h"

namespace overproof {

struct ExpertCounts {
  int64_t total = 0, topped_up = 0, below = 0, forced_tokens = 0;
};

/// Where a pass over the layers stands.
struct LayerState {
  int64_t layers_done = 0;
  at::Tensor stream;  ///< f32 [tokens, hidden]: what the next layer is given
  ExpertCounts experts;
};

class ActivationJournal {
 public:
  /// `run` says which run this is: configuration and inputs. What another one left is not taken up.
  ActivationJournal(fs::path scratch, std::string run) : scratch_(std::move(scratch)), run_(std::move(run)) {}
  /// What an earlier run left, with the spill behind it; nothing when there is none that can be gone on from. Call it first.
  std::optional<LayerState> read(std::array<int64_t, 2> stream_shape, int64_t layers);
  ActivationSpill& spill() { return *spill_; }
  /// Throws IoError.
  void write(const LayerState& state);
  /// Forgets everything: the statistics are where they belong.
  void remove();

 private:
  LayerState read_state(std::array<int64_t, 2> stream_shape, int64_t layers);
  fs::path scratch_;
  std::string run_;
  std::optional<ActivationSpill> spill_;
};

}  // namespace overproof
