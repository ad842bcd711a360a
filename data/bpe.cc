#include "data/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <queue>
#include <unordered_map>

#include "core/error.h"
#include "core/utf8.h"
#include "data/unicode.h"

namespace overproof {

namespace {

struct ByteAlphabet {
  std::array<char32_t, 256> chars{};
  std::array<int16_t, 324> bytes{};  // the alphabet ends at U+0143

  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      chars[size_t(b)] = printable ? char32_t(b) : next++;
      bytes[chars[size_t(b)]] = int16_t(b);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

struct Merge {
  int32_t rank = -1;
  int32_t id = -1;
};

/// Words and their ids, bounded: a full shard is emptied, so memory stays below kShards x kWords x (kLongest + ids).
/// Hits only save time; what is returned never depends on them.
class WordCache {
 public:
  bool find(std::string_view word, std::vector<int32_t>& ids) {
    if (word.size() > kLongest) return false;
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    const auto it = shard.words.find(word);
    if (it == shard.words.end()) return false;
    ids.insert(ids.end(), it->second.begin(), it->second.end());
    return true;
  }
  void insert(std::string_view word, const int32_t* begin, const int32_t* end) {
    if (word.size() > kLongest) return;
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    if (shard.words.size() >= kWords) shard.words.clear();
    shard.words.try_emplace(std::string(word), begin, end);
  }

 private:
  static constexpr size_t kShards = 16, kWords = 8192, kLongest = 48;
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<int32_t>, Hash, std::equal_to<>> words;
  };
  Shard& shard_of(std::string_view word) { return shards_[Hash{}(word) >> 7 & (kShards - 1)]; }
  std::array<Shard, kShards> shards_;
};

}  // namespace

char32_t byte_level_char(uint8_t byte) { return byte_alphabet().chars[byte]; }

std::optional<std::string> byte_level_bytes(std::string_view token) {
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    const Utf8Char c = decode_utf8(token.substr(i));
    if (!c.valid || c.code >= byte_alphabet().bytes.size() || byte_alphabet().bytes[c.code] < 0) return std::nullopt;
    bytes += char(byte_alphabet().bytes[c.code]);
    i += size_t(c.bytes);
  }
  return bytes;
}

Digest BpeDefinition::digest() const {
  Sha256 hash;
  const auto number = [&](int64_t value) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = uint8_t(uint64_t(value) >> (8 * i));
    hash.update(bytes, 8);
  };
  // Every list and every text is preceded by its length, so no two definitions give the same bytes.
  const auto text = [&](std::string_view t) {
    number(int64_t(t.size()));
    hash.update(t);
  };
  hash.update("overproof byte-level BPE v1");
  number(int64_t(tokens.size()));
  for (const std::string& token : tokens) text(token);
  number(int64_t(merges.size()));
  for (const auto& [left, right] : merges) {
    text(left);
    text(right);
  }
  number(int64_t(pre_tokenizer.size()));
  for (const SplitStep& step : pre_tokenizer) {
    text(step.pattern);
    number(int64_t(step.literal) | int64_t(step.invert) << 1 | int64_t(step.add_prefix_space) << 2 |
           int64_t(step.behaviour) << 3);
  }
  std::vector<AddedToken> sorted = added;
  std::ranges::stable_sort(sorted, {}, &AddedToken::id);
  number(int64_t(sorted.size()));
  for (const AddedToken& token : sorted) {
    number(token.id);
    text(token.text);
    number(int64_t(token.special) | int64_t(token.lstrip) << 1 | int64_t(token.rstrip) << 2 | int64_t(token.normalized) << 3 |
           int64_t(token.single_word) << 4);
  }
  number(int64_t(nfc) | int64_t(ignore_merges) << 1 | int64_t(fuse_unknown) << 2);
  number(unknown_symbol);
  return hash.finish();
}

struct BpeTokenizer::Impl {
  BpeDefinition definition;
  PreTokenizer pre_tokenizer;
  AddedTokenFinder raw_added, normalized_added;
  std::array<int32_t, 256> byte_ids{};
  std::unordered_map<uint64_t, Merge> merges;              // by (left id, right id)
  std::unordered_map<std::string_view, int32_t> by_text;   // of definition.tokens
  std::vector<std::string> decoded;                        // by id: the bytes of a token
  std::unordered_map<std::string_view, int32_t> by_bytes;  // whole pieces, of `decoded`, for ignore_merges
  mutable WordCache cache;

