#pragma once
// Takes the residual stream of all windows through one layer after another, in the decoder's own steps, and shows what the layers receive:
// one observing pass, from which all statistics come.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/progress.h"
#include "model/layer_stream.h"
#include "model/sample_windows.h"
#include "records/activation_journal.h"
#include "student/input_record.h"

namespace overproof {

/// Called during a pass with the layer in memory; null: not called.
struct LayerObservers {
  /// A batch of a dense FFN: its rows from `first` on, its input [n, hidden] and its neurons' activations [n, width].
  std::function<void(int64_t layer, int64_t first, const at::Tensor& input, const at::Tensor& activation)> dense;
  /// A mixture: the FFN's input [tokens, hidden], and the experts of each token with their weights, [tokens, top_k].
  std::function<void(int64_t layer, const at::Tensor& input, const at::Tensor& selected, const at::Tensor& weights)> mixture;
};

struct LayerPassOptions {
  int64_t batch_size = 4;   ///< windows run through a layer at once
  int64_t min_tokens = 0;   ///< an expert that gets fewer is also recorded on those with the highest router score, up to this many
  RecorderOptions record;   ///< of the journal
};

class LayerPass {
 public:
  /// `stream` f32 [tokens, hidden] is the input of layer `layers_done`. `journal`: where the inputs of all Linears are recorded; null: they
  /// are not. All references must outlive it.
  LayerPass(LayerStream& model, const LayerPassOptions& options, const SampledWindows& windows, at::Tensor stream, Progress& progress,
            ActivationJournal* journal, LayerObservers observers);

  int64_t layers_done() const { return layers_.layers_done; }
  const LayerProgress& progress() const { return layers_; }
  /// The input of the next layer, [tokens, hidden].
  const at::Tensor& stream() const { return stream_; }
  /// One layer further, with a checkpoint of the journal behind it.
  void step();

 private:
  int64_t tokens() const { return stream_.size(0); }
  template <class Body>
  void each_batch(int64_t rows, const Body& body) const;
  void attention(const Decoder& model, int64_t layer);
  template <class Input, class Use>
  void ffn(const Decoder& model, const std::string& at, int64_t layer, int64_t ffn, int64_t width, int64_t rows, int64_t forced, const Input& x,
           const Use& use);
  void dense(const Decoder& model, int64_t layer);
  void mixture(const Decoder& model, int64_t layer);
  void expert(const Decoder& model, int64_t layer, int64_t e, const at::Tensor& input, const at::Tensor& pairs, const at::Tensor& weights,
              const at::Tensor& scores);
  std::string note(int64_t layer) const;

  LayerStream& model_;
  LayerPassOptions options_;
  const SampledWindows& windows_;
  int64_t length_;
  at::Tensor ffn_inputs_;  // of the current layer, where they are not made of the stream after attention (NormPlaces::parallel); [tokens, hidden]
  at::Tensor stream_;  // [tokens, hidden]
  Progress& progress_;
  ActivationJournal* journal_;
  LayerObservers observers_;
  LayerProgress layers_;
  int64_t done_;
};

}  // namespace overproof
