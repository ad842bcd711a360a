#include "data/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/lfs_pointer.h"
#include "core/file.h"
#include "core/utf8.h"
#include "data/added_tokens.h"

namespace overproof {

namespace {

constexpr int64_t kMostModelBytes = int64_t{256} << 20;
constexpr int64_t kMostTextBytes = int64_t{1} << 30;  // the library counts in int

/// Walks the fields of one protocol-buffer message. https://protobuf.dev/programming-guides/encoding
class ProtoReader {
 public:
  ProtoReader(std::string_view bytes, int64_t base, const fs::path& file) : bytes_(bytes), base_(base), file_(file) {}
  bool done() const { return at_ == bytes_.size(); }
  /// Reads the next field; its bytes (length-delimited or fixed) or its number (varint).
  void next() {
    const uint64_t tag = varint();
    field = tag >> 3;
    start = base_ + int64_t(at_);
    wire = int(tag & 7);
    if (field == 0) fail("a field has number 0");
    if (wire == 0) {
      number = varint();
    } else if (wire == 1 || wire == 5) {
      take(wire == 1 ? 8 : 4);
    } else if (wire == 2) {
      const uint64_t length = varint();
      start = base_ + int64_t(at_);
      take(length);
    } else {
      fail("a field has an unknown wire type");
    }
  }
  [[noreturn]] void fail(std::string_view cause) const { throw FormatError(file_, base_ + int64_t(at_), cause); }

  uint64_t field = 0, number = 0;
  int wire = 0;
  int64_t start = 0;  // of `payload`, in the file
  std::string_view payload;

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) fail("it ends inside a number");
      const auto byte = uint8_t(bytes_[at_++]);
      value |= uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number is longer than 64 bits");
  }
  void take(uint64_t length) {
    if (length > bytes_.size() - at_) fail("a field reaches beyond its message");
    payload = bytes_.substr(at_, size_t(length));
    at_ += size_t(length);
  }
  std::string_view bytes_;
  size_t at_ = 0;
  int64_t base_;
  const fs::path& file_;
};

/// precompiled_charsmap: u32 size of a Darts double-array trie, its u32 units, then NUL-terminated replacements.
/// Every unit that can be reached must lead to units inside the array, every value to a replacement.
void check_charsmap(std::string_view blob, int64_t base, const fs::path& file) {
  const auto fail = [&](std::string_view cause) { throw FormatError(file, base, cause); };
  if (blob.empty()) return;
  uint32_t trie_bytes = 0;
  if (blob.size() < 5) fail("the normalisation rules are cut short");
  memcpy(&trie_bytes, blob.data(), 4);
  if (trie_bytes % 4 != 0 || trie_bytes < 4 || trie_bytes >= blob.size() - 4)
    fail("the normalisation rules' trie has a wrong size");
  if (blob.back() != '\0') fail("the normalisation rules' last replacement is not ended");
  std::vector<uint32_t> units(trie_bytes / 4);
  memcpy(units.data(), blob.data() + 4, trie_bytes);
  const size_t replacements = blob.size() - 4 - trie_bytes;

  // Unit layout of Darts-clone: bit 31 a value, bit 8 has a leaf, bits 10.. the offset, scaled by 256 when bit 9 is set.
  std::vector<bool> seen(units.size(), false);
  std::vector<uint32_t> queue{0};
  seen[0] = true;
  while (!queue.empty()) {
    const uint32_t at = queue.back(), unit = units[at];
    queue.pop_back();
    const uint32_t children = at ^ ((unit >> 10) << ((unit & (1u << 9)) >> 6));
    // Any input byte is tried as a label, so the whole aligned block of 256 children must exist.
    if ((uint64_t(children) | 0xff) >= units.size()) fail("the normalisation rules' trie leaves its array");
    if (unit >> 8 & 1) {
      if ((units[children] & 0x7fffffffu) >= replacements) fail("the normalisation rules' trie names no replacement");
    }
    for (uint32_t label = 1; label < 256; ++label) {
      const uint32_t child = children ^ label;
      if ((units[child] & (0x80000000u | 0xff)) != label || seen[child]) continue;
      seen[child] = true;
      queue.push_back(child);
    }
  }
}

