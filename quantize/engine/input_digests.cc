#include "quantize/engine/input_digests.h"

#include <algorithm>

namespace overproof {

InputDigests::InputDigests(size_t files, std::vector<InputMark> expected, HashLanes& lanes)
    : expected_(std::move(expected)), lanes_(lanes), files_(files) {}

void InputDigests::update(size_t file, std::span<const uint8_t> bytes) {
  const std::lock_guard lock(mutex_);
  File& f = files_[file];
  const auto mark = std::ranges::find(expected_, int(file), &InputMark::file);
  if (mark != expected_.end() && f.bytes < mark->bytes && mark->bytes <= f.bytes + int64_t(bytes.size())) {
    const size_t before = size_t(mark->bytes - f.bytes);
    lanes_.update(f.hash, bytes.data(), before);
    f.bytes = mark->bytes;
    bytes = bytes.subspan(before);
    ++met_;
    if (f.hash.so_far() != mark->digest) mismatch_ = true;
  }
  lanes_.update(f.hash, bytes.data(), bytes.size());
  f.bytes += int64_t(bytes.size());
}

std::vector<InputMark> InputDigests::marks() {
  const std::lock_guard lock(mutex_);
  std::vector<InputMark> marks;
  for (size_t f = 0; f < files_.size(); ++f)
    if (files_[f].bytes > 0) marks.push_back({int(f), files_[f].bytes, files_[f].hash.so_far()});
  return marks;
}

}  // namespace overproof
