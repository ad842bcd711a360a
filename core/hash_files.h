#pragma once
// SHA-256 of many files, or many parts of files: every thread hashes several at a time (core/sha256_ni.h).

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "core/digest.h"

namespace overproof {

namespace fs = std::filesystem;

/// A range of a file that is being hashed.
struct FileSpan {
  fs::path file;
  int64_t begin = 0, end = 0;  ///< in bytes; `begin` advances with the hash
  Sha256 hash;                 ///< of what comes before `begin`
  size_t id = 0;               ///< the caller's
};

/// The source of spans. All members but the last are called by one thread at a time.
class SpanWork {
 public:
  virtual ~SpanWork() = default;
  /// An estimate of the number of spans, which threads share evenly.
  virtual int64_t count() const = 0;
  virtual std::optional<FileSpan> next() = 0;
  /// Called when the span is hashed up to its end. True: `end` was moved, and hashing continues.
  virtual bool goes_on(FileSpan& span) = 0;
  /// Called between pieces, by any thread: false drops the span.
  virtual bool wanted(const FileSpan&) const { return true; }
  virtual void progressed(int64_t /*bytes*/) {}
};

/// Hashes all spans, on all threads. Files are opened without following links. Throws IoError, also when a file is
/// not regular or ends before its span does, and Interrupted.
void hash_spans(SpanWork& work);

struct FileToHash {
  fs::path file;
  int64_t bytes = 0;  ///< its length
};

/// Digests of whole files, in the order of `files`. The largest are hashed first, so that no big file is left for the end. Throws
/// as hash_spans, and IoError when a file does not have the given length.
std::vector<Digest> sha256_files(const std::vector<FileToHash>& files);

}  // namespace overproof
