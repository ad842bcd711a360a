#include "core/hash_lanes.h"

#include <algorithm>

#include "core/sha256_ni.h"

namespace overproof {
namespace {
/// After this many bytes of each message the hashing thread looks for new jobs.
constexpr size_t kSlice = size_t{64} << 10;
}  // namespace

void HashLanes::update(Sha256& hash, const void* data, size_t bytes) {
  if (bytes == 0) return;
  HashJob mine{&hash, static_cast<const uint8_t*>(data), bytes};
  std::unique_lock lock(mutex_);
  waiting_.push_back(&mine);
  changed_.wait(lock, [&] { return mine.bytes == 0 || !led_; });
  if (mine.bytes == 0) return;
  led_ = true;
  while (mine.bytes > 0) {
    HashJob* taken[kSha256Lanes];
    HashJob slices[kSha256Lanes];
    // Its own job first: no thread hashes for others longer than its own bytes take.
    size_t n = 0;
    taken[n++] = &mine;
    for (HashJob* job : waiting_)
      if (job != &mine && n < kSha256Lanes) taken[n++] = job;
    for (size_t i = 0; i < n; ++i) slices[i] = {taken[i]->hash, taken[i]->data, std::min(taken[i]->bytes, kSlice)};
    lock.unlock();
    update_together({slices, n});
    lock.lock();
    bool someone_done = false;
    for (size_t i = 0; i < n; ++i) {
      taken[i]->data += slices[i].bytes;
      taken[i]->bytes -= slices[i].bytes;
      if (taken[i]->bytes > 0) continue;
      std::erase(waiting_, taken[i]);
      someone_done |= taken[i] != &mine;
    }
    if (someone_done) changed_.notify_all();
  }
  led_ = false;
  if (!waiting_.empty()) changed_.notify_all();
}

}  // namespace overproof
