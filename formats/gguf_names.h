#pragma once
// What a tensor is called in a Hugging Face checkpoint and in a GGUF file: one table, read in both directions.
// Sources: gguf-py/gguf/tensor_mapping.py and src/models/*.cpp of llama.cpp (which loader takes which tensor); transformers.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace overproof {

/// Divisors of the RoPE frequencies: a tensor that stands for a part of config.json.
inline constexpr std::string_view kGgufRopeFactors = "rope_freqs.weight";

/// A kind of model that both sides know.
struct GgufFamily {
  enum Id : uint32_t {
    llama = 1 << 0,
    mistral = 1 << 1,
    mixtral = 1 << 2,
    qwen2 = 1 << 3,
    qwen3 = 1 << 4,
    qwen2_moe = 1 << 5,
    qwen3_moe = 1 << 6,
    glm4_moe = 1 << 7,
    deepseek_v3 = 1 << 8,
    granitemoe = 1 << 9
  };
  Id id;
  std::string_view model_type;    ///< of config.json
  std::string_view architecture;  ///< transformers' class
  std::string_view arch;          ///< general.architecture, and the prefix of the keys
  bool experts = false;
  /// RoPE turns neighbouring rows of a head, where transformers turns rows half a head apart: q and k are stored with their
  /// halves interleaved.
  bool interleaved_rope = false;
  bool is(uint32_t ids) const { return (id & ids) != 0; }
};

/// nullptr when config.json's model_type is none that can be written as GGUF.
const GgufFamily* find_family(std::string_view model_type);
/// What a GGUF architecture is in transformers; nullptr when it cannot be read. Mixtral calls itself llama; a Mistral is one.
const GgufFamily* family_of_gguf(std::string_view arch, bool experts);
/// The model types, or with `gguf` the architectures, apart by commas: for messages.
std::string list_families(bool gguf);

/// One tensor that keeps its shape. Names follow "blk.N." and "model.layers.N." unless it is of the whole model.
struct GgufName {
  std::string_view gguf, hf;
  uint32_t families;
  enum Need {
    always,
    optional,
    dense,
    moe,
    moe_optional,
    nextn
  };  ///< in which layers it stands; nextn: of those that predict further tokens
  Need need = always;
};
std::span<const GgufName> gguf_model_names();
std::span<const GgufName> gguf_layer_names();
/// The Hugging Face name behind "blk.N."; "" when this family has no such tensor.
std::string_view hf_layer_name(const GgufFamily& family, std::string_view gguf);

/// An expert's matrices, stacked in GGUF as [experts, out, in].
struct GgufExpertName {
  std::string_view gguf;  ///< "ffn_gate_exps.weight"
  enum Kind { gate, up, down } kind;
};
std::span<const GgufExpertName> gguf_expert_names();
/// What follows "model.layers.N.": "mlp.experts.3.gate_proj.weight", "block_sparse_moe.experts.3.w1.weight".
std::string hf_expert_name(const GgufFamily& family, int64_t expert, GgufExpertName::Kind kind);
/// All experts in one tensor: gate above up [experts, 2 x width, hidden], and down [experts, hidden, width]; as transformers
/// holds them in memory, and as granitemoe is stored.
std::string_view hf_fused_gate_up(const GgufFamily& family);
std::string_view hf_fused_down(const GgufFamily& family);

/// Where row `row` of Hugging Face's order stands in an interleaved q or k: row (half h, j) of a head becomes row 2 j + h
/// (convert_hf_to_gguf.py, permute). half_head 0: nothing moves.
int64_t interleaved_row(int64_t row, int64_t half_head);
/// The inverse.
int64_t row_of_interleaved(int64_t row, int64_t half_head);

}  // namespace overproof