  static uint64_t key(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

  Impl(BpeDefinition def, const std::filesystem::path& file)
      : definition(std::move(def)), pre_tokenizer(definition.pre_tokenizer, file) {
    if (definition.tokens.size() > (size_t{1} << 24)) throw FormatError(file, -1, "the vocabulary holds over 16,777,216 tokens");
    for (size_t id = 0; id < definition.tokens.size(); ++id) {
      if (definition.tokens[id].empty()) continue;
      if (invalid_utf8_at(definition.tokens[id]) >= 0) throw FormatError(file, -1, fmt::format("token {} is not UTF-8", id));
      if (!by_text.emplace(definition.tokens[id], int32_t(id)).second) {
        throw FormatError(file, -1, fmt::format("token '{}' has two ids", definition.tokens[id]));
      }
    }
    std::vector<bool> is_added(definition.tokens.size(), false);
    for (const AddedToken& token : definition.added) {
      if (token.id < 0 || size_t(token.id) >= definition.tokens.size()) {
        throw FormatError(file, -1, fmt::format("added token '{}' has id {}, outside the vocabulary", token.text, token.id));
      }
      // Looked for at every place of a text.
      if (token.text.size() > kLongestAddedToken)
        throw FormatError(file, -1, fmt::format("added token {} has {} bytes, more than {}", token.id, token.text.size(), kLongestAddedToken));
      is_added[size_t(token.id)] = true;
    }
    for (int b = 0; b < 256; ++b) {
      std::string symbol;
      append_utf8(symbol, byte_level_char(uint8_t(b)));
      const auto it = by_text.find(symbol);
      byte_ids[size_t(b)] = it == by_text.end() ? definition.unknown_symbol : it->second;
    }
    merges.reserve(definition.merges.size());
    for (size_t rank = 0; rank < definition.merges.size(); ++rank) {
      const auto& [left, right] = definition.merges[rank];
      const auto l = by_text.find(left), r = by_text.find(right), whole = by_text.find(left + right);
      if (l == by_text.end() || r == by_text.end() || whole == by_text.end()) {
        throw FormatError(
            file, -1,
            fmt::format("merge {} ('{}' and '{}') names or makes a token that is not in the vocabulary", rank, left, right));
      }
      merges.insert_or_assign(key(l->second, r->second), Merge{int32_t(rank), whole->second});
    }
    decoded.resize(definition.tokens.size());
    for (size_t id = 0; id < decoded.size(); ++id) {
      auto bytes = is_added[id] ? std::nullopt : byte_level_bytes(definition.tokens[id]);
      decoded[id] = bytes ? std::move(*bytes) : definition.tokens[id];
      if (definition.ignore_merges && bytes && !decoded[id].empty()) by_bytes.emplace(decoded[id], int32_t(id));
    }
    raw_added = AddedTokenFinder(definition.added, false);
    std::vector<AddedToken> normal = definition.added;  // looked for in the normalised text, so they are normalised too
    for (AddedToken& token : normal)
      if (token.normalized && definition.nfc && !surely_nfc(token.text)) token.text = to_nfc(token.text);
    normalized_added = AddedTokenFinder(normal, true);
  }

  void encode_word(std::string_view word, std::vector<int32_t>& ids) const {
    if (cache.find(word, ids)) return;
    const size_t before = ids.size();
    if (const auto it = by_bytes.find(word); it != by_bytes.end()) {
      ids.push_back(it->second);
    } else {
      merge_word(word, ids);
    }
    cache.insert(word, ids.data() + before, ids.data() + ids.size());
  }

  /// Lowest rank first, then leftmost; a heap of candidate pairs over a linked list of symbols: O(n log n).
  void merge_word(std::string_view word, std::vector<int32_t>& ids) const {
    struct Symbol {
      int32_t id, previous, next;
    };
    struct Candidate {
      int32_t rank, left, left_id, right_id, id;
      bool operator>(const Candidate& o) const { return rank != o.rank ? rank > o.rank : left > o.left; }
    };
    if (word.size() > size_t{1} << 30) throw MismatchError("a single word of over 1 GiB cannot be tokenised");
    std::vector<Symbol> symbols;
    symbols.reserve(word.size());
    bool after_unknown = false;
    for (const char c : word) {
      const int32_t id = byte_ids[uint8_t(c)];
      const bool unknown = id < 0 || id == definition.unknown_symbol;
      if (id >= 0 && !(unknown && after_unknown && definition.fuse_unknown)) symbols.push_back({id, 0, 0});
      after_unknown = unknown;
    }
    const int32_t n = int32_t(symbols.size());
    for (int32_t i = 0; i < n; ++i) symbols[size_t(i)].previous = i - 1, symbols[size_t(i)].next = i + 1 < n ? i + 1 : -1;

    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
    const auto offer = [&](int32_t left, int32_t right) {
      if (left < 0 || right < 0) return;
      const int32_t a = symbols[size_t(left)].id, b = symbols[size_t(right)].id;
      if (const auto it = merges.find(key(a, b)); it != merges.end()) queue.push({it->second.rank, left, a, b, it->second.id});
    };
    for (int32_t i = 0; i + 1 < n; ++i) offer(i, i + 1);
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      Symbol& left = symbols[size_t(best.left)];
      // Outdated when either side has been merged since: absorbed symbols have id -1.
      if (left.id != best.left_id || left.next < 0 || symbols[size_t(left.next)].id != best.right_id) continue;
      Symbol& right = symbols[size_t(left.next)];
      left.id = best.id;
      right.id = -1;
      left.next = right.next;
      if (left.next >= 0) symbols[size_t(left.next)].previous = best.left;
      offer(left.previous, best.left);
      offer(best.left, left.next);
    }
    for (int32_t i = n > 0 ? 0 : -1; i >= 0; i = symbols[size_t(i)].next) ids.push_back(symbols[size_t(i)].id);
  }

