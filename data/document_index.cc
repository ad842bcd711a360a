#include "data/document_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"

namespace overproof {
namespace {

constexpr const char* kFile = "index.safetensors";
constexpr int64_t kMostNarrow = int64_t{1} << 32;
constexpr int64_t kMostTokens = int64_t{1} << 56;  // sums of two stay far from overflow

uint64_t prefix_of(const uint8_t* key) {
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value = value << 8 | key[i];
  return value;
}

/// The first of [0, n) for which `below` is false, where it is true up to there and false from there on. It is looked for near
/// share x n, in bounds that are doubled until they hold it: a file of which few pages are read. What is not ordered so gives
/// some number in [0, n].
template <class Below>
int64_t first_not(int64_t n, double share, Below below) {
  int64_t reach = int64_t(std::sqrt(double(n))) + 8;
  const int64_t middle = std::clamp<int64_t>(int64_t(share * double(n)), 0, n);
  int64_t low = middle, high = middle;  // true below `low`, false from `high` on
  while (low > 0 && !below(low - 1)) high = low - 1, low = std::max<int64_t>(0, low - reach), reach *= 2;
  while (high < n && below(high)) low = high + 1, high = std::min(n, high + reach), reach *= 2;
  while (low < high) {
    const int64_t half = low + (high - low) / 2;
    if (below(half)) low = half + 1;
    else high = half;
  }
  return low;
}

}  // namespace

bool DocumentIndex::is_in(const fs::path& artifact) { return fs::exists(artifact / kFile); }

void DocumentIndex::fail(std::string_view cause) const { throw FormatError(file_.path(), -1, cause); }

DocumentIndex::DocumentIndex(const fs::path& artifact, Reads reads) : file_(artifact / kFile, reads) {
  const TensorInfo& keys = file_.info("keys");
  if (keys.dtype != DType::u8 || keys.shape.size() != 2 || keys.shape[1] != 32) fail("'keys' must be U8 [documents, 32]");
  documents_ = keys.shape[0];
  keys_ = file_.bytes("keys");
  const auto row = [&](const char* name, DType dtype, int64_t length) {
    const TensorInfo& info = file_.info(name);
    if (info.dtype != dtype || info.shape.size() != 1 || info.shape[0] != length)
      fail(fmt::format("'{}' must be {} [{}]", name, dtype_name(dtype), length));
  };
  for (const char* name : {"train", "held_out", "records"}) row(name, DType::i64, documents_ + 1);
  tokens_[0] = file_.values<int64_t>("train");
  tokens_[1] = file_.values<int64_t>("held_out");
  records_ = file_.values<int64_t>("records");
  for (const auto& stream : tokens_)
    if (stream.front() != 0 || stream.back() < 0 || stream.back() > kMostTokens)
      fail("its streams do not begin at token 0, or do not end");
  const bool narrow = documents_ < kMostNarrow;
  for (const char* name : {"ordinals", "ranks"}) row(name, narrow ? DType::u32 : DType::i64, documents_);
  if (narrow) {
    ordinals_ = file_.values<uint32_t>("ordinals");
    ranks_ = file_.values<uint32_t>("ranks");
  } else {
    wide_ordinals_ = file_.values<int64_t>("ordinals");
    wide_ranks_ = file_.values<int64_t>("ranks");
  }
}

Digest DocumentIndex::key(int64_t rank) const {
  OVERPROOF_CHECK(rank >= 0 && rank < documents_);
  Digest digest;
  std::copy_n(keys_.begin() + ptrdiff_t(rank) * 32, 32, digest.bytes.begin());
  return digest;
}

int64_t DocumentIndex::lower_bound(const Digest& wanted) const {
  // Digests are uniform: the rank is near its expectation.
  const double share = std::ldexp(double(prefix_of(wanted.bytes.data())), -64);
  return first_not(documents_, share, [&](int64_t rank) {
    const uint8_t* key = keys_.data() + rank * 32;
    return std::lexicographical_compare(key, key + 32, wanted.bytes.begin(), wanted.bytes.end());
  });
}

std::optional<int64_t> DocumentIndex::find(const Digest& wanted) const {
  const int64_t rank = lower_bound(wanted);
  if (rank == documents_ || key(rank) != wanted) return std::nullopt;
  return ordinal(rank);
}

int64_t DocumentIndex::place(std::span<const uint32_t> narrow, std::span<const int64_t> wide, int64_t i) const {
  OVERPROOF_CHECK(i >= 0 && i < documents_);
  const int64_t value = wide.empty() ? int64_t(narrow[size_t(i)]) : wide[size_t(i)];
  if (value < 0 || value >= documents_) fail("it names a document that is not there");
  return value;
}

int64_t DocumentIndex::ordinal(int64_t rank) const { return place(ordinals_, wide_ordinals_, rank); }
int64_t DocumentIndex::rank(int64_t ordinal) const { return place(ranks_, wide_ranks_, ordinal); }

TokenRange DocumentIndex::tokens(int64_t ordinal) const {
  OVERPROOF_CHECK(ordinal >= 0 && ordinal < documents_);
  const size_t i = size_t(ordinal);
  const bool train = tokens_[0][i + 1] != tokens_[0][i];
  const auto& stream = tokens_[train ? 0 : 1];
  if (stream[i] < 0 || stream[i + 1] <= stream[i] || stream[i + 1] > stream.back() ||
      (train && tokens_[1][i + 1] != tokens_[1][i]))
    fail(fmt::format("the tokens of document {} do not follow those before it", ordinal));
  return {train ? Split::train : Split::held_out, stream[i], stream[i + 1] - stream[i]};
}

int64_t DocumentIndex::stream_tokens(Split split) const { return tokens_[size_t(split)].back(); }

int64_t DocumentIndex::at(Split split, int64_t position) const {
  const auto& stream = tokens_[size_t(split)];
  OVERPROOF_CHECK(position >= 0 && position < stream.back());
  // Documents of the other split add nothing, so the last that begins at or before the position holds it.
  const double share = double(position) / double(stream.back());
  const int64_t ordinal = first_not(documents_ + 1, share, [&](int64_t i) { return stream[size_t(i)] <= position; }) - 1;
  if (ordinal < 0 || ordinal >= documents_) fail("its token counts do not ascend");
  return ordinal;
}

std::vector<int64_t> DocumentIndex::in_window(Split split, int64_t window, int64_t length) const {
  const auto& stream = tokens_[size_t(split)];
  OVERPROOF_CHECK(window >= 0 && length >= 1 && window <= (stream.back() - 1) / length);
  const int64_t last = std::min(window * length + length, stream.back() - 1);
  std::vector<int64_t> found;
  for (int64_t i = at(split, window * length); i < documents_ && stream[size_t(i)] <= last; ++i)
    if (stream[size_t(i) + 1] > stream[size_t(i)]) found.push_back(i);
  return found;
}

std::pair<int64_t, int64_t> DocumentIndex::record(int64_t ordinal) const {
  OVERPROOF_CHECK(ordinal >= 0 && ordinal < documents_);
  const int64_t begin = records_[size_t(ordinal)], end = records_[size_t(ordinal) + 1];
  if (begin < 0 || end <= begin) fail(fmt::format("the record of document {} has no place", ordinal));
  return {begin, end};
}

void DocumentIndexBuilder::add(const Digest& key, Split split, int64_t tokens, int64_t record) {
  OVERPROOF_CHECK(tokens >= 1);
  keys_.push_back(key);
  for (int s = 0; s < 2; ++s) tokens_[s].push_back(total_[s]);
  total_[size_t(split)] += tokens;
  records_.push_back(record);
}

void DocumentIndexBuilder::sort() {
  // By the first byte, and each of the 256 parts separately: the same order on any number of threads.
  std::vector<size_t> begin(257, 0);
  for (const Digest& key : keys_) ++begin[size_t(key.bytes[0]) + 1];
  for (size_t b = 0; b < 256; ++b) begin[b + 1] += begin[b];
  struct Item {
    uint64_t prefix;
    int64_t ordinal;
  };
  std::vector<Item> items(keys_.size());
  std::vector<size_t> next(begin.begin(), begin.end() - 1);
  for (size_t i = 0; i < keys_.size(); ++i) items[next[keys_[i].bytes[0]]++] = {prefix_of(keys_[i].bytes.data()), int64_t(i)};
  parallel_for(256, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b)
      std::sort(items.begin() + ptrdiff_t(begin[size_t(b)]), items.begin() + ptrdiff_t(begin[size_t(b) + 1]),
                [&](const Item& x, const Item& y) {
                  return x.prefix != y.prefix ? x.prefix < y.prefix : keys_[size_t(x.ordinal)] < keys_[size_t(y.ordinal)];
                });
  });
  ordinals_.resize(items.size());
  for (size_t r = 0; r < items.size(); ++r) {
    ordinals_[r] = items[r].ordinal;
    if (r > 0 && items[r].prefix == items[r - 1].prefix && keys_[size_t(ordinals_[r])] == keys_[size_t(ordinals_[r - 1])])
      throw MismatchError(fmt::format("documents {} and {} of the table are the same", ordinals_[r - 1], ordinals_[r]));
  }
}

