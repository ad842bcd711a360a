#include "records/soft_targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/checked.h"
#include "core/error.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

constexpr int64_t kUnmaskedVersion = 1, kMaskedVersion = 2;
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
  if (!file.metadata().contains("all_blocks")) return origin;
  origin.part = {metadata_integer(file, "first_block", 0), metadata_integer(file, "all_blocks", 1), metadata_text(file, "compute")};
  if (origin.part->first_block > origin.part->all_blocks - origin.blocks)
    throw FormatError(file.path(), -1, fmt::format("has blocks {} to {}, but the whole has {}", origin.part->first_block,
                                                   origin.part->first_block + origin.blocks - 1, origin.part->all_blocks));
  return origin;
}

}  // namespace

fs::path soft_targets_file(const fs::path& artifact) {
  const fs::path whole = artifact / kSoftTargetsFile, part = artifact / kSoftTargetsPartFile;
  return !fs::exists(whole) && fs::exists(part) ? part : whole;
}

SoftTargetsOrigin read_soft_targets_origin(const fs::path& artifact) { return origin_of(SafetensorsFile(soft_targets_file(artifact))); }

SoftTargetsSize write_soft_targets(const SoftTargetsHeader& header, const RowPieces& for_each, OutputFolder& folder) {
  std::vector<int64_t> offsets = {0};
  int64_t stored = 0;
  for_each([&](std::span<const uint8_t> lengths, std::span<const uint8_t>) {
    stored += int64_t(lengths.size()) - std::ranges::count(lengths, 0);
    OVERPROOF_CHECK(int64_t(lengths.size()) % header.window_length == 0);
    for (; !lengths.empty(); lengths = lengths.subspan(size_t(header.window_length))) {
      const auto block = lengths.first(size_t(header.window_length));
      offsets.push_back(offsets.back() + std::accumulate(block.begin(), block.end(), int64_t{0}) * header.encoding.entry_bytes());
    }
  });
  const int64_t blocks = int64_t(offsets.size()) - 1, rows = blocks * header.window_length;
  Metadata metadata = {{"format_version", std::to_string(header.masked ? kMaskedVersion : kUnmaskedVersion)},
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
  if (const auto& part = header.origin.part) {
    metadata["first_block"] = fmt::format("{}", part->first_block);
    metadata["all_blocks"] = fmt::format("{}", part->all_blocks);
    metadata["compute"] = part->compute;
  }
  header.tokenizer.put_into(metadata);
  // Widest elements first, so that each tensor is aligned.
  SafetensorsWriter writer(
      folder, header.origin.part ? kSoftTargetsPartFile : kSoftTargetsFile,
      {{"block_offsets", DType::i64, {blocks + 1}}, {"row_lengths", DType::u8, {rows}}, {"entries", DType::u8, {offsets.back()}}},
      metadata);
  writer.append(offsets.data(), offsets.size() * sizeof(int64_t));
  for_each(
      [&](std::span<const uint8_t> lengths, std::span<const uint8_t>) { writer.append(lengths.data(), lengths.size()); });
  for_each(
      [&](std::span<const uint8_t>, std::span<const uint8_t> entries) { writer.append(entries.data(), entries.size()); });
  writer.close();
  return {rows, offsets.back() / header.encoding.entry_bytes(), offsets.back() + rows + 8 * (blocks + 1), stored};
}

void SoftTargets::fail(std::string_view cause) const { throw FormatError(file_.path(), -1, cause); }

SoftTargets::SoftTargets(const fs::path& artifact) : SoftTargets(soft_targets_file(artifact), false) {}

SoftTargets SoftTargets::part(const fs::path& artifact) { return SoftTargets(artifact / kSoftTargetsPartFile, true); }

SoftTargetsHeader SoftTargets::header() const {
  return {.origin = origin_, .encoding = encoding_, .vocab_size = vocab_size_, .window_length = window_length_, .batch_windows = batch_windows_,
          .tokenizer = tokenizer_, .masked = masked_};
}

std::pair<std::span<const uint8_t>, std::span<const uint8_t>> SoftTargets::block(int64_t block) const {
  return {file_.values<uint8_t>("row_lengths").subspan(size_t(block * window_length_), size_t(window_length_)), block_bytes(block)};
}

SoftTargets::SoftTargets(const fs::path& file, bool is_part) : file_(file) {
  const int64_t version = metadata_integer(file_, "format_version", 0);
  if (version != kUnmaskedVersion && version != kMaskedVersion)
    fail(fmt::format("format_version is {}; only {} and {} are known", version, kUnmaskedVersion, kMaskedVersion));
  masked_ = version == kMaskedVersion;
  const std::string& kind = metadata_text(file_, "kind");
  if (kind != kSample && kind != kTopK)
    fail(fmt::format("kind '{}' is unknown; {} and {} are known", kind.substr(0, 40), kSample, kTopK));
  const bool sample = kind == kSample;
  origin_ = origin_of(file_);
  if (is_part != origin_.part.has_value())
    throw MismatchError(fmt::format("{}: is {}", file.string(), is_part ? "no part of soft targets" : "a part of soft targets; put all parts together with merge-targets"));
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

std::vector<int64_t> SoftTargets::stored_rows() const {
  std::vector<int64_t> rows;
  const auto lengths = file_.values<uint8_t>("row_lengths");
  for (size_t r = 0; r < lengths.size(); ++r)
    if (lengths[r] > 0) rows.push_back(int64_t(r));
  return rows;
}

std::string SoftTargets::mask_fault(const std::function<void(int64_t, std::span<float>)>& read_mask) const {
  if (!masked_) return "";
  const auto lengths = file_.values<uint8_t>("row_lengths");
  std::vector<float> mask(static_cast<size_t>(window_length_));
  for (int64_t block = 0, row = 0; block < origin_.blocks; ++block) {
    read_mask(block, mask);
    for (const float trained : mask) {
      const bool stored = lengths[size_t(row)] > 0;
      if (stored != (trained != 0))
        return fmt::format("row {} has {}entries, but by the corpus's mask its token is {}trained", row, stored ? "" : "no ", stored ? "not " : "");
      ++row;
    }
  }
  return "";
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
    const bool absent = lengths[size_t(r)] == 0;
    require(!absent || masked_ || may_be_empty, r, "has no entries");
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
    require(!sample || absent || draws == encoding_.count, r, "draws do not sum to count");
    require(mass <= 1.01, r, "probabilities sum to more than 1");  // f16 logarithms round by up to 2^-8
    out.offsets.push_back(int64_t(out.ids.size()));
    out.tail.push_back(absent ? 1.0f : sample ? 0.0f : float(std::max(0.0, 1.0 - mass)));
  }
}

}  // namespace overproof
