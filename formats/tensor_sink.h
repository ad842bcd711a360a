#pragma once
// The destination of a stream of tensors in some container format. The tensors are declared when the sink is made, so that headers
// can precede data; their bytes are then written in that order.

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
  /// Passes over bytes that an earlier run has written (OutputFile::skip); only at the beginning.
  virtual void skip(int64_t bytes) = 0;
  /// Flushes everything to the disk; returns all files so far, finished or not, with the digests of their current content.
  virtual std::vector<FileRecord> sync() = 0;
  /// All declared bytes are written. Passes every file to the folder.
  virtual void close() = 0;
};

/// Opens the files in `folder` and declares `tensors`.
using SinkMaker = std::function<std::unique_ptr<TensorSink>(OutputFolder& folder, const std::vector<TensorInfo>& tensors)>;

}  // namespace overproof
