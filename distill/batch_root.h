#pragma once
// Inside distill/ only: the batch root of a step (training_run.h says what is in it).

#include <cstdint>
#include <span>
#include <vector>

#include "core/digest.h"

namespace overproof {

class BatchRoot {
 public:
  BatchRoot() { hash_.update("overproof batch v1"); }
  /// `ids` are the window's inputs and labels together; `taught` is zeros where no rows were stored.
  void add(int64_t window, std::span<const int64_t> ids, const Digest& taught) {
    uint8_t number[8];
    for (int i = 0; i < 8; ++i) number[i] = uint8_t(uint64_t(window) >> (8 * i));
    hash_.update(number, sizeof number);
    narrow_.assign(ids.begin(), ids.end());  // ids are below 2^31 and little-endian here
    const Digest tokens = sha256(std::span(reinterpret_cast<const uint8_t*>(narrow_.data()), narrow_.size() * sizeof(int32_t)));
    hash_.update(tokens.bytes.data(), tokens.bytes.size());
    hash_.update(taught.bytes.data(), taught.bytes.size());
  }
  Digest finish() { return hash_.finish(); }

 private:
  Sha256 hash_;
  std::vector<int32_t> narrow_;
};

}  // namespace overproof
