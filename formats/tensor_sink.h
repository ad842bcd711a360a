#pragma once
// Where a stream of tensors goes, whatever container is made of it. The tensors are declared to whoever makes the sink, so
// that headers can stand before data; their bytes then come in that order.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/file.h"
#include "formats/tensor_source.h"

namespace overproof {

class TensorSink {
 public:
  virtual ~TensorSink() = default;
  /// The next bytes, in pieces of any size; they need not end where a tensor ends.
  virtual void append(std::span<const uint8_t> bytes) = 0;
  /// Passes over bytes that an earlier run left (OutputFile::skip); only at the very beginning.
  virtual void skip(int64_t bytes) = 0;
  /// Puts everything on the disk; returns all files so far, finished or not, with the digests of what stands in them.
  virtual std::vector<FileRecord> sync() = 0;
  /// All declared bytes have come. Hands every file to the folder.
  virtual void close() = 0;
};

/// Opens the files in `folder` and declares `tensors`.
using SinkMaker = std::function<std::unique_ptr<TensorSink>(OutputFolder& folder, const std::vector<TensorInfo>& tensors)>;

}  // namespace overproof
