#include "data/span_index.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"
#include "data/utf8.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

constexpr int64_t kMostShards = 100'000;
constexpr int64_t kStartsAtOnce = 64;   // a block of starts that one thread looks up
constexpr int64_t kMostScanned = 4096;  // occurrences of a shard that are looked at to list documents

std::span<const int64_t> column(const SafetensorsFile& file, const char* name) {
  const TensorInfo& info = file.info(name);
  if (info.dtype != DType::i64 || info.shape.size() != 1)
    throw FormatError(file.path(), -1, fmt::format("'{}' must be one row of I64", name));
  return file.values<int64_t>(name);
}

}  // namespace

std::string shard_file_name(int64_t shard) { return fmt::format("suffixes-{:05d}.safetensors", shard); }

SpanIndex::SpanIndex(const fs::path& artifact) : table_(artifact / "documents.safetensors") {
  first_byte_ = column(table_, "first_byte");
  record_offset_ = column(table_, "record_offset");
  corpus_root_ = metadata_digest(table_, "corpus_root");
  if (first_byte_.size() != record_offset_.size() + 1 || first_byte_.front() != 0)
    throw FormatError(table_.path(), -1, "'first_byte' must have one entry more than 'record_offset', and begin with 0");
  int64_t next = 0;
  for (int64_t s = 0, count = metadata_integer(table_, "shards", 0, kMostShards); s < count; ++s) {
    auto file = std::make_unique<SafetensorsFile>(artifact / shard_file_name(s));
    const TensorInfo &suffixes = file->info("suffixes"), &text = file->info("text");
    if (suffixes.dtype != DType::u32 || suffixes.shape.size() != 1 || text.dtype != DType::u8 || text.shape.size() != 1 ||
        text.elements() > INT32_MAX)
      throw FormatError(file->path(), -1, "'suffixes' must be U32 [words], 'text' U8 [less than 2^31 bytes]");
    if (metadata_integer(*file, "first_byte", 0) != next)
      throw FormatError(file->path(), -1, "its text does not follow the shard before");
    const auto bytes = file->bytes("text");
    SuffixArray sorted(file->values<uint32_t>("suffixes"), {reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                       file->path());
    next += int64_t(bytes.size());
    shards_.push_back({std::move(file), next - int64_t(bytes.size()), std::move(sorted)});
  }
  if (next != first_byte_.back())
    throw FormatError(table_.path(), -1, fmt::format("the documents have {} bytes, the shards {}", first_byte_.back(), next));
}

int64_t SpanIndex::bytes() const { return first_byte_.back() - documents(); }

int64_t SpanIndex::words() const {
  int64_t sum = 0;
  for (const Shard& shard : shards_) sum += shard.suffixes.size();
  return sum;
}

int64_t SpanIndex::longest_match(std::string_view pattern) const {
  int64_t longest = 0;
  for (const Shard& shard : shards_) longest = std::max(longest, shard.suffixes.longest_match(pattern));
  return longest;
}

std::vector<MatchedSpan> SpanIndex::find(std::string_view text, const SpanQuery& query) const {
  if (int64_t(text.size()) > kLongestQuery)
    throw UsageError(
        fmt::format("a text of {} bytes is too long to look up at once; at most {} are", text.size(), kLongestQuery));
  if (const int64_t at = invalid_utf8_at(text); at >= 0) throw UsageError(fmt::format("the text is not UTF-8 at byte {}", at));
  const Words words = words_of(text);
  const auto count = int64_t(words.begins.size());

  /// How many words from word `w` on stand in the corpus as they are. The end, w + matched(w), never falls as w grows.
  const auto end_of = [&](int64_t w) {
    const int64_t begin = words.begins[size_t(w)], end = begin + longest_match(text.substr(size_t(begin)));
    return std::max<int64_t>(w, std::upper_bound(words.ends.begin(), words.ends.end(), end) - words.ends.begin());
  };
  struct Candidate {
    int64_t first, last;  // words [first, last)
  };
  std::vector<std::vector<Candidate>> blocks(size_t((count + kStartsAtOnce - 1) / kStartsAtOnce));
  parallel_for(count, kStartsAtOnce, [&](int64_t begin, int64_t end) {
    std::vector<Candidate>& found = blocks[size_t(begin / kStartsAtOnce)];
    for (int64_t w = begin; w < end;) {
      const int64_t last = end_of(w);
      found.push_back({w, last});
      if (last <= w) {
        ++w;
        continue;
      }
      // The next start that reaches further: try close ones first, then halve the rest. None is beyond the matched words.
      int64_t low = w, high = std::min(last, end);  // low reaches no further; high does, or ends the search
      for (int64_t step = 1; low + step < high; step *= 2) {
        if (end_of(low + step) > last) {
          high = low + step;
          break;
        }
        low += step;
      }
      while (low + 1 < high) {
        const int64_t middle = low + (high - low) / 2;
        (end_of(middle) > last ? high : low) = middle;
      }
      w = high;
    }
  });

  std::vector<MatchedSpan> spans;
  int64_t reached = 0;
  for (const auto& block : blocks)
    for (const Candidate& c : block) {
      if (c.last <= std::max(reached, c.first)) continue;  // within the span before
      reached = c.last;
      MatchedSpan span{words.begins[size_t(c.first)], words.ends[size_t(c.last) - 1], c.last - c.first};
      if (span.words < query.min_words || span.end - span.begin < query.min_bytes) continue;
      spans.push_back(std::move(span));
    }
  parallel_for(int64_t(spans.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      MatchedSpan& span = spans[size_t(i)];
      list_documents(text.substr(size_t(span.begin), size_t(span.end - span.begin)), query, span);
    }
  });
  return spans;
}

