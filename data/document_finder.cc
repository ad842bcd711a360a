#include "data/document_finder.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "data/commitment.h"
#include "formats/metadata.h"

namespace overproof {

DocumentFinder::DocumentFinder(const fs::path& artifact)
    : stream_(artifact / "tokens.safetensors"), table_(artifact / "documents.jsonl") {
  window_length_ = metadata_integer(stream_, "window_length", 1, int64_t{1} << 24);
  if (!CorpusCommitment::is_in(artifact)) return;
  is_private_ = CorpusCommitment(artifact).roots().is_private();
  index_.emplace(artifact);
}

int64_t DocumentFinder::windows(Split split) const {
  const int64_t tokens = stream_.info(split == Split::train ? "train" : "held_out").elements();
  return std::max<int64_t>(0, tokens - 1) / window_length_;
}

/// Only lines that hold `text` are parsed.
std::optional<Document> DocumentFinder::read_through(std::string_view text, std::string_view name, const Digest* digest) const {
  const std::string_view all(reinterpret_cast<const char*>(table_.bytes().data()), table_.bytes().size());
  for (size_t at = all.find(text); at != std::string_view::npos; at = all.find(text, at)) {
    const size_t newline = all.rfind('\n', at), begin = newline == std::string_view::npos ? 0 : newline + 1,
                 end = std::min(all.find('\n', at), all.size());
    Document document = parse_document(all.substr(begin, end - begin), table_.path(), int64_t(begin));
    if (digest ? document.digest == *digest : document.name == name) return document;
    at = end;
  }
  return std::nullopt;
}

std::optional<Document> DocumentFinder::find(std::string_view name_or_digest) const {
  const std::string quoted = Json(std::string(name_or_digest)).dump(-1, ' ', false, Json::error_handler_t::replace);
  std::optional<Digest> digest;
  try {
    digest = Digest::from_hex(name_or_digest);
  } catch (const UsageError&) {
  }
  if (!digest) return read_through(quoted, name_or_digest, nullptr);
  if (index_ && !is_private_) {
    if (const auto ordinal = index_->find(*digest)) {
      const auto [begin, end] = index_->record(*ordinal);
      if (end > table_.size()) throw FormatError(index_->path(), -1, "places a record beyond the table's end");
      const std::string_view line(reinterpret_cast<const char*>(table_.bytes().data()) + begin, size_t(end - begin - 1));
      Document document = parse_document(line, table_.path(), begin);
      const TokenRange tokens = index_->tokens(*ordinal);
      if (document.digest != *digest || tokens.split != document.split || tokens.first != document.first_token ||
          tokens.count != document.tokens)
        throw FormatError(index_->path(), -1, fmt::format("says something else about sha256:{} than the table", digest->hex()));
      return document;
    }
  }
  auto document = read_through(digest->hex(), {}, &*digest);
  if (document && index_ && !is_private_)
    throw FormatError(index_->path(), -1, fmt::format("does not know sha256:{}, which the table lists", digest->hex()));
  // A name may look like a digest.
  return document ? document : read_through(quoted, name_or_digest, nullptr);
}

}  // namespace overproof
