#pragma once
// Rotary position embeddings (Su et al. 2021), halves of a head paired as in GPT-NeoX. linear.h explains the three namespaces.

#include <ATen/core/Tensor.h>

namespace overproof::ops {

/// Cosines and sines of the angles of positions first, first + 1, ...; [length, head_dim / 2] each.
struct RotaryAngles {
  at::Tensor cos, sin;
};

/// inverse_frequencies [head_dim / 2], radians per position; the angles are on its device and of its type.
RotaryAngles rotary_angles(const at::Tensor& inverse_frequencies, int64_t first, int64_t length);

/// Turns the pair (i, i + dim / 2) of each head by the angle of its row's position. x [n, heads, dim], n a multiple of the
/// length of the angles: row r is at position r % length. The CPU form saves nothing of x.
at::Tensor rotate_positions(const at::Tensor& x, const RotaryAngles& angles);

namespace cpu {
decltype(ops::rotate_positions) rotate_positions;
}
namespace aten {
decltype(ops::rotate_positions) rotate_positions;
}

}  // namespace overproof::ops
