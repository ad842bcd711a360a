#include "data/corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include "core/checked.h"
#include "core/error.h"
#include "core/json_object.h"
#include "data/texts_file.h"
#include "formats/metadata.h"

namespace overproof {

namespace {

constexpr const char* kSplitNames[] = {"train", "held_out"};
constexpr const char* kMaskNames[] = {"train_mask", "held_out_mask"};

bool document_attention_of(const SafetensorsFile& stream) {
  const auto it = stream.metadata().find("document_attention");
  if (it == stream.metadata().end()) return false;
  if (it->second != "on") throw FormatError(stream.path(), -1, fmt::format("document_attention is '{}'; only 'on' is known", it->second));
  return true;
}

/// `name` of a record of texts/: a list of [begin, end) that ascend.
std::vector<ByteRange> byte_ranges(const JsonObject& record, const char* name, int64_t bytes) {
  std::vector<ByteRange> ranges;
  int64_t last = 0;
  for (const Json& pair : record.list(name)) {
    const auto number = [&](size_t i) { return pair.is_array() && pair.size() == 2 && pair[i].is_number_unsigned() ? pair[i].get<uint64_t>() : ~uint64_t{0}; };
    const uint64_t begin = number(0), end = number(1);
    if (end > uint64_t(bytes) || begin >= end || begin < uint64_t(last)) record.fail(name, "is not a list of ascending [begin, end) in its text");
    ranges.push_back({int64_t(begin), int64_t(end)});
    last = int64_t(end);
  }
  return ranges;
}

std::vector<Document> read_documents(const fs::path& file) {
  std::vector<Document> documents;
  for_each_line(MappedFile(file),
                [&](std::string_view line, int64_t offset) { documents.push_back(parse_document(line, file, offset)); });
  return documents;
}

}  // namespace

void for_each_line(const MappedFile& file, const std::function<void(std::string_view, int64_t)>& visit) {
  const std::string_view all(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find('\n', at), all.size());
    visit(all.substr(at, end - at), int64_t(at));
    at = end + 1;
  }
}

Document parse_document(std::string_view line, const fs::path& file, int64_t offset) {
  const Json json = parse_json(line, file, offset);
  const JsonObject record(json, file, "", JsonNull::value, offset);
  constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
  Document document;
  document.digest = record.digest("digest");
  document.name = record.text("name");
  document.source = record.text("source");
  document.license = record.text("license");
  document.license_rule = record.text("license_rule");
  document.bytes = record.integer("bytes", 0, kAny);
  document.first_token = record.integer("first_token", 0, kAny);
  document.tokens = record.integer("tokens", 0, kAny);
  document.trained = record.integer("trained", 0, document.tokens, int64_t{-1});
  document.weight = record.number("weight", 1.0);
  if (!(document.weight > 0 && document.weight <= 1)) record.fail("weight", "is outside of 0 to 1");
  document.teacher = record.text("teacher", "");
  const std::string split = record.text("split");
  if (split != kSplitNames[0] && split != kSplitNames[1])
    record.fail("split", fmt::format("is '{}'; train and held_out are known", split.substr(0, 100)));
  document.split = split == kSplitNames[0] ? Split::train : Split::held_out;
  return document;
}

