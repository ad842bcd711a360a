#include "model/layer_stream.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "data/tokenizer.h"
#include "data/tokenizer_files.h"
#include "formats/canonical_tensors.h"
#include "formats/finite_values.h"
#include "formats/model_check.h"
#include "formats/sharded.h"
#include "formats/weight_dtype.h"
#include "model/activation_rounding.h"
#include "model/decoder_config.h"
#include "model/decoder_parts.h"
#include "model/host_values.h"

namespace overproof {
namespace {

constexpr const char* kTokenTable = "model.embed_tokens.weight";

/// All rows of a tensor, f32.
at::Tensor whole_tensor(const TensorSource& tensors, const fs::path& where, const std::string& name, at::IntArrayRef shape) {
  const at::Tensor tensor = at::empty(shape, Placement{}.options());
  const std::span<float> values = mutable_host_values<float>(tensor);
  const int64_t rows = tensor.size(0), width = tensor.numel() / rows, block = std::max<int64_t>(1, (int64_t{1} << 20) / width);
  for (int64_t r = 0; r < rows; r += block) {
    const int64_t count = std::min(block, rows - r);
    const auto part = values.subspan(size_t(r * width), size_t(count * width));
    tensors.read_f32(name, r, count, part);
    require_finite(part, name, r, width, where);
  }
  return tensor;
}

Decoder without_layers(const Checkpoint& checkpoint) {
  ModelConfig config = ModelConfig::from_json(*checkpoint.config, (checkpoint.path / "config.json").string());
  check_tensors(config.to_json(), *checkpoint.tensors, checkpoint.path);
  const auto canonical = canonical_tensors(config, *checkpoint.tensors);
  const TensorSource& tensors = canonical ? *canonical : *checkpoint.tensors;
  DecoderWeights weights;
  weights.final_norm = whole_tensor(tensors, checkpoint.path, "model.norm.weight", {config.hidden_size});
  if (config.norm_bias) weights.final_norm_bias = whole_tensor(tensors, checkpoint.path, "model.norm.bias", {config.hidden_size});
  weights.layers.resize(size_t(config.layers));
  return Decoder(std::move(config), std::move(weights));
}

}  // namespace

LayerStream::LayerStream(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)), model_(without_layers(checkpoint_)) {
  canonical_ = canonical_tensors(model_.config(), *checkpoint_.tensors);
  rounding_ = activation_rounding(*checkpoint_.config, model_.config(), *checkpoint_.tensors, checkpoint_.path / "config.json");
}

bool LayerStream::rounds() const {
  return std::any_of(rounding_.begin(), rounding_.end(), [](const auto& layer) { return layer != nullptr; });
}

at::Tensor LayerStream::embed(const at::Tensor& tokens) const {
  check_tokens(tokens, config());
  const at::Tensor ids = tokens.reshape({-1}).contiguous(), rows = at::empty({ids.numel(), config().hidden_size}, Placement{}.options());
  const std::span<const int64_t> id = host_values<int64_t>(ids);
  const std::span<float> values = mutable_host_values<float>(rows);
  const auto width = size_t(config().hidden_size);
  for (size_t i = 0; i < id.size(); ++i) {
    const auto row = values.subspan(i * width, width);
    checkpoint_.tensors->read_f32(kTokenTable, id[i], 1, row);
    require_finite(row, kTokenTable, id[i], int64_t(width), checkpoint_.path);
  }
  if (config().embedding_scale != 1.0) rows.mul_(config().embedding_scale);
  return rows;
}

Decoder& LayerStream::at(int64_t layer) {
  if (layer == layer_) return model_;
  clear();
  LayerWeights weights = load_layer(config(), layer, canonical_ ? *canonical_ : *checkpoint_.tensors, checkpoint_.path);
  if (size_t(layer) < rounding_.size()) weights.rounding = rounding_[size_t(layer)];
  model_.set_layer(layer, std::move(weights));
  layer_ = layer;
  return model_;
}

void LayerStream::clear() {
  if (layer_ >= 0) model_.set_layer(layer_, {});
  layer_ = -1;
}

at::Tensor LayerStream::head() const {
  return whole_tensor(*checkpoint_.tensors, checkpoint_.path, config().tie_embeddings ? kTokenTable : "lm_head.weight", {config().vocab_size, config().hidden_size});
}

void save_tensors(const ModelConfig& config, const TensorSource& tensors, const fs::path& where,
                  const std::function<std::span<const float>(const std::string& name)>& replaced, OutputFolder& folder, DType dtype) {
  constexpr int64_t kBlock = int64_t{1} << 20;  // elements in memory at a time
  const std::vector<TensorInfo> infos = stored_infos(stored_tensors(empty_weights(config, {.device = at::kMeta})), dtype);
  ShardedWriter writer(folder, infos, {{"format", "pt"}}, kDecoderShardBytes);
  std::vector<float> values;
  for (const TensorInfo& info : infos) {
    if (const std::span<const float> given = replaced(info.name); !given.empty()) {
      OVERPROOF_CHECK(int64_t(given.size()) == info.elements());
      require_range(info.dtype, given, info.name);
      writer.append_f32(given);
      continue;
    }
    const int64_t rows = info.shape[0], width = info.elements() / rows, block = std::max<int64_t>(1, kBlock / width);
    for (int64_t r = 0; r < rows; r += block) {
      throw_if_interrupted();
      const int64_t count = std::min(block, rows - r);
      values.resize(size_t(count * width));
      tensors.read_f32(info.name, r, count, values);
      require_finite(values, info.name, r, width, where);
      require_range(info.dtype, values, info.name);
      writer.append_f32(values);
    }
  }
  writer.close();
  save_decoder_config(config, folder, dtype);
}

LayerStream open_stream_for(const Corpus& corpus, const Inputs& inputs, const std::string& slot) {
  require_tokenizer(inputs.path(slot), corpus.tokenizer(), "the corpus");
  Checkpoint checkpoint = open_checkpoint(inputs.path(slot));
  check_model(checkpoint);
  refuse_damaged_tokenizer(checkpoint.path);
  return LayerStream(std::move(checkpoint));
}

}  // namespace overproof
