#pragma once
// Stage "tiny-teacher": a small Llama with random weights and a byte-level tokenizer, made from a seed: examples and tests need no
// download.

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

struct TinyTeacherConfig {
  int64_t layers = 4, hidden_size = 128, heads = 4, kv_heads = 2, intermediate_size = 512;
  int64_t seed = 0;
  template <class V>
  void visit(V&& v) {
    v("layers", layers, in_range(1, 64), "decoder layers");
    v("hidden-size", hidden_size, in_range(8, 4096), "width of the residual stream; a multiple of heads x 2");
    v("heads", heads, in_range(1, 64), "query heads");
    v("kv-heads", kv_heads, in_range(1, 64), "key and value heads; divides heads");
    v("intermediate-size", intermediate_size, in_range(8, 65536), "neurons of each FFN");
    v("seed", seed, in_range(0, 9007199254740991.0), "of the random weights");
  }
};

/// No slots. Writes an f32 Llama checkpoint and tokenizer.json: 256 byte tokens and <|endoftext|>.
StageReport run_tiny_teacher(const TinyTeacherConfig& config, const Inputs& inputs, Outputs& outputs);

/// tokenizer.json of a byte-level BPE without merges: byte b is id b, <|endoftext|> is id 256.
std::string byte_tokenizer_json();

}  // namespace overproof
