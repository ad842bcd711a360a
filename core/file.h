#pragma once
// Files: read-only maps, whole reads, writers that hash while they write and never leave half a file.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"

namespace overproof {

namespace fs = std::filesystem;

/// How a mapped file will be read: mostly onwards, so that the system fetches what comes next, or at single places, so that it
/// fetches the pages that are touched and none around them (which may be megabytes).
enum class Reads { onwards, scattered };

/// A whole file mapped read-only. Throws IoError. The file must not shrink while mapped.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& file, Reads reads = Reads::onwards);
  ~MappedFile();
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;
  const fs::path& path() const { return path_; }
  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  int64_t size() const { return int64_t(size_); }

 private:
  fs::path path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

/// Tells the system that these bytes of a mapped file are read next, so that it fetches their pages together.
void expect_read(const void* data, size_t bytes);

/// Reads a whole file; throws IoError, and FormatError when it is larger than max_bytes.
std::string read_file(const fs::path& file, int64_t max_bytes = int64_t{1} << 30);

/// Replaces `file` by `content` at once: a reader sees the old or the new content, also after a kill, and of two writers one
/// wins whole. For secrets: core/private_file.h.
void write_file_atomically(const fs::path& file, std::string_view content);

struct FileRecord {
  std::string name;  ///< relative to the artifact's folder, '/' between parts
  int64_t bytes = 0;
  Digest digest;
};

class HashLanes;

/// What becomes of a file that was not closed: an error or a kill came in between.
enum class Unfinished { removed, kept };

/// The beginning of a file that an earlier run left, and the state of its digest.
struct FilePrefix {
  int64_t bytes = 0;
  Sha256 hash;
};

/// Sequential writer that hashes what it writes, past the page cache when there is much (core/direct_file.h).
class OutputFile {
 public:
  /// `lanes`: hash there, beside the hashes of other threads; nullptr: alone.
  OutputFile(fs::path file, std::string name, Unfinished unfinished = Unfinished::removed, HashLanes* lanes = nullptr);
  /// Goes on with a file whose first bytes are right already. They are not written again: write() passes over them, for writers
  /// that make them anew, and so does skip(). The file is kept when unfinished.
  OutputFile(fs::path file, std::string name, FilePrefix prefix, HashLanes* lanes = nullptr);
  ~OutputFile();
  OutputFile(OutputFile&&) noexcept;
  OutputFile& operator=(OutputFile&&) noexcept;
  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Passes over the next bytes of the prefix.
  void skip(int64_t bytes);
  int64_t kept_bytes_left() const;  ///< of the prefix, not passed over yet
  int64_t bytes_written() const;    ///< including those passed over
  /// Puts everything so far on the disk (fdatasync); returns what that is. Throws IoError.
  FileRecord sync();
  /// fdatasync and close; returns what was written. Throws IoError.
  FileRecord close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A folder being filled: remembers the record of each file, so that nothing is read again to hash it.
class OutputFolder {
 public:
  /// `lanes` are for the files opened here, and must outlive them.
  explicit OutputFolder(fs::path folder, Unfinished unfinished = Unfinished::removed, HashLanes* lanes = nullptr)
      : folder_(std::move(folder)), unfinished_(unfinished), lanes_(lanes) {}
  const fs::path& path() const { return folder_; }
  /// `name` is relative; parents are made. Throws UsageError on an absolute name or one with "..".
  OutputFile open(std::string_view name);
  /// Closes the file and remembers its record.
  void finish(OutputFile&& file);
  void write_file(std::string_view name, std::string_view content);
  /// Records of all finished files, sorted by name.
  std::vector<FileRecord> records() const;

  /// Digests the beginnings of files that an earlier run left here; open() then goes on from them. False when one is missing,
  /// shorter or another: then nothing is gone on from. Only for folders whose unfinished files are kept.
  bool resume(const std::vector<FileRecord>& prefixes);
  /// Moves the finished files of another folder of the same file system here, with their records.
  void adopt(OutputFolder& other);

 private:
  fs::path folder_;
  Unfinished unfinished_;
  HashLanes* lanes_;
  std::vector<FileRecord> records_;
  std::map<std::string, FilePrefix> prefixes_;
};

/// True when `name` is relative and stays inside its folder: no root, no "..", no empty or "." part, no NUL.
bool is_safe_relative_name(std::string_view name);

void fsync_folder(const fs::path& folder);

}  // namespace overproof
