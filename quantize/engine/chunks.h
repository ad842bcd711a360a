#pragma once
// Cuts a plan into chunks: byte ranges of input files that are read, converted and written as a whole.

#include <cstdint>
#include <vector>

#include "quantize/engine/plan.h"

namespace overproof {

/// Rows of one tensor within a chunk.
struct RowTask {
  enum class Kind {
    copy,     ///< the output has the stored bytes
    convert,  ///< decode, and encode in another dtype
    quantize,
    find_amax,  ///< first pass over a weight whose scheme needs its largest magnitude
  };
  Kind kind = Kind::convert;
  size_t item = 0;                  ///< of the plan
  int64_t first_row = 0, rows = 0;  ///< multiples of item_grain(), except at the tensor's end; unused for copies
  int64_t stored_at = 0;            ///< offset in the file
  int64_t stored_bytes = 0;
  int64_t out_bytes = 0;  ///< of the first output
  bool last = false;      ///< the item is complete after this task
};

struct Chunk {
  int file = -1;               ///< of TensorSource::files(); -1: the tasks read their rows from the source
  int64_t begin = 0, end = 0;  ///< bytes of the file
  bool digest = false;         ///< these bytes are the next ones to digest; such chunks cover each file once, in order
  int64_t out_bytes = 0;
  std::vector<RowTask> tasks;
};

/// Whether the file stores the tensor's elements in its dtype. (False for f32: decoding it is copying, and quantized storage
/// reports this dtype too.)
bool is_plain(const TensorInfo& info, const RowExtent& extent);
/// Whether calibration multiplies the tensor before it is quantized or kept.
bool is_scaled(const Plan& plan, const PlanItem& item);

/// Rows of an item that are converted at once: about 128 KiB of f32, in whole blocks of scheme and storage. Errors are summed by
/// grain, so that the sums do not depend on the size of chunks.
int64_t item_grain(const PlanItem& item, int64_t stored_row_unit);

/// Cuts the items from `first_item` on; the bytes of earlier ones are digested only. A chunk has at most about `block_bytes` of
/// input and of output; more for a single grain that is larger, and for a weight of at most kOnePassBytes whose amax is needed,
/// so that it is read once. When the files store items in another order than the plan, the digests get a pass of their own at the
/// beginning. Throws FormatError when a file is shorter than its tensors, or a kept tensor has a dtype that is not one of weights.
std::vector<Chunk> cut_into_chunks(const Plan& plan, const Checkpoint& model, const std::vector<int64_t>& file_sizes,
                                   size_t first_item, int64_t block_bytes);
inline constexpr int64_t kOnePassBytes = int64_t{24} << 20;

}  // namespace overproof
