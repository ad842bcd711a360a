#pragma once
// Streams a checkpoint through its plan: reading, decoding and quantising, digesting and writing at the same time, in one pass
// over the disk. Memory is a handful of chunks whatever the model's size; output bytes depend on plan and input alone, never on
// threads, chunk size or processor.
//
//   reader --> ring of chunks --> digester (input, in order)      --> file records
//                            \--> workers (any order) --> writer (in order): sink, error sums, journal
//
// The writer is the calling thread. An error in any thread reaches it in the order of chunks, so that the same fault is reported
// whoever met it first; then all threads end.

#include <cstdint>
#include <vector>

#include "core/stage.h"
#include "formats/tensor_sink.h"
#include "quantize/plan.h"

namespace overproof {

class GpuSession;

struct EngineOptions {
  int64_t block_bytes = kDefaultBlockBytes;       ///< about what one chunk has on either side
  int64_t checkpoint_bytes = int64_t{512} << 20;  ///< of output between two entries of the journal
  GpuSession* gpu = nullptr;                      ///< quantises what its kernels cover; null: the CPU does all
  const char* label = "quantize";                 ///< of the progress bar
  static constexpr int64_t kDefaultBlockBytes = int64_t{8} << 20;
};

struct EngineResult {
  std::vector<RowError> errors;    ///< beside plan.items; zero for what was kept
  std::vector<FileRecord> inputs;  ///< beside TensorSource::files(); names are paths
  int64_t bytes_read = 0;          ///< of input files, looks for amax included
  size_t resumed_items = 0;        ///< of the plan, taken over from an earlier run
  int64_t by_gpu = 0;              ///< weights that a GPU quantised in this run
  bool direct = false;             ///< every file was read past the page cache
};

/// Writes the plan's outputs through a sink into `out`. The journal and the partial output stand in `scratch` until then; a run
/// that finds them there goes on, if input and output still are what they were, and ends with the same bytes. Throws
/// FormatError naming tensor and row of an infinity or NaN, or the file that changed while it was read; UsageError naming those
/// of a value that F16 cannot hold; IoError; Interrupted.
EngineResult run_engine(const Plan& plan, const Checkpoint& model, const SinkMaker& make_sink, OutputFolder& out,
                        const fs::path& scratch, const EngineOptions& options);

/// Notes the digests of the files that the engine read whole (Inputs::note_digest), named relative to the model.
void note_digests(const Inputs& inputs, const std::string& slot, const Checkpoint& model, const EngineResult& made);

}  // namespace overproof
