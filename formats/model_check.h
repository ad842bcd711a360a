#pragma once
// Whether a checkpoint is the whole model that its config.json describes. Every stage that makes something of a model asks this first,
// before anything is written or signed.

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"
#include "formats/model_kinds.h"
#include "formats/tensor_source.h"

namespace overproof {

/// Whether a model of this kind uses a tensor that some models of the kind have and others do not: open where config.json does not
/// decide, as for tensors that every model of the kind has.
enum class TensorUse { open, needed, unused };

/// By the keys of config.json that make transformers use the tensor: attention_bias, mlp_bias, use_qk_norm, ... `hf`: its name behind
/// "model.layers.N.".
TensorUse use_of(const ModelKind& kind, std::string_view hf, const Json& config);

/// Compares names and shapes with config.json, for model types that are known; of others, that every layer has tensors. A config.json
/// without num_hidden_layers describes no model and is not compared. Returns the tensors that the model does not use, as transformers
/// ignores them: leftovers, and biases and norms that config.json switches off. Throws FormatError naming what is missing, or of
/// another shape, what is there instead, and the way on.
std::vector<std::string> check_tensors(const Json& config, const TensorSource& tensors, const std::filesystem::path& where);

/// check_tensors() of a checkpoint, and that its folder holds no Git LFS pointers and no token whose id is beyond the embedding (of
/// an unknown model type only a note). Returns notes for the user: which of two files that contradict each other counts, and what is not used. Throws FormatError.
std::vector<std::string> check_model(const Checkpoint& checkpoint);

}  // namespace overproof
