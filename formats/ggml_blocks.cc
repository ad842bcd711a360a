#include "formats/ggml_blocks.h"

#include <cstring>
#include <type_traits>

#include "core/error.h"
#include "core/float_bits.h"
#include "formats/tensor_source.h"

namespace overproof {
namespace {

constexpr int kSmall = 32;   // values in a block of the first generation
constexpr int kSuper = 256;  // values in a super-block of the K types

// All members are bytes or 16-bit words, so there is no padding; `half` is an f16 as bits. Each type names the values that share a
// scale, and takes itself apart: the codes of a block, and the factors of its parts.
using half = uint16_t;

struct Q4_0 {  // value = d * (q - 8)
  static constexpr int kValues = kSmall, kPart = kSmall;
  static constexpr bool kOffsets = false;
  half d;
  uint8_t q[kSmall / 2];
  void codes(int8_t* out) const;
  void factors(float* scale, float*) const { *scale = f16_to_f32(d); }
};
struct Q4_1 {  // value = d * q + m
  static constexpr int kValues = kSmall, kPart = kSmall;
  static constexpr bool kOffsets = true;
  half d, m;
  uint8_t q[kSmall / 2];
  void codes(int8_t* out) const;
  void factors(float* scale, float* offset) const { *scale = f16_to_f32(d), *offset = f16_to_f32(m); }
};
struct Q5_0 {  // value = d * (q - 16); the fifth bits are in `high`
  static constexpr int kValues = kSmall, kPart = kSmall;
  static constexpr bool kOffsets = false;
  half d;
  uint8_t high[4];
  uint8_t q[kSmall / 2];
  void codes(int8_t* out) const;
  void factors(float* scale, float*) const { *scale = f16_to_f32(d); }
};
struct Q5_1 {  // value = d * q + m
  static constexpr int kValues = kSmall, kPart = kSmall;
  static constexpr bool kOffsets = true;
  half d, m;
  uint8_t high[4];
  uint8_t q[kSmall / 2];
  void codes(int8_t* out) const;
  void factors(float* scale, float* offset) const { *scale = f16_to_f32(d), *offset = f16_to_f32(m); }
};
struct Q8_0 {  // value = d * q
  static constexpr int kValues = kSmall, kPart = kSmall;
  static constexpr bool kOffsets = false;
  half d;
  int8_t q[kSmall];
  void codes(int8_t* out) const { std::memcpy(out, q, sizeof q); }
  void factors(float* scale, float*) const { *scale = f16_to_f32(d); }
};
struct Q4_K {  // eight sub-blocks of 32: value = d * scale * q - dmin * minimum
  static constexpr int kValues = kSuper, kPart = 32;
  static constexpr bool kOffsets = true;
  half d, dmin;
  uint8_t scales[12];
  uint8_t q[kSuper / 2];
  void codes(int8_t* out) const;
  void factors(float* scale, float* offset) const;
};
struct Q5_K {
  static constexpr int kValues = kSuper, kPart = 32;
  static constexpr bool kOffsets = true;
  half d, dmin;
  uint8_t scales[12];
  uint8_t high[kSuper / 8];
  uint8_t q[kSuper / 2];
  void codes(int8_t* out) const;
  void factors(float* scale, float* offset) const;
};
struct Q6_K {  // sixteen sub-blocks of 16: value = d * scale * (q - 32)
  static constexpr int kValues = kSuper, kPart = 16;
  static constexpr bool kOffsets = false;
  uint8_t low[kSuper / 2];
  uint8_t high[kSuper / 4];
  int8_t scales[kSuper / 16];
  half d;
  void codes(int8_t* out) const;
  void factors(float* scale, float*) const {
    for (int j = 0; j < kSuper / kPart; ++j) scale[j] = f16_to_f32(d) * float(scales[j]);
  }
};
static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 && sizeof(Q5_1) == 24 && sizeof(Q8_0) == 34);
static_assert(sizeof(Q4_K) == 144 && sizeof(Q5_K) == 176 && sizeof(Q6_K) == 210);

/// Bit `i` of 32 little-endian bits, moved to the place of a fifth bit.
int fifth_bit(const uint8_t (&high)[4], int i) { return ((high[i / 8] >> (i % 8)) & 1) << 4; }

void nibble_codes(const uint8_t (&q)[kSmall / 2], int zero, int8_t* out) {
  for (int i = 0; i < kSmall / 2; ++i) {
    out[i] = int8_t((q[i] & 15) - zero);
    out[i + kSmall / 2] = int8_t((q[i] >> 4) - zero);
  }
}

void five_bit_codes(const uint8_t (&q)[kSmall / 2], const uint8_t (&high)[4], int zero, int8_t* out) {
  for (int i = 0; i < kSmall / 2; ++i) {
    out[i] = int8_t(((q[i] & 15) | fifth_bit(high, i)) - zero);
    out[i + kSmall / 2] = int8_t(((q[i] >> 4) | fifth_bit(high, i + kSmall / 2)) - zero);
  }
}

void Q4_0::codes(int8_t* out) const { nibble_codes(q, 8, out); }
void Q4_1::codes(int8_t* out) const { nibble_codes(q, 0, out); }
void Q5_0::codes(int8_t* out) const { five_bit_codes(q, high, 16, out); }
void Q5_1::codes(int8_t* out) const { five_bit_codes(q, high, 0, out); }

/// The eight 6-bit scales and minima of Q4_K and Q5_K, packed into 12 bytes: those of sub-blocks 0-3 in the low six bits of
/// bytes 0-3 and 4-7; those of 4-7 as nibbles in bytes 8-11 with their top two bits in the top of bytes 0-7.
struct SubBlock {
  int scale, minimum;
};
SubBlock sub_block(const uint8_t (&s)[12], int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4)};
}

