#pragma once
// One set of hashing lanes for several threads: a thread that arrives while another one hashes hands its bytes to it, which costs
// almost no extra time.

#include <condition_variable>
#include <mutex>
#include <vector>

#include "core/digest.h"

namespace overproof {

class HashLanes {
 public:
  /// hash.update(data, bytes). Of the threads in this call, one hashes for all and the others sleep until their bytes are done.
  /// A hash may be used by one thread at a time.
  void update(Sha256& hash, const void* data, size_t bytes);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<HashJob*> waiting_;  // a job is done when no bytes of it are left
  bool led_ = false;
};

}  // namespace overproof