constexpr std::string_view kSpacePiece = "\xe2\x96\x81";

/// A second NormalizerSpec, which protocol buffers merge into the first: no space is put before a text, none is dropped.
constexpr std::string_view kKeepSpaces("\x1a\x06\x18\x00\x20\x00\x28\x01", 8);

class SentencePieceTokenizer final : public Tokenizer {
 public:
  using Prefix = SentencePieceAdditions::Prefix;

  SentencePieceTokenizer(std::string_view model, const fs::path& file, bool from_gguf, SentencePieceAdditions additions)
      : file_(file), digest_(sha256(model)), from_gguf_(from_gguf), adds_(!additions.tokens.empty()), prefix_(additions.prefix) {
    check_sentencepiece_model(model, file);
    const std::string changed = adds_ ? std::string(model) + std::string(kKeepSpaces) : std::string();
    if (const auto status = processor_.LoadFromSerializedProto(adds_ ? changed : model); !status.ok()) {
      throw FormatError(file, -1, fmt::format("SentencePiece refuses the model: {}", status.error_message()));
    }
    bos_ = additions.bos >= 0 ? additions.bos : processor_.bos_id();
    eos_ = additions.eos >= 0 ? additions.eos : processor_.eos_id();
    if (adds_) add(std::move(additions.tokens));
    else added_ = control_pieces();
    raw_ = AddedTokenFinder(added_, false);
  }

  std::vector<AddedToken> special_tokens() const override {
    std::vector<AddedToken> special;
    for (const AddedToken& token : added_)
      if (token.special) special.push_back(token);
    return special;
  }

  void encode(std::string_view text, std::vector<int32_t>& ids, bool parse_special) const override { encode_at(text, true, ids, parse_special); }
  void encode_after_token(std::string_view text, std::vector<int32_t>& ids) const override { encode_at(text, !adds_, ids, false); }

  std::string decode(const std::vector<int32_t>& ids) const override {
    std::string text;
    std::vector<int> run;
    const auto end_run = [&] {
      std::string part;
      if (const auto status = processor_.Decode(run, &part); !status.ok()) {
        throw FormatError(file_, -1, fmt::format("SentencePiece cannot decode: {}", status.error_message()));
      }
      text += part;
      run.clear();
    };
    for (const int32_t id : ids) {
      check_id(id);
      if (id < processor_.GetPieceSize()) {
        run.push_back(id);
        continue;
      }
      end_run();
      text += token_text(id);
    }
    end_run();
    if (adds_ && prefix_ != Prefix::never && text.starts_with(' ')) text.erase(0, 1);
    return text;
  }

  int64_t vocab_size() const override { return processor_.GetPieceSize() + int64_t(beyond_.size()); }
  std::string token_text(int32_t id) const override {
    check_id(id);
    return id < processor_.GetPieceSize() ? processor_.IdToPiece(id) : beyond_[size_t(id - processor_.GetPieceSize())];
  }
  Digest definition_digest() const override { return digest_; }
  bool from_gguf() const override { return from_gguf_; }
  int32_t bos_id() const override { return bos_; }
  int32_t eos_id() const override { return eos_; }

 private:
  void check_id(int32_t id) const {
    if (id < 0 || id >= vocab_size())
      throw MismatchError(fmt::format("token id {} is outside the tokenizer's vocabulary of {}", id, vocab_size()));
  }

