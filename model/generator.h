#pragma once
// Generation, token by token: the transformer of decoder.h with a key-value cache, and with its weights in memory as they are stored.
// Decoding one sequence takes as long as reading the weights, so a token of a model in 8 bits costs a quarter of one in f32.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/model_config.h"
#include "formats/tensor_source.h"
#include "model/placement.h"
#include "model/rope.h"
#include "model/torch_setup.h"

namespace overproof {

struct GeneratorWeights;  // generator_weights.h
struct GeneratorLayer;

/// Keys and values of the tokens that one sequence has seen so far.
struct KvCache {
  std::vector<at::Tensor> keys, values;  ///< per layer [kv_heads, room, attention_width], of which the first `length` are set
  int64_t length = 0;
  int64_t expected = 0;  ///< tokens to make room for at once; without it, or beyond it, the room doubles
  std::vector<int64_t> tokens = {};  ///< of the sequence so far, where a longer text changes the RoPE of all of them (longrope),
  bool of_long_text = false;         ///< and whether keys have the frequencies of a long one
  /// A sequence with the same beginning, for another continuation.
  KvCache copy() const;
};

/// Any form of the same weights gives the same bits, a row the bits that it has alone (model/ops/row_products.h). Nothing here has
/// a gradient.
class Generator {
 public:
  /// Reads all weights, and from config.json how activations are rounded. Throws as Decoder does.
  explicit Generator(const Checkpoint& checkpoint, const Placement& placement = {});
  Generator(ModelConfig config, const TensorSource& tensors, const Placement& placement = {});
  Generator(Generator&&) noexcept;
  ~Generator();

  const ModelConfig& config() const { return config_; }

  /// One sequence, continuing `cache`: tokens I64 [1, new] on the CPU -> hidden states after the last norm, [new, hidden]. Throws
  /// MismatchError for an id outside the vocabulary.
  at::Tensor hidden_cached(const at::Tensor& tokens, KvCache& cache) const;
  /// The next token of each of n sequences of any lengths: tokens I64 [n] -> [n, hidden]. A call costs little more than one for a
  /// single row, because each weight is read once.
  at::Tensor hidden_next(const at::Tensor& tokens, std::span<KvCache* const> caches) const;
  /// hidden [n, hidden] -> [n, vocab].
  at::Tensor next_logits(const at::Tensor& hidden) const;

  /// Bytes of weights that the next token of a single sequence reads: all but the routed experts that it does not choose, and of an
  /// embedding that is not the head a single row.
  int64_t bytes_per_token() const;
  /// The forms in which most bytes of that are kept, largest first: "int8, bf16".
  std::string forms() const;

 private:
  struct Sequences;
  at::Tensor run(const at::Tensor& tokens, const Sequences& sequences) const;
  struct Projections {
    at::Tensor q, k, v;  ///< [rows, heads, width]
  };
  void set_rope();
  void turn_anew(KvCache& cache, int64_t whole) const;
  Projections project(const GeneratorLayer& w, const at::Tensor& h) const;
  Projections project_latent(const GeneratorLayer& w, const at::Tensor& h) const;
  ops::RotaryAngles next_angles(const Rope& rope, const Sequences& sequences) const;
  at::Tensor attend(int64_t layer, const Projections& p, const Sequences& sequences) const;
  at::Tensor attention(int64_t layer, const at::Tensor& x, const ops::RotaryAngles& angles, const Sequences& sequences) const;
  at::Tensor ffn(const GeneratorLayer& w, const at::Tensor& x, const at::Tensor& h) const;

  ModelConfig config_;
  Placement placement_;
  std::unique_ptr<const GeneratorWeights> weights_;
  Rope rope_, window_rope_;
};

}  // namespace overproof
