#pragma once
// SHA-256 of input files, computed while they are streamed, and compared with the journal of an earlier run on the way.

#include <atomic>
#include <mutex>
#include <span>
#include <vector>

#include "core/digest.h"
#include "core/hash_lanes.h"
#include "quantize/engine/journal.h"

namespace overproof {

class InputDigests {
 public:
  /// `expected`: the marks of an earlier run's journal. `lanes` outlives this.
  InputDigests(size_t files, std::vector<InputMark> expected, HashLanes& lanes);

  /// The next bytes of a file. One thread at a time.
  void update(size_t file, std::span<const uint8_t> bytes);

  // Thread-safe:
  /// True once a file differs from an expected mark.
  bool mismatch() const { return mismatch_; }
  /// One mark for each file of which bytes were read so far.
  std::vector<InputMark> marks();

  // After the last update:
  bool all_expected_met() const { return !mismatch_ && met_ == expected_.size(); }
  int64_t bytes(size_t file) const { return files_[file].bytes; }
  Digest finish(size_t file) { return files_[file].hash.finish(); }

 private:
  struct File {
    Sha256 hash;
    int64_t bytes = 0;
  };
  const std::vector<InputMark> expected_;
  HashLanes& lanes_;
  std::mutex mutex_;
  std::vector<File> files_;
  size_t met_ = 0;
  std::atomic<bool> mismatch_ = false;
};

}  // namespace overproof
