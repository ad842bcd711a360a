#include "formats/ggml_blocks.h"

#include <cstring>

#include "core/error.h"
#include "core/float_bits.h"
#include "formats/tensor_source.h"

namespace overproof {
namespace {

constexpr int kSmall = 32;   // values in a block of the first generation
constexpr int kSuper = 256;  // values in a super-block of the K types

// All members are bytes or 16-bit words, so there is no padding; `half` is an f16 as bits.
using half = uint16_t;

struct Q4_0 {  // value = d * (q - 8)
  half d;
  uint8_t q[kSmall / 2];
  void values(float* out) const;
};
struct Q4_1 {  // value = d * q + m
  half d, m;
  uint8_t q[kSmall / 2];
  void values(float* out) const;
};
struct Q5_0 {  // value = d * (q - 16); the fifth bits are in `high`
  half d;
  uint8_t high[4];
  uint8_t q[kSmall / 2];
  void values(float* out) const;
};
struct Q5_1 {  // value = d * q + m
  half d, m;
  uint8_t high[4];
  uint8_t q[kSmall / 2];
  void values(float* out) const;
};
struct Q8_0 {  // value = d * q
  half d;
  int8_t q[kSmall];
  void values(float* out) const;
};
struct Q4_K {  // eight sub-blocks of 32: value = d * scale * q - dmin * minimum
  half d, dmin;
  uint8_t scales[12];
  uint8_t q[kSuper / 2];
  void values(float* out) const;
};
struct Q5_K {
  half d, dmin;
  uint8_t scales[12];
  uint8_t high[kSuper / 8];
  uint8_t q[kSuper / 2];
  void values(float* out) const;
};
struct Q6_K {  // sixteen sub-blocks of 16: value = d * scale * (q - 32)
  uint8_t low[kSuper / 2];
  uint8_t high[kSuper / 4];
  int8_t scales[kSuper / 16];
  half d;
  void values(float* out) const;
};
static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 && sizeof(Q5_1) == 24 && sizeof(Q8_0) == 34);
static_assert(sizeof(Q4_K) == 144 && sizeof(Q5_K) == 176 && sizeof(Q6_K) == 210);

/// Bit `i` of 32 little-endian bits, moved to the place of a fifth bit.
int fifth_bit(const uint8_t (&high)[4], int i) { return ((high[i / 8] >> (i % 8)) & 1) << 4; }

void Q4_0::values(float* out) const {
  const float scale = f16_to_f32(d);
  for (int i = 0; i < kSmall / 2; ++i) {
    out[i] = scale * float((q[i] & 15) - 8);
    out[i + kSmall / 2] = scale * float((q[i] >> 4) - 8);
  }
}

void Q4_1::values(float* out) const {
  const float scale = f16_to_f32(d), minimum = f16_to_f32(m);
  for (int i = 0; i < kSmall / 2; ++i) {
    out[i] = scale * float(q[i] & 15) + minimum;
    out[i + kSmall / 2] = scale * float(q[i] >> 4) + minimum;
  }
}

void Q5_0::values(float* out) const {
  const float scale = f16_to_f32(d);
  for (int i = 0; i < kSmall / 2; ++i) {
    out[i] = scale * float(((q[i] & 15) | fifth_bit(high, i)) - 16);
    out[i + kSmall / 2] = scale * float(((q[i] >> 4) | fifth_bit(high, i + kSmall / 2)) - 16);
  }
}

void Q5_1::values(float* out) const {
  const float scale = f16_to_f32(d), minimum = f16_to_f32(m);
  for (int i = 0; i < kSmall / 2; ++i) {
    out[i] = scale * float((q[i] & 15) | fifth_bit(high, i)) + minimum;
    out[i + kSmall / 2] = scale * float((q[i] >> 4) | fifth_bit(high, i + kSmall / 2)) + minimum;
  }
}

void Q8_0::values(float* out) const {
  const float scale = f16_to_f32(d);
  for (int i = 0; i < kSmall; ++i) out[i] = float(q[i]) * scale;
}

/// The eight 6-bit scales and minima of Q4_K and Q5_K, packed into 12 bytes: those of sub-blocks 0-3 in the low six bits of
/// bytes 0-3 and 4-7; those of 4-7 as nibbles in bytes 8-11 with their top two bits in the top of bytes 0-7.
struct SubBlock {
  int scale, minimum;
};
SubBlock sub_block(const uint8_t (&s)[12], int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4)};
}

void Q4_K::values(float* out) const {
  const float all_scale = f16_to_f32(d), all_minimum = f16_to_f32(dmin);
  for (int j = 0; j < 8; ++j) {
    const SubBlock sub = sub_block(scales, j);
    const float scale = all_scale * float(sub.scale), minimum = all_minimum * float(sub.minimum);
    const uint8_t* nibbles = q + j / 2 * 32;  // two sub-blocks share 32 bytes: low nibbles, then high
    for (int i = 0; i < 32; ++i) out[32 * j + i] = scale * float((nibbles[i] >> (j % 2 * 4)) & 15) - minimum;
  }
}

