#pragma once
// Files: read-only maps, whole reads, and writers that hash while they write and leave no partial file.

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

/// How a mapped file will be read: mostly sequentially, so that the system reads ahead, or at scattered places, so that it reads
/// only the pages that are touched.
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

/// Advises the system that these bytes of a mapped file are read next, so that it reads their pages together.
void expect_read(const void* data, size_t bytes);
/// Advises the system that these bytes of a mapped file need not stay in the process's memory; they can still be read. Without it, a
/// model that is copied out of its files takes twice its size.
void done_reading(const void* data, size_t bytes);

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

/// What happens to a file that was not closed, because of an error or a kill.
enum class Unfinished { removed, kept };

/// The beginning of a file that an earlier run has written, and the state of its digest.
struct FilePrefix {
  int64_t bytes = 0;
  Sha256 hash;
};

/// Sequential writer that hashes what it writes. Large files bypass the page cache (core/direct_file.h).
class OutputFile {
 public:
  /// `lanes`: hash together with other threads there; nullptr: alone.
  OutputFile(fs::path file, std::string name, Unfinished unfinished = Unfinished::removed, HashLanes* lanes = nullptr);
  /// Resumes a file whose first bytes are correct already. They are not written again: write() passes over them, for callers that
  /// produce them again, and so does skip(). The file is kept when unfinished.
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
  /// Flushes everything so far to the disk (fdatasync); returns its record. Throws IoError.
  FileRecord sync();
  /// fdatasync and close; returns the record of the file. Throws IoError.
  FileRecord close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A folder being filled: keeps the record of each file, so that no file is read again to hash it.
class OutputFolder {
 public:
  /// `lanes`: for the files opened here; must outlive them.
  explicit OutputFolder(fs::path folder, Unfinished unfinished = Unfinished::removed, HashLanes* lanes = nullptr)
      : folder_(std::move(folder)), unfinished_(unfinished), lanes_(lanes) {}
  const fs::path& path() const { return folder_; }
  /// `name` is relative; parents are made. Throws UsageError on an absolute name or one with "..".
  OutputFile open(std::string_view name);
  /// Closes the file and keeps its record.
  void finish(OutputFile&& file);
  void write_file(std::string_view name, std::string_view content);
  /// Records of all finished files, sorted by name.
  std::vector<FileRecord> records() const;

  /// Digests the beginnings of files that an earlier run has left here; open() then resumes them. False when one is missing,
  /// shorter or different: then no file is resumed. Only for folders whose unfinished files are kept.
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