Corpus::Corpus(const fs::path& artifact)
    : stream_(artifact / "tokens.safetensors"), documents_(read_documents(artifact / "documents.jsonl")) {
  vocab_size_ = metadata_integer(stream_, "vocab_size", 1, int64_t{1} << 31);
  window_length_ = metadata_integer(stream_, "window_length", 1, int64_t{1} << 24);
  tokenizer_ = TokenizerIdentity::from_metadata(stream_.metadata(), stream_.path());
  for (const char* name : kSplitNames) {
    const TensorInfo& info = stream_.info(name);
    if (info.shape.size() != 1 || (info.dtype != DType::u16 && info.dtype != DType::u32)) {
      throw FormatError(stream_.path(), -1, fmt::format("'{}' must be one row of U16 or U32", name));
    }
  }
  has_mask_ = stream_.contains(kMaskNames[0]);
  for (size_t i = 0; i < 2 && has_mask_; ++i)
    if (!stream_.contains(kMaskNames[i]) || stream_.info(kMaskNames[i]).dtype != DType::u8 ||
        stream_.info(kMaskNames[i]).shape != stream_.info(kSplitNames[i]).shape)
      throw FormatError(stream_.path(), -1, fmt::format("'{}' is not one U8 for each token of '{}'", kMaskNames[i], kSplitNames[i]));
  document_attention_ = document_attention_of(stream_);
  int64_t filled[2] = {0, 0};
  for (size_t i = 0; i < documents_.size(); ++i) {
    const Document& document = documents_[i];
    int64_t& end = filled[size_t(document.split)];
    const auto next = checked_add(end, document.tokens);
    if (document.first_token != end || document.tokens < 1 || document.bytes < 0 || !next) {
      throw FormatError(artifact / "documents.jsonl", -1,
                        fmt::format("document '{}' does not follow the one before it in the token stream", document.name));
    }
    end = *next;
    has_weights_ |= document.weight != 1;
    order_[size_t(document.split)].push_back(i);
  }
  for (const Split split : {Split::train, Split::held_out}) {
    if (filled[size_t(split)] != tokens(split)) {
      throw FormatError(stream_.path(), -1,
                        fmt::format("'{}' holds {} tokens, the documents have {}", kSplitNames[size_t(split)], tokens(split),
                                    filled[size_t(split)]));
    }
  }
  by_name_.resize(documents_.size());
  std::iota(by_name_.begin(), by_name_.end(), size_t{0});
  by_digest_ = by_name_;
  std::sort(by_name_.begin(), by_name_.end(), [&](size_t a, size_t b) { return documents_[a].name < documents_[b].name; });
  std::sort(by_digest_.begin(), by_digest_.end(),
            [&](size_t a, size_t b) { return documents_[a].digest < documents_[b].digest; });
  for (size_t i = 1; i < documents_.size(); ++i) {
    const Document &a = documents_[by_name_[i - 1]], &b = documents_[by_name_[i]];
    if (a.name == b.name)
      throw FormatError(artifact / "documents.jsonl", -1, fmt::format("two documents are called '{}'", a.name));
    if (documents_[by_digest_[i - 1]].digest == documents_[by_digest_[i]].digest) {
      throw FormatError(
          artifact / "documents.jsonl", -1,
          fmt::format("'{}' and '{}' are the same document", documents_[by_digest_[i - 1]].name, documents_[by_digest_[i]].name));
    }
  }
}

int64_t Corpus::tokens(Split split) const { return stream_.info(kSplitNames[size_t(split)]).elements(); }

int64_t Corpus::windows(Split split) const { return std::max<int64_t>(0, tokens(split) - 1) / window_length_; }

void Corpus::read_window(Split split, int64_t window, std::span<int64_t> ids) const {
  OVERPROOF_CHECK(window >= 0 && window < windows(split) && int64_t(ids.size()) == window_length_ + 1);
  const char* name = kSplitNames[size_t(split)];
  const int64_t first = window * window_length_;
  const auto copy = [&](auto values) {
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = int64_t(values[size_t(first) + i]);
  };
  if (stream_.info(name).dtype == DType::u16) {
    copy(stream_.values<uint16_t>(name));
  } else {
    copy(stream_.values<uint32_t>(name));
  }
  // Checked here and not when opened: a large stream is read once, not twice.
  for (const int64_t id : ids) {
    if (id >= vocab_size_)
      throw FormatError(stream_.path(), -1, fmt::format("token id {} is outside the vocabulary of {}", id, vocab_size_));
  }
}

void Corpus::read_mask(Split split, int64_t window, std::span<float> mask) const {
  OVERPROOF_CHECK(window >= 0 && window < windows(split) && int64_t(mask.size()) == window_length_);
  if (!has_mask_) {
    std::ranges::fill(mask, 1.0f);
    return;
  }
  const auto trained = stream_.values<uint8_t>(kMaskNames[size_t(split)]).subspan(size_t(window * window_length_ + 1), mask.size());
  for (size_t i = 0; i < mask.size(); ++i) {
    if (trained[i] > 1) throw FormatError(stream_.path(), -1, fmt::format("'{}' holds {}; only 0 and 1 are known", kMaskNames[size_t(split)], trained[i]));
    mask[i] = float(trained[i]);
  }
}

void Corpus::read_weights(Split split, int64_t window, std::span<float> weights) const {
  read_mask(split, window, weights);
  if (!has_weights_) return;
  const int64_t begin = window * window_length_ + 1, end = begin + int64_t(weights.size());  // of the labels
  for (int64_t at = begin; at < end;) {
    const Document& document = document_at(split, at);
    const int64_t stop = std::min(end, document.first_token + document.tokens);
    for (; at < stop; ++at) weights[size_t(at - begin)] *= float(document.weight);
  }
}

