#pragma once
// Rounding the inputs of a Linear to 8 bits and back ("fake quantisation"), as W8A8 and fp8 checkpoints are meant to be run.
//
// Arithmetic of compressed-tensors 0.20 (quantization/utils/helpers.py calculate_qparams, lifecycle/forward.py), in f32:
//   int8, symmetric    scale = amax / 127.5, code = round(x / scale) clipped to [-128, 127]
//   int8, asymmetric   scale = (largest - least) / 255 with 0 inside, zero_point = round(clip(-128 - least / scale))
//   fp8 E4M3           scale = amax / 448, code = nearest E4M3 of clip(x / scale)
//   MX                 scale = 2^(e - 8), e the exponent of amax after its mantissa was rounded to one bit, upward from a half
// Rounding is to nearest, ties to even. Dynamic: scale of a token, or of a group of its channels. Static: from the checkpoint.

#include <cstdint>

namespace overproof {

struct ActivationRounding {
  enum class Type : uint8_t { int8, fp8 };
  Type type = Type::int8;
  bool symmetric = true;      ///< of dynamic int8
  bool power_of_two = false;  ///< dynamic fp8 with E8M0 scales (OCP MX)
  int64_t group = 0;          ///< channels that share a dynamic scale; 0: all of a token. A last group may be shorter
  bool is_static = false;     ///< then all tokens and channels share `scale` and `zero_point`
  float scale = 1.0f;
  float zero_point = 0.0f;
  bool operator==(const ActivationRounding&) const = default;

  /// x [rows, columns], row after row, in place. Each row depends on itself alone. NaN stays NaN.
  void apply(float* x, int64_t rows, int64_t columns) const;
};

}  // namespace overproof
