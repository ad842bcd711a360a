#pragma once
// In what the layers of rotary decoders differ: the vocabulary of formats/model_kinds.h (a kind's defaults) and formats/model_config.h
// (one model). Names of functions are those of transformers 5.23, whose results model/ reproduces.

#include <cstdint>
#include <string>
#include <vector>

namespace overproof {

enum class NormKind {
  rms,           ///< weight x
  rms_plus_one,  ///< (1 + weight) x (Gemma)
  layer          ///< LayerNorm, with a bias where the kind has one
};

/// Where the norms of a layer are. pre: before attention and FFN. post: on their results (OLMo 2). sandwich: both (Gemma 2). parallel: one
/// norm before both, which read the same input (Cohere).
enum class NormPlaces { pre, post, sandwich, parallel };

/// Norms of queries and keys. head: RMSNorm of each head by one weight. wide: RMSNorm over all heads together (OLMo 2). layer_head: LayerNorm of
/// each head by a weight of its own (Cohere, StableLM).
enum class HeadNorm { none, head, wide, layer_head };

enum class GateActivation { silu, gelu, gelu_tanh };

/// How a router's scores become weights. sigmoid: with a balancing bias for the selection only (DeepSeek-V3). softmax: over all experts.
enum class ExpertScores { sigmoid, softmax };

/// What a group of experts is worth. best_two: the sum of its two best (DeepSeek-V3); best: the best one (DeepSeek-V2).
enum class GroupScore { best_two, best };

/// Which layers see a sliding window, by the keys of config.json.
enum class WindowRule {
  none,
  all,              ///< `sliding_window` alone, every layer (mistral, mixtral, phi3)
  all_if_used,      ///< every layer, with `use_sliding_window` (qwen3_moe)
  upper_if_used,    ///< those of `layer_types`, or from `max_window_layers` on, with `use_sliding_window` (qwen2, qwen3)
  lower_if_used,    ///< those of `layer_types`, or every other one below `max_window_layers` (qwen2_moe)
  no_rope_if_used,  ///< those of `layer_types`, or those without RoPE (smollm3)
  pattern           ///< those of `layer_types`, or all but every n-th (gemma2: 2, gemma3_text: 6)
};

/// RoPE of one kind of layers (transformers: modeling_rope_utils.py).
struct RopeShape {
  std::string type = "default";  ///< default, linear, dynamic, yarn, longrope, llama3, proportional
  double theta = 10000.0;
  int64_t turned = 0;  ///< values of a head that turn, an even number; 0: all
  double factor = 1.0;
  double attention_factor = 1.0;                         ///< of cosines and sines
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  ///< llama3
  double beta_fast = 32.0, beta_slow = 1.0;              ///< yarn
  bool truncate = true;                                  ///< yarn
  double proportion = 1.0;                               ///< proportional: share of the pairs that turn
  int64_t original_max_position = 8192;                  ///< dynamic: max_position_embeddings
  std::vector<double> short_factor, long_factor;         ///< longrope: one for each pair

  bool scaled() const { return type != "default"; }
  /// Whether frequencies depend on how long the text is.
  bool by_length() const { return type == "dynamic" || type == "longrope"; }
};

}  // namespace overproof
