#pragma once
// SHA-256 of many files, or many parts of files, at once: every thread takes several forward together (core/sha256_ni.h).

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "core/digest.h"

namespace overproof {

namespace fs = std::filesystem;

/// A stretch of a file on its way through a hash.
struct FileSpan {
  fs::path file;
  int64_t begin = 0, end = 0;  ///< in bytes; `begin` moves on with the hash
  Sha256 hash;                 ///< of what comes before `begin`
  size_t id = 0;               ///< the caller's
};

/// What there is to hash. All but wanted() is called by one thread at a time.
class SpanWork {
 public:
  virtual ~SpanWork() = default;
  /// About how many spans there will be: threads share them evenly.
  virtual int64_t count() const = 0;
  virtual std::optional<FileSpan> next() = 0;
  /// The span is hashed up to its end. True: `end` was moved, and it goes on.
  virtual bool goes_on(FileSpan& span) = 0;
  /// Asked between pieces, by any thread: false drops the span.
  virtual bool wanted(const FileSpan&) const { return true; }
  virtual void progressed(int64_t /*bytes*/) {}
};

/// Hashes until nothing is left, on all threads. Files are opened without following links. Throws IoError, also when a file is
/// not regular or ends before its span does, and Interrupted.
void hash_spans(SpanWork& work);

struct FileToHash {
  fs::path file;
  int64_t bytes = 0;  ///< its length
};

/// Digests of whole files, beside `files`. Largest first, so that one big file does not begin when all others are done. Throws as
/// hash_spans, and IoError when a file has not the length given.
std::vector<Digest> sha256_files(const std::vector<FileToHash>& files);

}  // namespace overproof
