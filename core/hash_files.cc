#include "core/hash_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "core/direct_file.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "core/sha256_ni.h"

namespace overproof {
namespace {

/// Bytes of one read: those of all lanes stay in the second-level cache until they are hashed.
constexpr int64_t kPiece = int64_t{64} << 10;

struct OpenSpan {
  explicit OpenSpan(FileSpan what) : span(std::move(what)), fd(span.file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK), buffer(kPiece) {
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) throw IoError(span.file, "cannot read its size", errno);
    if (!S_ISREG(info.st_mode)) throw IoError(span.file, "is not a regular file", 0);
    ::posix_fadvise(fd.get(), off_t(span.begin), off_t(span.end - span.begin), POSIX_FADV_SEQUENTIAL);
  }

  HashJob read_piece() {
    const int64_t want = std::min(kPiece, span.end - span.begin);
    int64_t done = 0;
    while (done < want) {
      const ssize_t got = ::pread(fd.get(), buffer.data() + done, size_t(want - done), off_t(span.begin + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw IoError(span.file, fmt::format("cannot read at byte {}", span.begin + done), errno);
      if (got == 0)
        throw IoError(span.file,
                      fmt::format("truncated while being read: ends at byte {}; stop other writers and run the command again",
                                  span.begin + done),
                      0);
      done += got;
    }
    span.begin += want;
    return {&span.hash, buffer.data(), size_t(want)};
  }

  FileSpan span;
  Descriptor fd;
  AlignedBuffer buffer;
};

/// The work of one thread.
void run_lanes(SpanWork& work, std::mutex& mutex, size_t most) {
  std::vector<std::unique_ptr<OpenSpan>> lanes;
  std::vector<HashJob> jobs;
  for (;;) {
    throw_if_interrupted();
    while (lanes.size() < most) {
      std::optional<FileSpan> span;
      {
        const std::lock_guard lock(mutex);
        span = work.next();
      }
      if (!span) break;
      lanes.push_back(std::make_unique<OpenSpan>(std::move(*span)));
    }
    if (lanes.empty()) return;
    jobs.clear();
    int64_t bytes = 0;
    for (const auto& lane : lanes) {
      jobs.push_back(lane->read_piece());
      bytes += int64_t(jobs.back().bytes);
    }
    update_together(jobs);
    const std::lock_guard lock(mutex);
    work.progressed(bytes);
    std::erase_if(lanes, [&](const auto& lane) {
      if (!work.wanted(lane->span)) return true;
      return lane->span.begin >= lane->span.end && !work.goes_on(lane->span);
    });
  }
}

class WholeFiles : public SpanWork {
 public:
  explicit WholeFiles(const std::vector<FileToHash>& files) : files_(files), digests_(files.size()), order_(files.size()) {
    for (size_t i = 0; i < order_.size(); ++i) order_[i] = i;
    std::ranges::stable_sort(order_, std::greater(), [&](size_t i) { return files_[i].bytes; });
  }

  int64_t count() const override { return int64_t(files_.size()); }

  std::optional<FileSpan> next() override {
    if (next_ == order_.size()) return std::nullopt;
    const size_t i = order_[next_++];
    return FileSpan{files_[i].file, 0, files_[i].bytes, {}, i};
  }

  bool goes_on(FileSpan& span) override {
    digests_[span.id] = span.hash.finish();
    struct stat info {};
    if (::lstat(span.file.c_str(), &info) != 0) throw IoError(span.file, "cannot read its size", errno);
    if (int64_t(info.st_size) != files_[span.id].bytes)
      throw IoError(span.file, "modified while being read; stop other writers and run the command again", 0);
    return false;
  }

  std::vector<Digest> digests() && { return std::move(digests_); }

 private:
  const std::vector<FileToHash>& files_;
  std::vector<Digest> digests_;
  std::vector<size_t> order_;
  size_t next_ = 0;
};

}  // namespace

void hash_spans(SpanWork& work) {
  const int64_t threads = thread_count();
  const auto lanes = size_t(std::clamp<int64_t>((work.count() + threads - 1) / threads, 1, kSha256Lanes));
  std::mutex mutex;
  parallel_for(threads, 1, [&](int64_t, int64_t) { run_lanes(work, mutex, lanes); });
}

std::vector<Digest> sha256_files(const std::vector<FileToHash>& files) {
  WholeFiles work(files);
  hash_spans(work);
  return std::move(work).digests();
}

}  // namespace overproof