void DocumentIndexBuilder::write(OutputFolder& folder, int64_t table_bytes) {
  sort();
  const int64_t n = documents();
  const DType place = n < kMostNarrow ? DType::u32 : DType::i64;
  SafetensorsWriter writer(folder, kFile,
                           {{"keys", DType::u8, {n, 32}},
                            {"train", DType::i64, {n + 1}},
                            {"held_out", DType::i64, {n + 1}},
                            {"records", DType::i64, {n + 1}},
                            {"ordinals", place, {n}},
                            {"ranks", place, {n}}},
                           {{"format_version", "1"}});
  std::vector<Digest> piece;
  for (int64_t r = 0; r < n;) {
    piece.clear();
    for (; r < n && piece.size() < 4096; ++r) piece.push_back(keys_[size_t(ordinals_[size_t(r)])]);
    writer.append(piece.data(), piece.size() * sizeof(Digest));
  }
  const auto put = [&](std::vector<int64_t>& values, int64_t end) {
    values.push_back(end);
    writer.append(values.data(), values.size() * sizeof(int64_t));
    values.pop_back();
  };
  put(tokens_[0], total_[0]);
  put(tokens_[1], total_[1]);
  put(records_, table_bytes);
  std::vector<int64_t> ranks(ordinals_.size());
  for (size_t r = 0; r < ordinals_.size(); ++r) ranks[size_t(ordinals_[r])] = int64_t(r);
  for (const std::vector<int64_t>* values : {&ordinals_, &ranks}) {
    if (place == DType::i64) {
      writer.append(values->data(), values->size() * sizeof(int64_t));
    } else {
      const std::vector<uint32_t> narrow(values->begin(), values->end());
      writer.append(narrow.data(), narrow.size() * sizeof(uint32_t));
    }
  }
  writer.close();
}

}  // namespace overproof
