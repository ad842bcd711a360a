#pragma once
// Inside model/ only: the parts of a Decoder that loading and saving touch.

#include "model/decoder.h"

namespace overproof {

struct DecoderAccess {
  static at::Tensor& embedding(Decoder& d) { return d.embedding_; }
  static at::Tensor& final_norm(Decoder& d) { return d.final_norm_; }
  static at::Tensor& head(Decoder& d) { return d.head_; }
  static at::Tensor& inverse_frequencies(Decoder& d) { return d.inverse_frequencies_; }
};

/// One tensor of a checkpoint and where it lives in the decoder: `target` is a weight or a contiguous slice of a fused one.
struct StoredTensor {
  std::string name;  ///< Hugging Face's
  at::Tensor target;
  bool keep_f32;  ///< router and its bias: rounding them changes which experts are chosen
};

/// All tensors of a decoder whose weights are allocated, in the order they are written.
std::vector<StoredTensor> stored_tensors(const Decoder& decoder);

}  // namespace overproof
