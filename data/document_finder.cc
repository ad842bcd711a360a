#include "data/document_finder.h"

#include <fmt/format.h>
#include <string.h>  // memmem

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "data/commitment.h"
#include "data/corpus.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

constexpr int kMostSources = 256;  // among which a name is searched for, before reading the table through is no slower

std::string as_json(std::string_view text) { return dump_text(std::string(text)); }

/// The first of [low, high) for which `below` is false.
template <class Below>
int64_t first_not(int64_t low, int64_t high, Below below) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (below(middle)) low = middle + 1;
    else high = middle;
  }
  return low;
}

}  // namespace

DocumentFinder::DocumentFinder(const fs::path& artifact, Reads reads)
    : artifact_(artifact),
      stream_(artifact / "tokens.safetensors", Reads::scattered),
      table_(artifact / "documents.jsonl", reads) {
  window_length_ = metadata_integer(stream_, "window_length", 1, int64_t{1} << 24);
  if (!CorpusCommitment::is_in(artifact)) return;
  const Commitment commitment = CorpusCommitment::roots_of(artifact);
  is_private_ = commitment.is_private();
  index_.emplace(artifact, reads);
  if (index_->documents() != commitment.documents.size)
    throw FormatError(index_->path(), -1,
                      fmt::format("has {} documents, the commitment {}", index_->documents(), commitment.documents.size));
  for (const Split split : {Split::train, Split::held_out})
    if (const int64_t there = stream_.info(split == Split::train ? "train" : "held_out").elements();
        there != index_->stream_tokens(split))
      throw FormatError(stream_.path(), -1,
                        fmt::format("has a stream of {} tokens, the index {}", there, index_->stream_tokens(split)));
}

int64_t DocumentFinder::windows(Split split) const {
  const int64_t tokens = stream_.info(split == Split::train ? "train" : "held_out").elements();
  return std::max<int64_t>(0, tokens - 1) / window_length_;
}

const Corpus& DocumentFinder::loaded() const {
  std::call_once(load_once_, [this] { corpus_ = std::make_unique<Corpus>(artifact_); });
  return *corpus_;
}

int64_t DocumentFinder::documents() const { return index_ ? index_->documents() : int64_t(loaded().documents().size()); }

TokenRange DocumentFinder::tokens(int64_t ordinal) const {
  if (index_) return index_->tokens(ordinal);
  const Document& d = loaded().documents()[size_t(ordinal)];
  return {d.split, d.first_token, d.tokens};
}

std::string_view DocumentFinder::line(int64_t ordinal) const {
  const auto [begin, end] = index_->record(ordinal);
  if (end > table_.size()) throw FormatError(index_->path(), -1, "places a record beyond the table's end");
  return {reinterpret_cast<const char*>(table_.bytes().data()) + begin, size_t(end - begin - 1)};
}

Document DocumentFinder::document(int64_t ordinal) const {
  if (!index_) return loaded().documents()[size_t(ordinal)];
  Document document = parse_document(line(ordinal), table_.path(), index_->record(ordinal).first);
  const TokenRange tokens = index_->tokens(ordinal);
  // The keys of a private corpus are salted.
  const bool same_digest = is_private_ || index_->key(index_->rank(ordinal)) == document.digest;
  if (!same_digest || tokens.split != document.split || tokens.first != document.first_token || tokens.count != document.tokens)
    throw FormatError(index_->path(), -1,
                      fmt::format("contradicts the table about document {} (sha256:{})", ordinal, document.digest.hex()));
  return document;
}

std::vector<Document> DocumentFinder::at(Split split, int64_t first, int64_t end) const {
  OVERPROOF_CHECK(first >= 0 && end <= stream_.info(split == Split::train ? "train" : "held_out").elements());
  std::vector<Document> found;
  if (!index_) {
    for (int64_t token = first; token < end; token = found.back().first_token + found.back().tokens)
      found.push_back(loaded().document_at(split, token));
    return found;
  }
  if (first >= end) return found;
  for (int64_t i = index_->at(split, first); first < end; ++i) {
    if (i == documents()) throw FormatError(index_->path(), -1, "its documents end before its streams do");
    const TokenRange range = index_->tokens(i);
    if (range.split != split) continue;
    if (range.first > first || range.first + range.count <= first)
      throw FormatError(index_->path(), -1, fmt::format("token {} is in no document", first));
    found.push_back(document(i));
    first = range.first + range.count;
  }
  return found;
}

/// The table is in the order of sources, and of names within each.
std::optional<Document> DocumentFinder::by_name(std::string_view name) const {
  const auto read = [&](int64_t i) { return parse_document(line(i), table_.path(), index_->record(i).first); };
  const int64_t n = documents();
  int sources = 0;
  for (int64_t begin = 0, end; begin < n && sources < kMostSources; begin = end, ++sources) {
    const std::string source = read(begin).source;
    end = first_not(begin + 1, n, [&](int64_t i) { return read(i).source <= source; });
    const int64_t i = first_not(begin, end, [&](int64_t at) { return read(at).name < name; });
    if (i < end && read(i).name == name) return document(i);
  }
  return std::nullopt;
}

/// Only lines that hold `text` are parsed.
std::optional<Document> DocumentFinder::read_through(std::string_view text, std::string_view name, const Digest* digest) const {
  const MappedFile table(table_.path());
  const std::string_view all(reinterpret_cast<const char*>(table.bytes().data()), table.bytes().size());
  const auto next = [&](size_t from) {
    const void* at = ::memmem(all.data() + from, all.size() - from, text.data(), text.size());
    return at ? size_t(static_cast<const char*>(at) - all.data()) : std::string_view::npos;
  };
  for (size_t at = next(0); at != std::string_view::npos; at = next(at)) {
    const size_t newline = all.rfind('\n', at), begin = newline == std::string_view::npos ? 0 : newline + 1,
                 end = std::min(all.find('\n', at), all.size());
    Document document = parse_document(all.substr(begin, end - begin), table_.path(), int64_t(begin));
    if (digest ? document.digest == *digest : document.name == name) return document;
    at = end;
  }
  return std::nullopt;
}

std::optional<Document> DocumentFinder::find(std::string_view name_or_digest) const {
  const std::optional<Digest> digest = as_digest(name_or_digest);  // never a name: a maker could give the digest of one text to another
  if (!digest) {
    if (index_)
      if (auto found = by_name(name_or_digest)) return found;
    return read_through(as_json(name_or_digest), name_or_digest, nullptr);
  }
  if (index_ && !is_private_)
    if (const auto ordinal = index_->find(*digest)) {
      // The key leads here; the digest in the record must be the same.
      Document found = document(*ordinal);
      if (found.digest == *digest) return found;
      throw FormatError(index_->path(), -1, fmt::format("leads from sha256:{} to another document", digest->hex()));
    }
  auto found = read_through(digest->hex(), {}, &*digest);
  if (found && index_ && !is_private_)
    throw FormatError(index_->path(), -1, fmt::format("has no sha256:{}, which is in the table", digest->hex()));
  return found;
}

}  // namespace overproof
