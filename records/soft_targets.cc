#include "records/soft_targets.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "core/checked.h"
#include "core/error.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

constexpr int64_t kFormatVersion = 1;

}  // namespace

void SoftTargets::fail(std::string_view cause) const { throw FormatError(file_.path(), -1, cause); }

SoftTargets::SoftTargets(const fs::path& artifact) : file_(artifact / "targets.safetensors") {
  if (const auto version = metadata_integer(file_, "format_version", 0); version != kFormatVersion)
    fail(fmt::format("format_version is {}; only {} is known", version, kFormatVersion));
  kind_ = metadata_text(file_, "kind");
  if (kind_ != "sample" && kind_ != "top-k") fail(fmt::format("unknown kind '{}' of soft targets", kind_));
  const bool sample = kind_ == "sample";
  encoding_.kind = sample ? RowEncoding::Kind::sample : RowEncoding::Kind::top_k;
  encoding_.count = metadata_integer(file_, "count", 1, sample ? 63 : 255);
  encoding_.temperature = metadata_number(file_, "temperature", 1e-3, 1e3);
  encoding_.seed = metadata_integer(file_, "seed", INT64_MIN, INT64_MAX);
  vocab_size_ = metadata_integer(file_, "vocab_size", 1, encoding_.max_vocab());
  window_length_ = metadata_integer(file_, "window_length", 1, INT32_MAX);
  batch_windows_ = metadata_integer(file_, "batch_windows", 1, INT32_MAX);
  order_key_ = metadata_digest(file_, "order_key");
  if (const auto found = file_.metadata().find("order_beacon"); found != file_.metadata().end()) order_beacon_ = found->second;
  corpus_root_ = metadata_digest(file_, "corpus_root");
  teacher_root_ = metadata_digest(file_, "teacher_root");
  tokenizer_ = TokenizerIdentity::from_metadata(file_.metadata(), file_.path());

  for (const auto& [name, dtype] : {std::pair{"row_lengths", DType::u8}, {"entries", DType::u8}, {"block_offsets", DType::i64}})
    if (const TensorInfo& info = file_.info(name); info.dtype != dtype || info.shape.size() != 1)
      fail(fmt::format("tensor '{}' must be {} with one dimension", name, dtype_name(dtype)));
  const auto lengths = file_.values<uint8_t>("row_lengths");
  const auto offsets = file_.values<int64_t>("block_offsets");
  blocks_ = int64_t(offsets.size()) - 1;
  if (blocks_ < 1) fail("block_offsets has no block");
  if (checked_mul(blocks_, window_length_) != int64_t(lengths.size()))
    fail(fmt::format("{} rows are not {} blocks of {}", lengths.size(), blocks_, window_length_));
  if (offsets.front() != 0 || offsets.back() != file_.info("entries").elements()) fail("block_offsets do not begin at 0 and end with the entries");
  for (int64_t b = 0; b < blocks_; ++b) {
    const auto rows = lengths.subspan(size_t(b * window_length_), size_t(window_length_));
    // The sum stays far below 2^63: a row has at most 255 entries. The offset from the file is only compared with it.
    if (offsets[size_t(b) + 1] !=
        offsets[size_t(b)] + std::accumulate(rows.begin(), rows.end(), int64_t{0}) * encoding_.entry_bytes())
      fail(fmt::format("the row lengths of block {} do not sum to its bytes", b));
  }
}

double SoftTargets::bytes_per_token() const {
  const int64_t rows = blocks_ * window_length_;
  return double(file_.info("entries").elements() + rows + 8 * (blocks_ + 1)) / double(rows);
}

std::span<const uint8_t> SoftTargets::block_bytes(int64_t block) const {
  OVERPROOF_CHECK(block >= 0 && block < blocks_);
  const auto offsets = file_.values<int64_t>("block_offsets").subspan(size_t(block), 2);
  return file_.bytes("entries").subspan(size_t(offsets[0]), size_t(offsets[1] - offsets[0]));
}

Digest SoftTargets::block_digest(int64_t block) const {
  const std::span<const uint8_t> entries = block_bytes(block);
  const auto lengths = file_.values<uint8_t>("row_lengths").subspan(size_t(block * window_length_), size_t(window_length_));
  Sha256 hash;
  hash.update(lengths.data(), lengths.size());
  hash.update(entries.data(), entries.size());
  return hash.finish();
}

std::span<const uint8_t> SoftTargets::row_bytes(int64_t row) const {
  OVERPROOF_CHECK(row >= 0 && row < blocks_ * window_length_);
  const auto lengths = file_.values<uint8_t>("row_lengths");
  const int64_t first = row / window_length_ * window_length_;
  const int64_t before = std::accumulate(lengths.begin() + first, lengths.begin() + row, int64_t{0});
  return block_bytes(row / window_length_)
      .subspan(size_t(before * encoding_.entry_bytes()), size_t(lengths[size_t(row)] * encoding_.entry_bytes()));
}

void SoftTargets::read_block(int64_t block, TargetBlock& out) const {
  const std::span<const uint8_t> bytes = block_bytes(block);
  const auto lengths = file_.values<uint8_t>("row_lengths").subspan(size_t(block * window_length_), size_t(window_length_));
  const bool sample = encoding_.kind == RowEncoding::Kind::sample;
  const auto require = [&](bool good, int64_t row, std::string_view cause) {
    if (!good) fail(fmt::format("row {}: {}", block * window_length_ + row, cause));
  };
  out.offsets.assign(1, 0);
  out.ids.clear();
  out.probabilities.clear();
  out.tail.clear();
  const uint8_t* entry = bytes.data();
  for (int64_t r = 0; r < window_length_; ++r) {
    int64_t draws = 0, last = -1;
    double mass = 0;
    require(lengths[size_t(r)] > 0, r, "has no entries");
    for (int i = 0; i < lengths[size_t(r)]; ++i, entry += encoding_.entry_bytes()) {
      const DecodedEntry e = decode_entry(entry, encoding_);
      require(e.id > last && e.id < vocab_size_, r, "ids do not ascend within the vocabulary");
      require(sample ? e.draws > 0 : e.probability <= 1.0f, r, "a probability is outside its range");
      last = e.id;
      draws += e.draws;
      mass += double(e.probability);
      out.ids.push_back(e.id);
      out.probabilities.push_back(e.probability);
    }
    require(!sample || draws == encoding_.count, r, "draws do not sum to count");
    require(mass <= 1.01, r, "probabilities sum to more than 1");  // f16 logarithms round by up to 2^-8
    out.offsets.push_back(int64_t(out.ids.size()));
    out.tail.push_back(sample ? 0.0f : float(std::max(0.0, 1.0 - mass)));
  }
}

}  // namespace overproof