  void encode_text(std::string_view text, std::vector<int32_t>& ids) const {
    std::vector<std::unique_ptr<std::string>> storage;
    for (const std::string_view word : pre_tokenizer.split(text, storage)) encode_word(word, ids);
  }
};

BpeTokenizer::BpeTokenizer(BpeDefinition definition, const std::filesystem::path& file)
    : impl_(std::make_unique<Impl>(std::move(definition), file)) {}
BpeTokenizer::~BpeTokenizer() = default;

void BpeTokenizer::encode(std::string_view text, std::vector<int32_t>& ids, bool parse_special) const {
  std::string repaired;
  if (invalid_utf8_at(text) >= 0) text = repaired = to_valid_utf8(text);
  std::vector<TextPart> raw, parts;
  impl_->raw_added.split(text, parse_special, raw);
  if (impl_->raw_added.empty() && !text.empty()) raw = {{text, -1}};
  for (const TextPart& outer : raw) {
    if (outer.id >= 0) {
      ids.push_back(outer.id);
      continue;
    }
    std::string normal;
    std::string_view plain = outer.text;
    if (impl_->definition.nfc && !surely_nfc(plain)) plain = normal = to_nfc(plain);
    if (impl_->normalized_added.empty()) {
      impl_->encode_text(plain, ids);
      continue;
    }
    parts.clear();
    impl_->normalized_added.split(plain, parse_special, parts);
    for (const TextPart& part : parts) {
      if (part.id >= 0) {
        ids.push_back(part.id);
      } else {
        impl_->encode_text(part.text, ids);
      }
    }
  }
}

std::string BpeTokenizer::decode(const std::vector<int32_t>& ids) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size())
      throw MismatchError(fmt::format("token id {} is outside the tokenizer's vocabulary of {}", id, vocab_size()));
    bytes += impl_->decoded[size_t(id)];
  }
  return to_valid_utf8(bytes);
}

int64_t BpeTokenizer::vocab_size() const { return int64_t(impl_->definition.tokens.size()); }
std::string BpeTokenizer::token_text(int32_t id) const {
  if (id < 0 || id >= vocab_size())
    throw MismatchError(fmt::format("token id {} is outside the tokenizer's vocabulary of {}", id, vocab_size()));
  return impl_->definition.tokens[size_t(id)];
}
std::vector<AddedToken> BpeTokenizer::special_tokens() const {
  std::vector<AddedToken> special;
  for (const AddedToken& token : impl_->definition.added)
    if (token.special) special.push_back(token);
  return special;
}
int32_t BpeTokenizer::bos_id() const { return impl_->definition.bos; }
int32_t BpeTokenizer::eos_id() const { return impl_->definition.eos; }
const BpeDefinition& BpeTokenizer::definition() const { return impl_->definition; }

}  // namespace overproof
