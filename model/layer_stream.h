#pragma once
// A model of which one layer is in memory at a time, for passes that take all tokens through one layer after another: memory depends on
// the largest layer, not on how many there are, so a model larger than memory can be run.

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/stage.h"
#include "data/corpus.h"
#include "model/decoder.h"

namespace overproof {

class LayerStream {
 public:
  /// As Decoder(checkpoint), f32 on the CPU: throws FormatError naming a missing tensor, a wrong shape or what is not supported.
  explicit LayerStream(Checkpoint checkpoint);

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const ModelConfig& config() const { return model_.config(); }
  /// Whether any layer rounds its activations.
  bool rounds() const;

  /// tokens I64 -> the residual stream before the first layer, [tokens, hidden]. Reads the rows that are needed from the file.
  at::Tensor embed(const at::Tensor& tokens) const;
  /// The model with the weights of `layer`, and of no other, in memory. The reference stays valid; what is in memory changes with the
  /// next call for another layer. Changes to the weights are lost then.
  Decoder& at(int64_t layer);
  /// Releases the layer.
  void clear();
  /// The model without layers, for last_norm().
  const Decoder& ends() const { return model_; }
  /// The output head, [vocab, hidden], read anew.
  at::Tensor head() const;

 private:
  Checkpoint checkpoint_;
  std::vector<std::shared_ptr<const LayerRounding>> rounding_;
  Decoder model_;
  std::unique_ptr<const TensorSource> canonical_;  // null: the checkpoint's tensors are of that form
  int64_t layer_ = -1;
};

/// What save_decoder() writes, without the model in memory: tensors are read from `tensors` (of the checkpoint `where`) in blocks of rows, layer by
/// layer, or are the f32 values that replaced(name) returns, where those are not empty. Throws as save_decoder() does.
void save_tensors(const ModelConfig& config, const TensorSource& tensors, const fs::path& where,
                  const std::function<std::span<const float>(const std::string& name)>& replaced, OutputFolder& folder, DType dtype);

/// open_model_for() (model/open_model.h) for a model that is passed layer by layer.
LayerStream open_stream_for(const Corpus& corpus, const Inputs& inputs, const std::string& slot);

}  // namespace overproof
