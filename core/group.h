#pragma once
// The processes that compute together. One process by default; implementations for several are opened at run time.
// Every rank calls the same operations in the same order.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace overproof {

class Group {
 public:
  virtual ~Group() = default;
  virtual int64_t rank() const = 0;  ///< of this process, in [0, size)
  virtual int64_t size() const = 0;

  /// Replaces `values` on every rank by the sums over all ranks. Terms are added in the order of ranks, so the result does not
  /// depend on timing, only on size().
  virtual void all_reduce(std::span<float> values) const = 0;
  virtual void all_reduce(std::span<double> values) const = 0;
  virtual void all_reduce(std::span<int64_t> values) const = 0;

  /// Sends to_rank[r] to rank r; returns what each rank sent here, in the order of ranks. to_rank.size() == size().
  virtual std::vector<std::vector<std::byte>> all_to_all(const std::vector<std::vector<std::byte>>& to_rank) const = 0;

  /// Replaces `bytes` on every rank by those of `root`. The length is the same on every rank.
  virtual void broadcast(std::span<std::byte> bytes, int64_t root) const = 0;
};

/// One process: rank 0 of 1.
std::unique_ptr<Group> single_process_group();

}  // namespace overproof
