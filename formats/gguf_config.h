#pragma once
// config.json of transformers as the keys that llama.cpp's loader reads.
// Sources: src/llama-model.cpp (load_hparams), src/models/*.cpp and conversion/*.py of llama.cpp.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/json_fwd.h"
#include "formats/gguf_names.h"
#include "formats/gguf_writer.h"

namespace overproof {

/// What the layout of the tensors depends on.
struct GgufShape {
  int64_t layers = 0;        ///< without those that predict further tokens
  int64_t dense_layers = 0;  ///< leading layers without experts; all of them when there are none
  int64_t experts = 0;
  int64_t hidden = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t qk_nope = 0, v_head_dim = 0, kv_rank = 0;  ///< of multi-head latent attention (deepseek_v3)
  bool tied = false;                                 ///< the head is the embedding
  std::vector<float> rope_factors;                   ///< divisors of each RoPE frequency, as rope_freqs.weight holds them
  std::vector<std::string> notes;                    ///< for the user: what differs in the result
};

/// Appends "{arch}.*" and general.architecture. `nextn_layers` of the checkpoint predict further tokens; `vocabulary` are the
/// rows of the embedding. Throws FormatError naming `file` for a
/// config.json that is wrong, and for a model that llama.cpp would compute differently from transformers.
GgufShape add_architecture_keys(const Json& config, const std::filesystem::path& file, const ModelKind& family,
                                int64_t vocabulary, int64_t nextn_layers, GgufMetadata& out);

/// Llama 3's RoPE divisors, [head_dim / 2]: transformers, modeling_rope_utils.py, _compute_llama3_parameters.
std::vector<float> llama3_rope_factors(int64_t head_dim, double theta, double factor, double low, double high, double original);

}  // namespace overproof