  std::vector<AddedToken> control_pieces() const {
    std::vector<AddedToken> control;
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      if (processor_.IsControl(id)) control.push_back({.id = id, .text = processor_.IdToPiece(id), .special = true});
    }
    return control;
  }

  void add(std::vector<AddedToken> tokens) {
    Sha256 hash;  // of all that decides the ids: without additions the model alone does
    hash.update("overproof SentencePiece with added tokens v1");
    hash.update(digest_.bytes.data(), digest_.bytes.size());
    const auto number = [&](int64_t value) {
      uint8_t bytes[8];
      for (int i = 0; i < 8; ++i) bytes[i] = uint8_t(uint64_t(value) >> (8 * i));
      hash.update(bytes, 8);
    };
    number(int64_t(prefix_));
    std::ranges::stable_sort(tokens, {}, &AddedToken::id);
    for (const AddedToken& token : tokens) {
      if (token.text.size() > kLongestAddedToken)
        throw FormatError(file_, -1, fmt::format("added token {} has {} bytes, more than {}", token.id, token.text.size(), kLongestAddedToken));
      if (token.id >= vocab_size()) {
        if (token.id != vocab_size()) throw FormatError(file_, -1, fmt::format("no token has the id {}, and '{}' has {}", vocab_size(), token.text, token.id));
        beyond_.push_back(token.text);
      }
      number(token.id);
      number(int64_t(token.text.size()));
      hash.update(token.text);
      number(int64_t(token.special) | int64_t(token.lstrip) << 1 | int64_t(token.rstrip) << 2 | int64_t(token.normalized) << 3 |
             int64_t(token.single_word) << 4);
    }
    digest_ = hash.finish();
    added_ = tokens;
    // Looked for in the normalised text, after normalisation of its own: with a space in front where every text gets one.
    if (prefix_ == Prefix::unconditional)
      for (AddedToken& token : tokens)
        if (token.normalized) token.text.insert(0, 1, ' ');
    normalized_ = AddedTokenFinder(tokens, true);
  }

  /// `begins`: the text is not what follows a token.
  void encode_at(std::string_view text, bool begins, std::vector<int32_t>& ids, bool parse_special) const {
    std::string repaired;
    if (invalid_utf8_at(text) >= 0) text = repaired = to_valid_utf8(text);
    std::vector<TextPart> parts;
    if (parse_special || adds_) raw_.split(text, parse_special, parts);
    else if (!text.empty()) parts.push_back({text, -1});
    for (const TextPart& part : parts) {
      if (part.id >= 0) ids.push_back(part.id);
      else if (adds_) encode_between(part.text, begins && part.text.data() == text.data(), ids, parse_special);
      else encode_pieces(part.text, ids);
    }
  }

  void encode_between(std::string_view text, bool begins, std::vector<int32_t>& ids, bool parse_special) const {
    std::string longer;
    if (prefix_ == Prefix::unconditional) text = longer = ' ' + std::string(text);
    std::vector<TextPart> parts;
    normalized_.split(text, parse_special, parts);
    for (const TextPart& part : parts) {
      const bool first = begins && part.text.data() == text.data();
      const bool wanted = prefix_ == Prefix::always || (prefix_ == Prefix::first && first);
      if (part.id >= 0) ids.push_back(part.id);
      else if (wanted && !part.text.starts_with(' ') && !part.text.starts_with(kSpacePiece)) encode_pieces(' ' + std::string(part.text), ids);
      else encode_pieces(part.text, ids);
    }
  }

  void encode_pieces(std::string_view text, std::vector<int32_t>& ids) const {
    if (int64_t(text.size()) > kMostTextBytes) throw MismatchError("a text of over 1 GiB cannot be tokenised at once");
    std::vector<int> found;
    if (const auto status = processor_.Encode(text, &found); !status.ok()) {
      throw FormatError(file_, -1, fmt::format("SentencePiece cannot encode: {}", status.error_message()));
    }
    ids.insert(ids.end(), found.begin(), found.end());
  }

  fs::path file_;
  Digest digest_;
  bool from_gguf_ = false, adds_ = false;
  Prefix prefix_;
  int32_t bos_ = -1, eos_ = -1;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<AddedToken> added_;    // without additions, the control pieces
  std::vector<std::string> beyond_;  // texts of the ids after the pieces
  AddedTokenFinder raw_, normalized_;
};

}  // namespace

