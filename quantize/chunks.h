#pragma once
// A plan cut into chunks: what is read, converted and written as a whole.

#include <cstdint>
#include <vector>

#include "quantize/plan.h"

namespace overproof {

/// Rows of one tensor within a chunk.
struct RowTask {
  enum class Kind {
    copy,     ///< the stored bytes are the output's
    convert,  ///< decode, encode in another dtype
    quantise,
    find_amax,  ///< the first of two looks at a weight whose scheme needs to know its largest magnitude
  };
  Kind kind = Kind::convert;
  size_t item = 0;                  ///< of the plan
  int64_t first_row = 0, rows = 0;  ///< multiples of item_grain() but at the tensor's end; not for copies
  int64_t stored_at = 0;            ///< in the file
  int64_t stored_bytes = 0;
  int64_t out_bytes = 0;  ///< of the first output
  bool last = false;      ///< the item is complete with it
};

struct Chunk {
  int file = -1;               ///< of TensorSource::files(); -1: the tasks ask the source for their rows
  int64_t begin = 0, end = 0;  ///< bytes of the file
  bool digest = false;         ///< they are the next ones of that file's digest; such chunks cover each file once, in order
  int64_t out_bytes = 0;
  std::vector<RowTask> tasks;
};

/// Whether the bytes of the file are those of the tensor in its dtype. (For f32, decoding is copying; it also is the dtype
/// that quantised storage reports.)
bool is_plain(const TensorInfo& info, const RowExtent& extent);
/// Whether calibration multiplies the tensor before it is quantised or kept.
bool is_scaled(const Plan& plan, const PlanItem& item);

/// Rows of an item that are worked on at a time: about 128 KiB of f32, whole blocks of scheme and storage. Error sums are added
/// up by grain, so that no other size shows in them.
int64_t item_grain(const PlanItem& item, int64_t stored_row_unit);

/// Cuts the items from `first_item` on; earlier ones are digested only. Chunks have about `block_bytes` at most on either
/// side: more only for a grain that is larger, and for a weight that fits into kOneLook and so needs no second look.
/// Items that stand in the files in another order than in the plan: then digests come first, in a pass of their own.
/// Throws FormatError when a file is shorter than its tensors or a tensor cannot be kept.
std::vector<Chunk> cut_into_chunks(const Plan& plan, const Checkpoint& model, const std::vector<int64_t>& file_sizes,
                                   size_t first_item, int64_t block_bytes);
inline constexpr int64_t kOneLook = int64_t{24} << 20;

}  // namespace overproof
