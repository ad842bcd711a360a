#include "data/span_index.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "core/utf8.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

constexpr int64_t kFormatVersion = 1;  // the latest that is read
constexpr int64_t kMostShards = 100'000;
constexpr int64_t kFirstStride = 64;    // words between those that are looked up first
constexpr int64_t kMostScanned = 4096;  // occurrences of a shard that are looked at to list documents

std::span<const int64_t> column(const SafetensorsFile& file, const char* name) {
  const TensorInfo& info = file.info(name);
  if (info.dtype != DType::i64 || info.shape.size() != 1)
    throw FormatError(file.path(), -1, fmt::format("'{}' must be one row of I64", name));
  return file.values<int64_t>(name);
}

}  // namespace

std::string shard_file_name(int64_t shard) { return fmt::format("suffixes-{:05d}.safetensors", shard); }

SpanIndex::SpanIndex(const fs::path& artifact) : table_(artifact / "documents.safetensors", Reads::scattered) {
  first_byte_ = column(table_, "first_byte");
  record_offset_ = column(table_, "record_offset");
  if (table_.metadata().contains("format_version") && metadata_integer(table_, "format_version", 0) > kFormatVersion)
    throw FormatError(table_.path(), -1, "is of a later format version than this program reads; make the index again");
  corpus_root_ = metadata_digest(table_, "corpus_root");
  if (first_byte_.size() != record_offset_.size() + 1 || first_byte_.front() != 0)
    throw FormatError(table_.path(), -1, "'first_byte' must have one entry more than 'record_offset', and begin with 0");
  int64_t next = 0;
  for (int64_t s = 0, count = metadata_integer(table_, "shards", 0, kMostShards); s < count; ++s) {
    auto file = std::make_unique<SafetensorsFile>(artifact / shard_file_name(s), Reads::scattered);
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

/// One past the last word of the longest run from word w on that is in the corpus verbatim: the end, which never falls as w
/// grows. Words are looked up in rounds, each in all shards at once.
class SpanIndex::Ends {
 public:
  Ends(const SpanIndex& index, std::string_view text, const Words& words)
      : index_(index), text_(text), words_(words), ends_(words.begins.size(), -1) {}

  /// One past the last word of what matches from word w on; at least w. Before the first word, 0.
  int64_t at(int64_t w) const { return w < 0 ? 0 : ends_[size_t(w)]; }

  void look_up(std::span<const int64_t> wanted) {
    const auto shards = index_.shards();
    std::vector<int64_t> bytes(wanted.size() * size_t(shards));
    wait_in_parallel(int64_t(bytes.size()), [&](int64_t i) {
      const std::string_view pattern = text_.substr(size_t(words_.begins[size_t(wanted[size_t(i / shards)])]));
      bytes[size_t(i)] = index_.shards_[size_t(i % shards)].suffixes.longest_match(pattern);
    });
    for (size_t k = 0; k < wanted.size(); ++k) {
      int64_t longest = 0;
      for (int64_t s = 0; s < shards; ++s) longest = std::max(longest, bytes[k * size_t(shards) + size_t(s)]);
      const int64_t w = wanted[k], end = words_.begins[size_t(w)] + longest;
      ends_[size_t(w)] = std::max<int64_t>(w, std::ranges::upper_bound(words_.ends, end) - words_.ends.begin());
    }
  }

 private:
  const SpanIndex& index_;
  std::string_view text_;
  const Words& words_;
  std::vector<int64_t> ends_;
};

std::vector<MatchedSpan> SpanIndex::find(std::string_view text, const SpanQuery& query) const {
  if (int64_t(text.size()) > kLongestQuery)
    throw UsageError(
        fmt::format("a text of {} bytes is too long to look up at once; at most {} are", text.size(), kLongestQuery));
  if (const int64_t at = invalid_utf8_at(text); at >= 0) throw UsageError(fmt::format("the text is not UTF-8 at byte {}", at));
  const Words words = words_of(text);
  const auto count = int64_t(words.begins.size());
  const auto long_enough = [&](int64_t first, int64_t last) {
    return last - first >= query.min_words && last > first &&
           words.ends[size_t(last) - 1] - words.begins[size_t(first)] >= query.min_bytes;
  };

  // A span begins at a word whose end is further than the end of the word before. Between two words whose ends are known, none
  // can begin if the ends are the same, and none that is reported if even all from the first of them to the last end is too
  // short. So of words that match nothing, only one in some half of min_words is looked up.
  Ends ends(*this, text, words);
  struct Interval {
    int64_t low, high;  // words (low, high]
  };
  std::vector<Interval> open;
  std::vector<int64_t> wanted, begins;
  for (int64_t low = -1; low + 1 < count; low += kFirstStride) {
    open.push_back({low, std::min(low + kFirstStride, count - 1)});
    wanted.push_back(open.back().high);
  }
  while (!wanted.empty()) {
    throw_if_interrupted();
    ends.look_up(wanted);
    wanted.clear();
    std::vector<Interval> halves;
    for (const auto& [low, high] : open) {
      if (ends.at(high) <= ends.at(low) || !long_enough(low + 1, ends.at(high))) continue;
      if (low + 1 == high) {
        begins.push_back(high);
        continue;
      }
      const int64_t middle = low + (high - low) / 2;
      wanted.push_back(middle);
      halves.push_back({low, middle});
      halves.push_back({middle, high});
    }
    open = std::move(halves);
  }
  std::ranges::sort(begins);

  std::vector<MatchedSpan> spans;
  for (const int64_t first : begins) {
    const int64_t last = ends.at(first);
    spans.push_back({words.begins[size_t(first)], words.ends[size_t(last) - 1], last - first});
  }
  list_documents(text, query, spans);
  return spans;
}

void SpanIndex::list_documents(std::string_view text, const SpanQuery& query, std::vector<MatchedSpan>& spans) const {
  struct Found {
    int64_t occurrences = 0;
    bool more_documents = false;
    std::vector<SpanHit> hits;
  };
  std::vector<Found> all(spans.size() * shards_.size());
  wait_in_parallel(int64_t(all.size()), [&](int64_t i) {
    const MatchedSpan& span = spans[size_t(i) / shards_.size()];
    const Shard& shard = shards_[size_t(i) % shards_.size()];
    const SuffixArray::Range range = shard.suffixes.find(text.substr(size_t(span.begin), size_t(span.end - span.begin)));
    Found& found = all[size_t(i)];
    found.occurrences = std::max<int64_t>(0, range.last - range.first);
    found.more_documents = found.occurrences > kMostScanned;
    std::vector<int64_t> positions;
    for (int64_t place = range.first; place < range.first + std::min(found.occurrences, kMostScanned); ++place)
      positions.push_back(shard.suffixes.position(place));
    // In the order of the text, which is that of the documents: only those that are listed are looked up in the table.
    std::ranges::sort(positions);
    int64_t end = 0;  // of the last document's text
    for (const int64_t position : positions) {
      if (position < end) continue;
      if (int64_t(found.hits.size()) == query.max_documents) {
        found.more_documents = true;
        break;
      }
      found.hits.push_back(hit_at(shard, position));
      end = first_byte_[size_t(found.hits.back().document) + 1] - shard.first_byte;
    }
  });
  for (size_t i = 0; i < all.size(); ++i) {
    MatchedSpan& span = spans[i / shards_.size()];
    span.occurrences += all[i].occurrences;
    if (all[i].more_documents) span.more_documents = true;
    span.hits.insert(span.hits.end(), all[i].hits.begin(), all[i].hits.end());
  }
  for (MatchedSpan& span : spans) {
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
  // Shards follow one another; of those that begin at the same byte all but the last are empty.
  const auto after = std::ranges::upper_bound(shards_, begin, {}, &Shard::first_byte);
  if (after != shards_.begin() && begin >= 0 && end > begin) {
    const Shard& shard = *(after - 1);
    const std::string_view text = shard.suffixes.text();
    const int64_t first = begin - shard.first_byte;
    if (end - shard.first_byte <= int64_t(text.size())) {
      const std::string_view found = text.substr(size_t(first), size_t(end - begin - 1));
      expect_read(found.data(), found.size());
      return found;
    }
  }
  throw FormatError(table_.path(), -1, fmt::format("document {} is in no shard", document));
}

}  // namespace overproof