void SpanIndex::list_documents(std::string_view passage, const SpanQuery& query, MatchedSpan& span) const {
  for (const Shard& shard : shards_) {
    const SuffixArray::Range range = shard.suffixes.find(passage);
    const int64_t there = std::max<int64_t>(0, range.last - range.first), scanned = std::min(there, kMostScanned);
    span.occurrences += there;
    if (scanned < there) span.more_documents = true;
    for (int64_t place = range.first; place < range.first + scanned; ++place)
      span.hits.push_back(hit_at(shard, shard.suffixes.position(place)));
  }
  std::ranges::sort(span.hits, [](const SpanHit& a, const SpanHit& b) {
    return std::pair(a.document, a.byte) < std::pair(b.document, b.byte);
  });
  const auto same = [](const SpanHit& a, const SpanHit& b) { return a.document == b.document; };
  span.hits.erase(std::unique(span.hits.begin(), span.hits.end(), same), span.hits.end());
  if (int64_t(span.hits.size()) > query.max_documents) {
    span.hits.resize(size_t(query.max_documents));
    span.more_documents = true;
  }
}

SpanHit SpanIndex::hit_at(const Shard& shard, int64_t position) const {
  const int64_t byte = shard.first_byte + position;
  const int64_t document = std::upper_bound(first_byte_.begin(), first_byte_.end(), byte) - first_byte_.begin() - 1;
  // The table may be in any order; what is used of it is checked here.
  if (document < 0 || document >= documents() || first_byte_[size_t(document)] > byte ||
      first_byte_[size_t(document) + 1] <= byte)
    throw FormatError(table_.path(), -1, fmt::format("no document holds byte {}", byte));
  return {document, byte - first_byte_[size_t(document)]};
}

std::string_view SpanIndex::text_of(int64_t document) const {
  const int64_t begin = first_byte_[size_t(document)], end = first_byte_[size_t(document) + 1];
  for (const Shard& shard : shards_) {
    const std::string_view text = shard.suffixes.text();
    const int64_t first = begin - shard.first_byte;
    if (begin < shard.first_byte || first >= int64_t(text.size())) continue;
    if (end <= begin || end - shard.first_byte > int64_t(text.size())) break;
    return text.substr(size_t(first), size_t(end - begin - 1));
  }
  throw FormatError(table_.path(), -1, fmt::format("document {} is in no shard", document));
}

}  // namespace overproof
