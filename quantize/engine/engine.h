#pragma once
// Streams a checkpoint through its plan: reads, decodes, quantizes, digests and writes at the same time, in one pass over the
// disk. Memory is a few chunks, whatever the size of the model; output bytes depend on plan and input only, not on threads,
// chunk size or processor.
//
//   reader --> ring of chunks --> digester (input, in order)      --> file records
//                            \--> workers (any order) --> writer (in order): sink, error sums, journal
//
// The writer is the calling thread. It receives errors of other threads in the order of chunks, so that of several faults
// always the same one is reported; then all threads end.

#include <cstdint>
#include <vector>

#include "core/stage.h"
#include "formats/tensor_sink.h"
#include "quantize/engine/plan.h"

namespace overproof {

class GpuSession;

struct EngineOptions {
  int64_t block_bytes = kDefaultBlockBytes;       ///< approximate size of a chunk, of input and of output
  int64_t checkpoint_bytes = int64_t{512} << 20;  ///< of output between two journal entries
  GpuSession* gpu = nullptr;                      ///< quantizes the schemes that have kernels; null: the CPU only
  const char* label = "quantize";                 ///< of the progress bar
  static constexpr int64_t kDefaultBlockBytes = int64_t{8} << 20;
};

struct EngineResult {
  std::vector<RowError> errors;    ///< parallel to plan.items; zero for kept tensors
  std::vector<FileRecord> inputs;  ///< parallel to TensorSource::files(); names are paths
  int64_t bytes_read = 0;          ///< of input files, second reads for amax included
  size_t resumed_items = 0;        ///< items of the plan that an earlier run had written
  int64_t by_gpu = 0;              ///< weights that a GPU quantized in this run
  bool direct = false;             ///< every file was read without the page cache
};

/// Writes the plan's outputs through a sink into `outputs`. Until it is done, its journal and the partial output are in
/// outputs.scratch(); a run that finds them there resumes if they have the same stage key and neither input nor output has
/// changed, and writes the same bytes as an uninterrupted run. Throws FormatError naming tensor and row of an infinity or NaN, or
/// the file that changed while it was read; UsageError naming tensor and row of a value that F16 cannot hold; IoError;
/// Interrupted.
EngineResult run_engine(const Plan& plan, const Checkpoint& model, const SinkMaker& make_sink, Outputs& outputs,
                        const EngineOptions& options);

/// Notes the digests of the files that the engine read (Outputs::note_input_digest), named relative to the model.
void note_digests(Outputs& outputs, const std::string& slot, const Checkpoint& model, const EngineResult& made);

}  // namespace overproof
