#pragma once
// As which architecture of llama.cpp a checkpoint is written. Nearly always that of its kind's row (formats/model_kinds.h).
//
// llama.cpp's qwen2moe leaves the weights of the chosen experts as they are and reads no RoPE factors. A qwen2_moe whose weights sum to 1
// (norm_topk_prob) and whose shared experts' gates are all zero, as carved students have it, is written as granitemoe: that normalises,
// reads RoPE factors, and has shared experts without a gate, whose output projections are halved in the file, as sigmoid(0) is 1 / 2.

#include "core/json_fwd.h"
#include "formats/model_kinds.h"
#include "formats/tensor_source.h"

namespace overproof {

/// A row for the writer, with `arch`; nullptr where GGUF has no architecture for the model. Reads the gates of shared experts.
const ModelKind* gguf_kind(const Json& config, const TensorSource& tensors);

/// The row of a granitemoe file with shared experts, which is read as the qwen2_moe that it was written from.
const ModelKind& ungated_gguf_kind();

/// Whether it is a qwen2_moe written as granitemoe.
bool writes_ungated(const ModelKind& gguf);

}  // namespace overproof