void Q5_K::values(float* out) const {
  const float all_scale = f16_to_f32(d), all_minimum = f16_to_f32(dmin);
  for (int j = 0; j < 8; ++j) {
    const SubBlock sub = sub_block(scales, j);
    const float scale = all_scale * float(sub.scale), minimum = all_minimum * float(sub.minimum);
    const uint8_t* nibbles = q + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int value = ((nibbles[i] >> (j % 2 * 4)) & 15) | (((high[i] >> j) & 1) << 4);
      out[32 * j + i] = scale * float(value) - minimum;
    }
  }
}

void Q6_K::values(float* out) const {
  const float all_scale = f16_to_f32(d);
  for (int i = 0; i < kSuper; ++i) {
    const int part = i / 128, within = i % 128;  // each half has its own 64 low and 32 high bytes
    const int four = (low[part * 64 + within % 64] >> (within / 64 * 4)) & 15;
    const int two = (high[part * 32 + within % 32] >> (within / 32 * 2)) & 3;
    out[i] = all_scale * float(scales[i / 16]) * float((four | (two << 4)) - 32);
  }
}

template <class Block>
void blocks_to_f32(const uint8_t* from, std::span<float> out, size_t block_values) {
  for (size_t i = 0; i < out.size(); i += block_values, from += sizeof(Block)) {
    Block block;
    std::memcpy(&block, from, sizeof block);  // blocks of 18 or 34 bytes are not aligned
    block.values(&out[i]);
  }
}

}  // namespace

std::optional<GgmlLayout> ggml_layout(uint32_t type) {
  switch (GgmlType(type)) {
    case GgmlType::f32:
      return GgmlLayout{"F32", 1, 4};
    case GgmlType::f16:
      return GgmlLayout{"F16", 1, 2};
    case GgmlType::bf16:
      return GgmlLayout{"BF16", 1, 2};
    case GgmlType::q4_0:
      return GgmlLayout{"Q4_0", kSmall, sizeof(Q4_0)};
    case GgmlType::q4_1:
      return GgmlLayout{"Q4_1", kSmall, sizeof(Q4_1)};
    case GgmlType::q5_0:
      return GgmlLayout{"Q5_0", kSmall, sizeof(Q5_0)};
    case GgmlType::q5_1:
      return GgmlLayout{"Q5_1", kSmall, sizeof(Q5_1)};
    case GgmlType::q8_0:
      return GgmlLayout{"Q8_0", kSmall, sizeof(Q8_0)};
    case GgmlType::q4_k:
      return GgmlLayout{"Q4_K", kSuper, sizeof(Q4_K)};
    case GgmlType::q5_k:
      return GgmlLayout{"Q5_K", kSuper, sizeof(Q5_K)};
    case GgmlType::q6_k:
      return GgmlLayout{"Q6_K", kSuper, sizeof(Q6_K)};
  }
  return std::nullopt;
}

GgmlLayout ggml_layout(GgmlType type) {
  const auto layout = ggml_layout(uint32_t(type));
  OVERPROOF_CHECK(layout.has_value());
  return *layout;
}

void ggml_to_f32(GgmlType type, const uint8_t* blocks, std::span<float> out) {
  OVERPROOF_CHECK(int64_t(out.size()) % ggml_layout(type).block_values == 0);
  switch (type) {
    case GgmlType::f32:
      return elements_to_f32(DType::f32, blocks, out);
    case GgmlType::f16:
      return elements_to_f32(DType::f16, blocks, out);
    case GgmlType::bf16:
      return elements_to_f32(DType::bf16, blocks, out);
    case GgmlType::q4_0:
      return blocks_to_f32<Q4_0>(blocks, out, kSmall);
    case GgmlType::q4_1:
      return blocks_to_f32<Q4_1>(blocks, out, kSmall);
    case GgmlType::q5_0:
      return blocks_to_f32<Q5_0>(blocks, out, kSmall);
    case GgmlType::q5_1:
      return blocks_to_f32<Q5_1>(blocks, out, kSmall);
    case GgmlType::q8_0:
      return blocks_to_f32<Q8_0>(blocks, out, kSmall);
    case GgmlType::q4_k:
      return blocks_to_f32<Q4_K>(blocks, out, kSuper);
    case GgmlType::q5_k:
      return blocks_to_f32<Q5_K>(blocks, out, kSuper);
    case GgmlType::q6_k:
      return blocks_to_f32<Q6_K>(blocks, out, kSuper);
  }
}

}  // namespace overproof