const Document& Corpus::document_at(Split split, int64_t position) const {
  OVERPROOF_CHECK(position >= 0 && position < tokens(split));
  const auto& order = order_[size_t(split)];
  const auto it =
      std::upper_bound(order.begin(), order.end(), position, [&](int64_t p, size_t i) { return p < documents_[i].first_token; });
  return documents_[*(it - 1)];
}

const Document* Corpus::find(std::string_view name_or_digest) const {
  const std::optional<Digest> digest = as_digest(name_or_digest);
  if (!digest) {
    const auto named = std::lower_bound(by_name_.begin(), by_name_.end(), name_or_digest,
                                        [&](size_t i, std::string_view name) { return documents_[i].name < name; });
    return named != by_name_.end() && documents_[*named].name == name_or_digest ? &documents_[*named] : nullptr;
  }
  const auto found = std::lower_bound(by_digest_.begin(), by_digest_.end(), *digest,
                                      [&](size_t i, const Digest& d) { return documents_[i].digest < d; });
  return found != by_digest_.end() && documents_[*found].digest == *digest ? &documents_[*found] : nullptr;
}

std::string texts_file_name(std::string_view source) {
  constexpr size_t kPlainBytes = 100, kShownBytes = 60;
  std::string name;
  for (const char c : source) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '+' || (c == '.' && !name.empty());
    name += plain ? c : '-';  // no hidden file, no ".."
  }
  const bool changed = name != source || name.empty() || name.size() > kPlainBytes;
  if (changed) name = fmt::format("{}-{}", name.substr(0, kShownBytes), sha256(source).hex().substr(0, 16));
  return "texts/" + name + ".jsonl";
}

std::string earlier_texts_file_name(std::string_view source) {
  std::string name = "texts/";
  for (const char c : source) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '+' ||
                       c == '-' || (c == '.' && name.size() > 6);
    name += plain ? std::string(1, c) : fmt::format("%{:02X}", uint8_t(c));
  }
  return name + ".jsonl";
}

std::optional<Digest> as_digest(std::string_view text) {
  try {
    return Digest::from_hex(text);
  } catch (const UsageError&) {
    return std::nullopt;
  }
}

void for_each_text(const fs::path& artifact, const std::function<void(const Document&, std::string_view text)>& visit) {
  for_each_text_while(artifact, [&](const Document& document, std::string_view text) {
    visit(document, text);
    return true;
  });
}

void for_each_text_while(const fs::path& artifact, const std::function<bool(const Document&, std::string_view text)>& visit) {
  for_each_stored_text(artifact, [&](const Document& document, const StoredText& stored) { return visit(document, stored.text); });
}

void for_each_stored_text(const fs::path& artifact, const std::function<bool(const Document&, const StoredText&)>& visit) {
  const MappedFile table(artifact / "documents.jsonl");
  const std::string_view lines(reinterpret_cast<const char*>(table.bytes().data()), table.bytes().size());
  size_t at = 0;
  std::optional<Document> next;
  const auto advance = [&] {
    next.reset();
    if (at == lines.size()) return;
    const size_t end = std::min(lines.find('\n', at), lines.size());
    next = parse_document(lines.substr(at, end - at), table.path(), int64_t(at));
    at = std::min(end + 1, lines.size());
  };
  advance();
  bool more = true;
  while (next && more) {
    const std::string source = next->source;
    fs::path path = artifact / texts_file_name(source);
    if (const fs::path earlier = artifact / earlier_texts_file_name(source); !fs::exists(path) && fs::exists(earlier)) path = earlier;
    for_each_line(MappedFile(path), [&](std::string_view line, int64_t offset) {
      if (!more) return;
      const Json record = parse_json(line, path, offset);
      const JsonObject members(record, path, "", JsonNull::value, offset);
      StoredText stored{.text = members.text("text")};
      if (members.has("trained")) {
        stored.marked = true;
        stored.quoted = byte_ranges(members, "quoted", int64_t(stored.text.size()));
        stored.trained = byte_ranges(members, "trained", int64_t(stored.text.size()) + 1);
      }
      if (!next || next->source != source || sha256(stored.text) != next->digest || members.text("name", next->name) != next->name) {
        throw FormatError(path, offset, "its texts are not the documents of the table, in order");
      }
      more = visit(*next, stored);
      advance();
    });
    if (more && next && next->source == source)
      throw FormatError(path, -1, fmt::format("the text of '{}' is missing", next->name));
  }
}

}  // namespace overproof