void check_sentencepiece_model(std::string_view model, const fs::path& file) {
  if (int64_t(model.size()) > kMostModelBytes) throw FormatError(file, -1, "a SentencePiece model of over 256 MiB is refused");
  int64_t pieces = 0;
  for (ProtoReader in(model, 0, file); !in.done();) {
    in.next();
    if ((in.field == 1 || in.field == 3 || in.field == 5) && in.wire != 2) in.fail("a message was expected");
    if (in.field == 1) {
      std::string_view text;
      for (ProtoReader piece(in.payload, in.start, file); !piece.done();) {
        piece.next();
        if (piece.field == 1 && piece.wire == 2) text = piece.payload;
        if (piece.field == 2 && piece.wire == 5) {
          uint32_t bits;
          memcpy(&bits, piece.payload.data(), 4);
          if (!std::isfinite(std::bit_cast<float>(bits))) piece.fail("a piece's score is not a finite number");
        }
      }
      // The library's tries take C strings: a NUL would cut a piece short and make it another's twin.
      if (text.empty() || text.find('\0') != text.npos) in.fail("a piece is empty or holds a NUL");
      if (invalid_utf8_at(text) >= 0) in.fail("a piece is not UTF-8");
      // The library tries all pieces that begin at each place of a text.
      if (text.size() > kLongestAddedToken) in.fail(fmt::format("a piece has {} bytes, more than {}", text.size(), kLongestAddedToken));
      ++pieces;
    } else if (in.field == 3 || in.field == 5) {
      for (ProtoReader spec(in.payload, in.start, file); !spec.done();) {
        spec.next();
        if (spec.field == 2 && spec.wire == 2) check_charsmap(spec.payload, spec.start, file);
      }
    }
  }
  if (pieces == 0) throw FormatError(file, -1, "it holds no pieces, so it is no SentencePiece model");
}

SentencePieceVocabulary read_sentencepiece_vocabulary(std::string_view model, const fs::path& file) {
  refuse_lfs_pointer(model, file);
  check_sentencepiece_model(model, file);
  SentencePieceVocabulary out;
  for (ProtoReader in(model, 0, file); !in.done();) {
    in.next();
    if (in.field == 1) {
      SentencePieceVocabulary::Piece piece;
      for (ProtoReader p(in.payload, in.start, file); !p.done();) {
        p.next();
        if (p.field == 1 && p.wire == 2) piece.text = p.payload;
        if (p.field == 2 && p.wire == 5) memcpy(&piece.score, p.payload.data(), 4);
        if (p.field == 3 && p.wire == 0) piece.type = p.number >= 1 && p.number <= 6 ? int32_t(p.number) : 1;
      }
      out.pieces.push_back(std::move(piece));
    } else if (in.field == 2 && in.wire == 2) {  // TrainerSpec
      for (ProtoReader t(in.payload, in.start, file); !t.done();) {
        t.next();
        if (t.wire != 0) continue;
        if (t.field == 3 && t.number >= 1 && t.number <= 4) out.kind = SentencePieceVocabulary::Kind(t.number);
        if (t.field == 40) out.unknown = int32_t(t.number);
        if (t.field == 41) out.bos = int32_t(t.number);
        if (t.field == 42) out.eos = int32_t(t.number);
        if (t.field == 43) out.padding = int32_t(t.number);
      }
    } else if (in.field == 3) {  // NormalizerSpec
      for (ProtoReader n(in.payload, in.start, file); !n.done();) {
        n.next();
        if (n.field == 2 && n.wire == 2) out.normalises = !n.payload.empty();
        if (n.field == 3 && n.wire == 0) out.add_dummy_prefix = n.number != 0;
        if (n.field == 4 && n.wire == 0) out.remove_extra_whitespaces = n.number != 0;
      }
    }
  }
  const auto in_range = [&](int32_t id) { return id >= 0 && size_t(id) < out.pieces.size() ? id : -1; };
  out.unknown = in_range(out.unknown);
  out.bos = in_range(out.bos);
  out.eos = in_range(out.eos);
  out.padding = in_range(out.padding);
  return out;
}

std::unique_ptr<Tokenizer> make_sentencepiece(std::string_view model, const fs::path& file, bool from_gguf, SentencePieceAdditions additions) {
  return std::make_unique<SentencePieceTokenizer>(model, file, from_gguf, std::move(additions));
}

}  // namespace overproof