void sub_block_factors(half d, half dmin, const uint8_t (&scales)[12], float* scale, float* offset) {
  const float all_scale = f16_to_f32(d), all_minimum = f16_to_f32(dmin);
  for (int j = 0; j < 8; ++j) {
    const SubBlock sub = sub_block(scales, j);
    scale[j] = all_scale * float(sub.scale);
    offset[j] = -(all_minimum * float(sub.minimum));
  }
}

void Q4_K::factors(float* scale, float* offset) const { sub_block_factors(d, dmin, scales, scale, offset); }
void Q5_K::factors(float* scale, float* offset) const { sub_block_factors(d, dmin, scales, scale, offset); }

void Q4_K::codes(int8_t* out) const {
  for (int j = 0; j < 8; ++j) {
    const uint8_t* nibbles = q + j / 2 * 32;  // two sub-blocks share 32 bytes: low nibbles, then high
    for (int i = 0; i < 32; ++i) out[32 * j + i] = int8_t((nibbles[i] >> (j % 2 * 4)) & 15);
  }
}

void Q5_K::codes(int8_t* out) const {
  for (int j = 0; j < 8; ++j) {
    const uint8_t* nibbles = q + j / 2 * 32;
    for (int i = 0; i < 32; ++i)
      out[32 * j + i] = int8_t(((nibbles[i] >> (j % 2 * 4)) & 15) | (((high[i] >> j) & 1) << 4));
  }
}

void Q6_K::codes(int8_t* out) const {
  for (int i = 0; i < kSuper; ++i) {
    const int part = i / 128, within = i % 128;  // each half has its own 64 low and 32 high bytes
    const int four = (low[part * 64 + within % 64] >> (within / 64 * 4)) & 15;
    const int two = (high[part * 32 + within % 32] >> (within / 32 * 2)) & 3;
    out[i] = int8_t((four | (two << 4)) - 32);
  }
}

template <class Block>
void blocks_to_codes(const uint8_t* from, const CodeRows& out) {
  constexpr int kParts = Block::kValues / Block::kPart;
  OVERPROOF_CHECK(out.scales.size() * Block::kPart == out.codes.size());
  OVERPROOF_CHECK(out.offsets.size() == (Block::kOffsets ? out.scales.size() : 0));
  for (size_t i = 0; i * Block::kValues < out.codes.size(); ++i, from += sizeof(Block)) {
    Block block;
    std::memcpy(&block, from, sizeof block);  // blocks of 18 or 34 bytes are not aligned
    block.codes(&out.codes[i * Block::kValues]);
    block.factors(&out.scales[i * kParts], Block::kOffsets ? &out.offsets[i * kParts] : nullptr);
  }
}

template <class Block>
void blocks_to_f32(const uint8_t* from, std::span<float> out) {
  constexpr int kParts = Block::kValues / Block::kPart;
  int8_t codes[Block::kValues];
  float scales[kParts], offsets[kParts] = {};
  for (size_t i = 0; i < out.size(); i += Block::kValues, from += sizeof(Block)) {
    Block block;
    std::memcpy(&block, from, sizeof block);
    block.codes(codes);
    block.factors(scales, offsets);
    for (int j = 0; j < kParts; ++j) {
      float* to = &out[i] + j * Block::kPart;
      const int8_t* code = codes + j * Block::kPart;
      for (int k = 0; k < Block::kPart; ++k) {
        to[k] = float(code[k]) * scales[j];
        if constexpr (Block::kOffsets) to[k] += offsets[j];
      }
    }
  }
}

/// `work(Block())` for the block of a quantised type; false for the others.
template <class Work>
bool with_block(GgmlType type, const Work& work) {
  switch (type) {
    case GgmlType::f32:
    case GgmlType::f16:
    case GgmlType::bf16:
      return false;
    case GgmlType::q4_0:
      work(Q4_0());
      return true;
    case GgmlType::q4_1:
      work(Q4_1());
      return true;
    case GgmlType::q5_0:
      work(Q5_0());
      return true;
    case GgmlType::q5_1:
      work(Q5_1());
      return true;
    case GgmlType::q8_0:
      work(Q8_0());
      return true;
    case GgmlType::q4_k:
      work(Q4_K());
      return true;
    case GgmlType::q5_k:
      work(Q5_K());
      return true;
    case GgmlType::q6_k:
      work(Q6_K());
      return true;
  }
  return false;
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

std::optional<CodeLayout> ggml_code_layout(GgmlType type) {
  std::optional<CodeLayout> layout;
  with_block(type, [&](const auto& block) { layout = CodeLayout{block.kPart, block.kOffsets}; });
  return layout;
}

void ggml_to_codes(GgmlType type, const uint8_t* blocks, const CodeRows& out) {
  OVERPROOF_CHECK(int64_t(out.codes.size()) % ggml_layout(type).block_values == 0);
  OVERPROOF_CHECK(with_block(type, [&](const auto& block) { blocks_to_codes<std::decay_t<decltype(block)>>(blocks, out); }));
}

void ggml_to_f32(GgmlType type, const uint8_t* blocks, std::span<float> out) {
  OVERPROOF_CHECK(int64_t(out.size()) % ggml_layout(type).block_values == 0);
  if (with_block(type, [&](const auto& block) { blocks_to_f32<std::decay_t<decltype(block)>>(blocks, out); })) return;
  const DType dtype = type == GgmlType::f32 ? DType::f32 : type == GgmlType::f16 ? DType::f16 : DType::bf16;
  elements_to_f32(dtype, blocks, out);
}

}  // namespace overproof
