#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "core/direct_file.h"
#include "core/error.h"
#include "core/hash_lanes.h"
#include "core/interrupt.h"
#include "core/new_file.h"

namespace overproof {
namespace {

int64_t file_size(int fd, const fs::path& file) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) throw IoError(file, "cannot read its size", errno);
  if (!S_ISREG(info.st_mode)) throw IoError(file, "is not a regular file", 0);
  return int64_t(info.st_size);
}

}  // namespace

MappedFile::MappedFile(const fs::path& file, Reads reads) : path_(file) {
  const Descriptor fd(file, O_RDONLY | O_NONBLOCK);  // a pipe without a writer would block
  size_ = size_t(file_size(fd.get(), file));
  if (size_ == 0) return;  // mmap refuses length 0
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (p == MAP_FAILED) throw IoError(file, "cannot map into memory", errno);
  data_ = static_cast<const uint8_t*>(p);
  // Advice only: where it is ignored, reads are slower.
  if (reads == Reads::scattered) (void)::madvise(p, size_, MADV_RANDOM);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<uint8_t*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void expect_read(const void* data, size_t bytes) {
  const auto page = uintptr_t(::sysconf(_SC_PAGESIZE)), begin = reinterpret_cast<uintptr_t>(data), first = begin / page * page;
  (void)::madvise(reinterpret_cast<void*>(first), begin - first + bytes, MADV_WILLNEED);
}

void done_reading(const void* data, size_t bytes) {
  const auto page = uintptr_t(::sysconf(_SC_PAGESIZE)), begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + page - 1) / page * page, end = (begin + bytes) / page * page;  // pages at the edges may be read next
  if (first < end) (void)::madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

std::string read_file(const fs::path& file, int64_t max_bytes) {
  const Descriptor fd(file, O_RDONLY | O_NONBLOCK);  // a pipe without a writer would block
  const int64_t size = file_size(fd.get(), file);
  if (size > max_bytes) throw FormatError(file, -1, fmt::format("has {} bytes; at most {} are allowed here", size, max_bytes));
  std::string content(size_t(size), '\0');
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t got = ::read(fd.get(), content.data() + done, content.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw IoError(file, "cannot read", errno);
    if (got == 0) break;
    done += size_t(got);
  }
  content.resize(done);
  return content;
}

void fsync_folder(const fs::path& folder) {
  const Descriptor fd(folder, O_RDONLY | O_DIRECTORY);
  if (::fsync(fd.get()) != 0 && errno != EINVAL) throw IoError(folder, "cannot flush to disk", errno);
}

void write_file_atomically(const fs::path& file, std::string_view content) { NewFile(file, content, 0644).replace(); }

struct OutputFile::Impl {
  fs::path file;
  std::string name;
  std::optional<DirectWriter> writer;
  Sha256 hash;
  HashLanes* lanes = nullptr;
  int64_t bytes = 0;  // written or passed over
  int64_t kept = 0;   // at the beginning of the file: from an earlier run, hashed already
  bool keep = false;

  ~Impl() {
    if (!writer) return;
    writer.reset();
    if (!keep) ::unlink(file.c_str());
  }
};

OutputFile::OutputFile(fs::path file, std::string name, Unfinished unfinished, HashLanes* lanes)
    : impl_(std::make_unique<Impl>()) {
  impl_->lanes = lanes;
  impl_->file = std::move(file);
  impl_->name = std::move(name);
  impl_->keep = unfinished == Unfinished::kept;
  impl_->writer.emplace(impl_->file);
}

OutputFile::OutputFile(fs::path file, std::string name, FilePrefix prefix, HashLanes* lanes) : impl_(std::make_unique<Impl>()) {
  impl_->lanes = lanes;
  impl_->file = std::move(file);
  impl_->name = std::move(name);
  impl_->keep = true;
  impl_->kept = prefix.bytes;
  impl_->hash = std::move(prefix.hash);
  impl_->writer.emplace(impl_->file, prefix.bytes);
}
OutputFile::~OutputFile() = default;
OutputFile::OutputFile(OutputFile&&) noexcept = default;
OutputFile& OutputFile::operator=(OutputFile&&) noexcept = default;

void OutputFile::write(const void* data, size_t bytes) {
  // Small pieces are hashed and copied while they are in the cache; sharing lanes with other threads pays for large ones only.
  const size_t piece = impl_->lanes ? size_t{1} << 20 : size_t{128} << 10;
  const char* from = static_cast<const char*>(data);
  const size_t known = size_t(std::clamp<int64_t>(impl_->kept - impl_->bytes, 0, int64_t(bytes)));
  impl_->bytes += int64_t(bytes);
  from += known;
  bytes -= known;
  while (bytes > 0) {
    const size_t part = std::min(bytes, piece);
    if (impl_->lanes) impl_->lanes->update(impl_->hash, from, part);
    else impl_->hash.update(from, part);
    impl_->writer->write(from, part);
    from += part;
    bytes -= part;
  }
}

void OutputFile::skip(int64_t bytes) {
  OVERPROOF_CHECK(bytes >= 0 && impl_->bytes + bytes <= impl_->kept);
  impl_->bytes += bytes;
}

int64_t OutputFile::kept_bytes_left() const { return std::max<int64_t>(0, impl_->kept - impl_->bytes); }
int64_t OutputFile::bytes_written() const { return impl_->bytes; }

FileRecord OutputFile::sync() {
  impl_->writer->sync();
  return {impl_->name, impl_->bytes, impl_->hash.so_far()};
}

FileRecord OutputFile::close() {
  OVERPROOF_CHECK(impl_->bytes >= impl_->kept);
  impl_->writer->close();
  impl_->writer.reset();
  return {impl_->name, impl_->bytes, impl_->hash.finish()};
}

bool is_safe_relative_name(std::string_view name) {
  if (name.empty() || name.find('\0') != std::string_view::npos) return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

OutputFile OutputFolder::open(std::string_view name) {
  if (!is_safe_relative_name(name)) throw UsageError(fmt::format("'{}' is not a name inside an artifact's folder", name));
  const fs::path file = folder_ / fs::path(name);
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  if (error) throw IoError(file.parent_path(), "cannot make the folder", error.value());
  if (auto prefix = prefixes_.extract(std::string(name)))
    return OutputFile(file, std::string(name), std::move(prefix.mapped()), lanes_);
  return OutputFile(file, std::string(name), unfinished_, lanes_);
}

bool OutputFolder::resume(const std::vector<FileRecord>& prefixes) {
  OVERPROOF_CHECK(unfinished_ == Unfinished::kept);
  prefixes_.clear();
  for (const FileRecord& record : prefixes) {
    const fs::path file = folder_ / fs::path(record.name);
    std::error_code error;
    if (!is_safe_relative_name(record.name) || record.bytes < 0 || !fs::is_regular_file(fs::symlink_status(file, error)))
      return false;
    FilePrefix prefix{record.bytes, {}};
    DirectReader reader(file);
    if (reader.size() < record.bytes) return false;
    AlignedBuffer buffer;
    for (int64_t at = 0; at < record.bytes; at += kDiskRequest) {
      throw_if_interrupted();
      const auto piece = reader.read(at, std::min(record.bytes, at + kDiskRequest), buffer);
      prefix.hash.update(piece.data(), piece.size());
    }
    if (prefix.hash.so_far() != record.digest) return false;
    prefixes_.insert_or_assign(record.name, std::move(prefix));
  }
  return true;
}

void OutputFolder::adopt(OutputFolder& other) {
  for (FileRecord& record : other.records_) {
    const fs::path from = other.folder_ / fs::path(record.name), to = folder_ / fs::path(record.name);
    std::error_code error;
    fs::create_directories(to.parent_path(), error);
    if (!error) fs::rename(from, to, error);
    if (error) throw IoError(to, "cannot move the finished file here", error.value());
    std::erase_if(records_, [&](const FileRecord& r) { return r.name == record.name; });
    records_.push_back(std::move(record));
  }
  other.records_.clear();
}

void OutputFolder::finish(OutputFile&& file) {
  FileRecord record = file.close();
  std::erase_if(records_, [&](const FileRecord& r) { return r.name == record.name; });
  records_.push_back(std::move(record));
}

void OutputFolder::write_file(std::string_view name, std::string_view content) {
  OutputFile file = open(name);
  file.write(content);
  finish(std::move(file));
}

std::vector<FileRecord> OutputFolder::records() const {
  std::vector<FileRecord> sorted = records_;
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return sorted;
}

}  // namespace overproof
