#pragma once
// One set of hashing lanes for several threads: whoever comes while another hashes joins in, and costs next to nothing.

#include <condition_variable>
#include <mutex>
#include <vector>

#include "core/digest.h"

namespace overproof {

class HashLanes {
 public:
  /// hash.update(data, bytes). Of the threads in here, one hashes for all and the others sleep until theirs is done; so each
  /// hash must be in the hands of one thread at a time, as ever.
  void update(Sha256& hash, const void* data, size_t bytes);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<HashJob*> waiting_;  // a job is done when no bytes of it are left
  bool led_ = false;
};

}  // namespace overproof
