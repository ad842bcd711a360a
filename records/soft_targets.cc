#include "records/soft_targets.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "core/checked.h"
#include "core/error.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

constexpr int64_t kTargetsVersion = 1;
constexpr const char *kSample = "sample", *kTopK = "top-k";

SoftTargetsOrigin origin_of(const SafetensorsFile& file) {
  SoftTargetsOrigin origin;
  origin.corpus_root = metadata_digest(file, "corpus_root");
  origin.teacher_root = metadata_digest(file, "teacher_root");
  origin.order_key = metadata_digest(file, "order_key");
  if (const auto found = file.metadata().find("order_beacon"); found != file.metadata().end()) origin.order_beacon = found->second;
  if (const std::string& beacon = origin.order_beacon; beacon.size() % 2 != 0 || beacon.size() > 1024 ||
                                                       beacon.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
    throw FormatError(file.path(), -1, "metadata 'order_beacon' is not 1 to 512 bytes in hexadecimal");
  origin.seed = metadata_integer(file, "seed", INT64_MIN, INT64_MAX);
  const TensorInfo& offsets = file.info("block_offsets");
  if (offsets.dtype != DType::i64 || offsets.shape.size() != 1 || offsets.shape[0] < 2)
    throw FormatError(file.path(), -1, "'block_offsets' is not I64 [blocks + 1] with at least one block");
  origin.blocks = offsets.shape[0] - 1;
  if (const auto found = file.metadata().find("evidence"); found != file.metadata().end()) {
    const auto evidence = evidence_of(found->second);
    if (!evidence)
      throw FormatError(
          file.path(), -1,
          fmt::format("evidence '{}' is unknown; re-derivable and recorded are known", found->second.substr(0, 40)));
    origin.evidence = *evidence;
  }
  return origin;
}

}  // namespace

SoftTargetsOrigin read_soft_targets_origin(const fs::path& artifact) {
  return origin_of(SafetensorsFile(artifact / kSoftTargetsFile));
}

SoftTargetsSize write_soft_targets(const SoftTargetsHeader& header, const BatchSpool& spool, OutputFolder& folder) {
  std::vector<int64_t> offsets = {0};
  spool.for_each([&](std::span<const uint8_t> lengths, std::span<const uint8_t>) {
    OVERPROOF_CHECK(int64_t(lengths.size()) % header.window_length == 0);
    for (; !lengths.empty(); lengths = lengths.subspan(size_t(header.window_length))) {
      const auto block = lengths.first(size_t(header.window_length));
      offsets.push_back(offsets.back() + std::accumulate(block.begin(), block.end(), int64_t{0}) * header.encoding.entry_bytes());
    }
  });
  const int64_t blocks = int64_t(offsets.size()) - 1, rows = blocks * header.window_length;
  Metadata metadata = {{"format_version", std::to_string(kTargetsVersion)},
                       {"kind", header.encoding.kind == RowEncoding::Kind::sample ? kSample : kTopK},
                       {"count", fmt::format("{}", header.encoding.count)},
                       {"temperature", fmt::format("{}", header.encoding.temperature)},
                       {"vocab_size", fmt::format("{}", header.vocab_size)},
                       {"window_length", fmt::format("{}", header.window_length)},
                       {"batch_windows", fmt::format("{}", header.batch_windows)},
                       {"seed", fmt::format("{}", header.encoding.seed)},
                       {"order_key", header.origin.order_key.hex()},
                       {"corpus_root", header.origin.corpus_root.hex()},
                       {"teacher_root", header.origin.teacher_root.hex()},
                       {"evidence", std::string(evidence_name(header.origin.evidence))}};
  if (!header.origin.order_beacon.empty()) metadata["order_beacon"] = header.origin.order_beacon;
  header.tokenizer.put_into(metadata);
  // Widest elements first, so that each tensor is aligned.
  SafetensorsWriter writer(
      folder, kSoftTargetsFile,
      {{"block_offsets", DType::i64, {blocks + 1}}, {"row_lengths", DType::u8, {rows}}, {"entries", DType::u8, {offsets.back()}}},
      metadata);
  writer.append(offsets.data(), offsets.size() * sizeof(int64_t));
  spool.for_each(
      [&](std::span<const uint8_t> lengths, std::span<const uint8_t>) { writer.append(lengths.data(), lengths.size()); });
  spool.for_each(
      [&](std::span<const uint8_t>, std::span<const uint8_t> entries) { writer.append(entries.data(), entries.size()); });
  writer.close();
  return {rows, offsets.back() / header.encoding.entry_bytes(), offsets.back() + rows + 8 * (blocks + 1)};
}

