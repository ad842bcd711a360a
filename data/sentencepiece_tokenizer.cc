#include "data/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

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

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view model, const fs::path& file, bool from_gguf)
      : file_(file), model_digest_(sha256(model)), from_gguf_(from_gguf) {
    check_sentencepiece_model(model, file);
    if (const auto status = processor_.LoadFromSerializedProto(model); !status.ok()) {
      throw FormatError(file, -1, fmt::format("SentencePiece refuses the model: {}", status.error_message()));
    }
    control_ = AddedTokenFinder(SentencePieceTokenizer::special_tokens(), false);
  }

  std::vector<AddedToken> special_tokens() const override {
    std::vector<AddedToken> control;
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      if (processor_.IsControl(id)) control.push_back({.id = id, .text = processor_.IdToPiece(id), .special = true});
    }
    return control;
  }

  void encode(std::string_view text, std::vector<int32_t>& ids, bool parse_special) const override {
    std::string repaired;
    if (invalid_utf8_at(text) >= 0) text = repaired = to_valid_utf8(text);
    std::vector<TextPart> parts;
    if (parse_special) {
      control_.split(text, true, parts);
    } else if (!text.empty()) {
      parts.push_back({text, -1});
    }
    for (const TextPart& part : parts) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      if (int64_t(part.text.size()) > kMostTextBytes) throw MismatchError("a text of over 1 GiB cannot be tokenised at once");
      std::vector<int> found;
      if (const auto status = processor_.Encode(part.text, &found); !status.ok()) {
        throw FormatError(file_, -1, fmt::format("SentencePiece cannot encode: {}", status.error_message()));
      }
      ids.insert(ids.end(), found.begin(), found.end());
    }
  }

  std::string decode(const std::vector<int32_t>& ids) const override {
    for (const int32_t id : ids) check_id(id);
    std::string text;
    if (const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text); !status.ok()) {
      throw FormatError(file_, -1, fmt::format("SentencePiece cannot decode: {}", status.error_message()));
    }
    return text;
  }

  int64_t vocab_size() const override { return processor_.GetPieceSize(); }
  std::string token_text(int32_t id) const override {
    check_id(id);
    return processor_.IdToPiece(id);
  }
  Digest definition_digest() const override { return model_digest_; }
  bool from_gguf() const override { return from_gguf_; }
  int32_t bos_id() const override { return processor_.bos_id(); }
  int32_t eos_id() const override { return processor_.eos_id(); }

 private:
  void check_id(int32_t id) const {
    if (id < 0 || id >= vocab_size())
      throw MismatchError(fmt::format("token id {} is outside the tokenizer's vocabulary of {}", id, vocab_size()));
  }
  fs::path file_;
  Digest model_digest_;  // the model holds all that decides the ids
  bool from_gguf_ = false;
  sentencepiece::SentencePieceProcessor processor_;
  AddedTokenFinder control_;
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

std::unique_ptr<Tokenizer> make_sentencepiece(std::string_view model, const fs::path& file, bool from_gguf) {
  return std::make_unique<SentencePieceTokenizer>(model, file, from_gguf);
}

std::unique_ptr<Tokenizer> open_sentencepiece(const fs::path& file) {
  const std::string model = read_file(file, kMostModelBytes);
  refuse_lfs_pointer(model, file);
  return make_sentencepiece(model, file);
}

}  // namespace overproof
