#include "records/batch_spool.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace overproof {
namespace {

constexpr char kSpool[] = "batches.rows";

int64_t sum_of(std::span<const uint8_t> lengths) { return std::accumulate(lengths.begin(), lengths.end(), int64_t{0}); }

}  // namespace

int64_t BatchSpool::Shape::rows_of(int64_t batch) const { return std::min(batch_rows, total_rows - batch * batch_rows); }

bool split_batches(std::span<const uint8_t> bytes, const BatchSpool::Shape& shape, int64_t batches,
                   const std::function<void(std::span<const uint8_t>, std::span<const uint8_t>)>& body) {
  if (batches < 0 || batches > shape.batches()) return false;
  for (int64_t b = 0; b < batches; ++b) {
    const int64_t rows = shape.rows_of(b);
    if (int64_t(bytes.size()) < rows) return false;
    const auto lengths = bytes.first(size_t(rows));
    const int64_t entries = sum_of(lengths) * shape.entry_bytes;
    if (int64_t(bytes.size()) - rows < entries) return false;
    body(lengths, bytes.subspan(size_t(rows), size_t(entries)));
    bytes = bytes.subspan(size_t(rows + entries));
  }
  return bytes.empty();
}

BatchSpool::BatchSpool(const fs::path& scratch, const Digest& stage_key, const Shape& shape)
    : shape_(shape), resume_(scratch, stage_key), folder_(scratch, Unfinished::kept) {
  OVERPROOF_CHECK(shape.entry_bytes >= 1 && shape.batch_rows >= 1 && shape.total_rows >= 1);
  fs::create_directories(scratch);
  if (const auto point = resume_.read(&folder_)) {
    const Json& done = point->progress.contains("batches") ? point->progress["batches"] : Json();
    const bool named = point->files.size() == 1 && point->files[0].name == kSpool && done.is_number_unsigned() &&
                       done.get<uint64_t>() <= uint64_t(shape.batches());
    if (named) {
      const MappedFile file(scratch / kSpool);
      const auto bytes = file.bytes().first(size_t(std::min(file.size(), point->files[0].bytes)));
      if (split_batches(bytes, shape, done.get<int64_t>(), [](auto, auto) {})) batches_ = done.get<int64_t>();
    }
  }
  if (batches_ == 0) {
    resume_.clear();
    folder_ = OutputFolder(scratch, Unfinished::kept);
  }
  file_.emplace(folder_.open(kSpool));
  file_->skip(file_->kept_bytes_left());
}

void BatchSpool::append(const EncodedRows& rows) {
  OVERPROOF_CHECK(batches_ < shape_.batches() && int64_t(rows.lengths.size()) == shape_.rows_of(batches_) &&
                  int64_t(rows.entries.size()) == sum_of(rows.lengths) * shape_.entry_bytes);
  file_->write(rows.lengths.data(), rows.lengths.size());
  file_->write(rows.entries.data(), rows.entries.size());
  const FileRecord record = file_->sync();
  ++batches_;
  resume_.write({{record}, {{"batches", batches_}}});
}

void BatchSpool::for_each(
    const std::function<void(std::span<const uint8_t>, std::span<const uint8_t>)>& body) const {
  const MappedFile file(folder_.path() / kSpool);
  const auto written = file.bytes().first(size_t(std::min(file.size(), file_->bytes_written())));
  if (!split_batches(written, shape_, shape_.batches(), body))
    throw FormatError(file.path(), -1, "was changed while it was being written: run the command again");
}

}  // namespace overproof