void SoftTargets::fail(std::string_view cause) const { throw FormatError(file_.path(), -1, cause); }

SoftTargets::SoftTargets(const fs::path& artifact) : file_(artifact / kSoftTargetsFile) {
  if (const auto version = metadata_integer(file_, "format_version", 0); version != kTargetsVersion)
    fail(fmt::format("format_version is {}; only {} is known", version, kTargetsVersion));
  const std::string& kind = metadata_text(file_, "kind");
  if (kind != kSample && kind != kTopK)
    fail(fmt::format("kind '{}' is unknown; {} and {} are known", kind.substr(0, 40), kSample, kTopK));
  const bool sample = kind == kSample;
  origin_ = origin_of(file_);
  encoding_.kind = sample ? RowEncoding::Kind::sample : RowEncoding::Kind::top_k;
  encoding_.count = metadata_integer(file_, "count", 1, sample ? 63 : 255);
  encoding_.temperature = metadata_number(file_, "temperature", 1e-3, 1e3);
  encoding_.seed = origin_.seed;
  vocab_size_ = metadata_integer(file_, "vocab_size", 1, encoding_.max_vocab());
  window_length_ = metadata_integer(file_, "window_length", 1, INT32_MAX);
  batch_windows_ = metadata_integer(file_, "batch_windows", 1, INT32_MAX);
  tokenizer_ = TokenizerIdentity::from_metadata(file_.metadata(), file_.path());

  for (const auto& [name, dtype] : {std::pair{"row_lengths", DType::u8}, {"entries", DType::u8}})
    if (const TensorInfo& info = file_.info(name); info.dtype != dtype || info.shape.size() != 1)
      fail(fmt::format("tensor '{}' must be {} with one dimension", name, dtype_name(dtype)));
  const auto lengths = file_.values<uint8_t>("row_lengths");
  const auto offsets = file_.values<int64_t>("block_offsets");
  if (checked_mul(origin_.blocks, window_length_) != int64_t(lengths.size()))
    fail(fmt::format("{} rows are not {} blocks of {}", lengths.size(), origin_.blocks, window_length_));
  if (offsets.front() != 0 || offsets.back() != file_.info("entries").elements())
    fail("block_offsets do not begin at 0 and end with the entries");
  for (int64_t b = 0; b < origin_.blocks; ++b) {
    const auto rows = lengths.subspan(size_t(b * window_length_), size_t(window_length_));
    // The sum stays far below 2^63: a row has at most 255 entries. The offset from the file is only compared with it.
    if (offsets[size_t(b) + 1] !=
        offsets[size_t(b)] + std::accumulate(rows.begin(), rows.end(), int64_t{0}) * encoding_.entry_bytes())
      fail(fmt::format("the row lengths of block {} do not sum to its bytes", b));
  }
}

double SoftTargets::bytes_per_token() const {
  const int64_t rows = origin_.blocks * window_length_;
  return double(file_.info("entries").elements() + rows + 8 * (origin_.blocks + 1)) / double(rows);
}

std::span<const uint8_t> SoftTargets::block_bytes(int64_t block) const {
  OVERPROOF_CHECK(block >= 0 && block < origin_.blocks);
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
  OVERPROOF_CHECK(row >= 0 && row < origin_.blocks * window_length_);
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
  const bool may_be_empty = !sample && origin_.evidence == Evidence::recorded;
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
    require(lengths[size_t(r)] > 0 || may_be_empty, r, "has no entries");
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
