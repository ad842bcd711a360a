#include "formats/compressed_tensors.h"

#include <algorithm>

#include "core/error.h"

namespace overproof {

void pack_int8_row(std::span<const int8_t> q, std::span<uint8_t> out) {
  OVERPROOF_CHECK(int64_t(out.size()) == packed_int8_row_bytes(int64_t(q.size())));
  for (size_t i = 0; i < q.size(); ++i) out[i] = uint8_t(q[i]) ^ 0x80u;  // q + 128
  std::fill(out.begin() + int64_t(q.size()), out.end(), uint8_t{0});
}

void unpack_int8_row(std::span<const uint8_t> packed, std::span<int8_t> out) {
  OVERPROOF_CHECK(int64_t(packed.size()) == packed_int8_row_bytes(int64_t(out.size())));
  for (size_t i = 0; i < out.size(); ++i) out[i] = int8_t(packed[i] ^ 0x80u);
}

}  // namespace overproof
