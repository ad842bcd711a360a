#pragma once
// Names of tensors in a Hugging Face checkpoint and in a GGUF file: formats/model_kinds.h, read in both directions.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "formats/model_kinds.h"

namespace overproof {

/// Divisors of the RoPE frequencies: a tensor that holds a part of config.json.
inline constexpr std::string_view kGgufRopeFactors = "rope_freqs.weight";

/// The kind of a GGUF architecture; nullptr when it is not supported. In GGUF Mixtral and Mistral have the architecture llama.
const ModelKind* kind_of_gguf(std::string_view arch, bool experts);
/// The model types that have a GGUF architecture, or with `gguf` those architectures, comma-separated: for messages.
std::string list_model_kinds(bool gguf);

/// The name in transformers of what GGUF calls "blk.N." + `gguf`; "" when this kind has no such tensor.
std::string_view hf_layer_name(const ModelKind& kind, std::string_view gguf);

/// An expert's matrices, stacked in GGUF as [experts, out, in].
struct GgufExpertName {
  std::string_view gguf;  ///< "ffn_gate_exps.weight"
  TensorName::Part part;
};
std::span<const GgufExpertName> gguf_expert_names();
/// All experts in one tensor: gate above up [experts, 2 x width, hidden], and down [experts, hidden, width]; as transformers
/// holds them in memory, and as granitemoe is stored.
std::string_view hf_fused_gate_up(const ModelKind& kind);
std::string_view hf_fused_down(const ModelKind& kind);

/// Where row `row` of Hugging Face's order is in an interleaved q or k: row (half h, j) of a head becomes row 2 j + h
/// (convert_hf_to_gguf.py, permute). half_head 0: nothing moves.
int64_t interleaved_row(int64_t row, int64_t half_head);
/// The inverse.
int64_t row_of_interleaved(int64_t row, int64_t half_head);

}  // namespace overproof
