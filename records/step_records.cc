#include "records/step_records.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

constexpr const char* kTensor = "steps";
constexpr const char* kBatchRoots[] = {"plain", "salted"};
constexpr int64_t kMostRanks = int64_t{1} << 20;
constexpr size_t kMostTermName = 64;
static_assert(std::endian::native == std::endian::little, "records are little-endian");

struct Field {
  const char* name;
  size_t at;
  int64_t StepRecord::*integer;
  double StepRecord::*number;
};

// Where a version stores what. `terms` are 8 bytes each.
struct Layout {
  std::vector<Field> fields;
  size_t terms, batch, weights, optimizer, chain, size;
};

const Layout kFirst = {{{"step", 0, &StepRecord::step, nullptr},
                        {"position", 8, &StepRecord::position, nullptr},
                        {"tokens", 16, &StepRecord::tokens, nullptr},
                        {"tokens_seen", 24, &StepRecord::tokens_seen, nullptr},
                        {"learning rate", 32, nullptr, &StepRecord::learning_rate},
                        {"loss", 40, nullptr, &StepRecord::loss},
                        {"gradient norm", 64, nullptr, &StepRecord::grad_norm},
                        {"balance", 72, nullptr, &StepRecord::balance}},
                       48, 80, 112, 144, 224, 256};
const Layout kSecond = {{{"step", 0, &StepRecord::step, nullptr},
                         {"position", 8, &StepRecord::position, nullptr},
                         {"sequences", 16, &StepRecord::sequences, nullptr},
                         {"tokens", 24, &StepRecord::tokens, nullptr},
                         {"tokens_seen", 32, &StepRecord::tokens_seen, nullptr},
                         {"weight", 40, nullptr, &StepRecord::weight},
                         {"learning rate", 48, nullptr, &StepRecord::learning_rate},
                         {"loss", 56, nullptr, &StepRecord::loss},
                         {"gradient norm", 64, nullptr, &StepRecord::grad_norm},
                         {"balance", 72, nullptr, &StepRecord::balance}},
                        80, 192, 224, 256, 288, 320};
static_assert(80 + 8 * kMostLossTerms == 192);

const Layout& layout_of(const StepFormat& format) { return format.version == 1 ? kFirst : kSecond; }

/// The bytes of a record that have no meaning.
std::string_view unused(std::string_view record, const StepFormat& format) {
  if (format.version == 1) return record.substr(176, 48);
  const size_t used = kSecond.terms + 8 * format.terms.size();
  return record.substr(used, kSecond.batch - used);
}

uint64_t bits_of(const StepRecord& r, const Field& f) {
  return f.integer ? uint64_t(r.*f.integer) : std::bit_cast<uint64_t>(r.*f.number);
}

void put_digest(std::string& bytes, size_t at, const Digest& digest) { std::memcpy(&bytes[at], digest.bytes.data(), 32); }

Digest digest_at(const char* bytes, size_t at) {
  Digest digest;
  std::memcpy(digest.bytes.data(), bytes + at, 32);
  return digest;
}

/// The whole record, its link zeros.
std::string encode(const StepRecord& record, const StepFormat& format) {
  const Layout& layout = layout_of(format);
  std::string bytes(layout.size, '\0');
  for (const Field& f : layout.fields) {
    const uint64_t bits = bits_of(record, f);
    std::memcpy(&bytes[f.at], &bits, 8);
  }
  std::memcpy(&bytes[layout.terms], record.terms.data(), 8 * format.terms.size());
  put_digest(bytes, layout.batch, record.batch);
  put_digest(bytes, layout.weights, record.weights);
  put_digest(bytes, layout.optimizer, record.optimizer);
  return bytes;
}

StepRecord decode(const char* bytes, const StepFormat& format) {
  const Layout& layout = layout_of(format);
  StepRecord record;
  for (const Field& f : layout.fields) {
    uint64_t bits = 0;
    std::memcpy(&bits, bytes + f.at, 8);
    if (f.integer) record.*f.integer = int64_t(bits);
    else record.*f.number = std::bit_cast<double>(bits);
  }
  std::memcpy(record.terms.data(), bytes + layout.terms, 8 * format.terms.size());
  record.batch = digest_at(bytes, layout.batch);
  record.weights = digest_at(bytes, layout.weights);
  record.optimizer = digest_at(bytes, layout.optimizer);
  if (format.version == 1) record.weight = double(record.tokens);
  return record;
}

Digest first_link(const StepFormat& format) {
  Sha256 hash;
  hash.update(format.version == 1 ? "overproof step chain v1" : "overproof step chain v2");
  hash.update(format.initial_weights.bytes.data(), format.initial_weights.bytes.size());
  if (format.version > 1)
    hash.update(Json{{"batch_root", kBatchRoots[format.salted_batches]},
                     {"digest_every", format.digest_every},
                     {"ranks", format.ranks},
                     {"terms", format.terms}}
                    .dump());
  return hash.finish();
}

Digest next_link(const Digest& chain, std::string_view record, const Layout& layout) {
  Sha256 hash;
  hash.update(chain.bytes.data(), chain.bytes.size());
  hash.update(record.data(), layout.chain);
  return hash.finish();
}

/// Why a format cannot be; "" when it can.
std::string fault_of(const StepFormat& format) {
  if (format.version != 1 && format.version != 2) return fmt::format("version {} is unknown; 1 and 2 are known", format.version);
  if (format.digest_every < 1) return fmt::format("digest_every is {}, not at least 1", format.digest_every);
  if (format.ranks < 1 || format.ranks > kMostRanks) return fmt::format("ranks is {}, not 1 to {}", format.ranks, kMostRanks);
  if (format.terms.empty() || format.terms.size() > kMostLossTerms)
    return fmt::format("has {} loss terms, not 1 to {}", format.terms.size(), kMostLossTerms);
  for (size_t i = 0; i < format.terms.size(); ++i) {
    const std::string& name = format.terms[i];
    const bool plain = std::ranges::all_of(name, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
    if (name.empty() || name.size() > kMostTermName || !plain)
      return fmt::format("loss term {} is not named by 1 to {} characters of [a-z0-9-]", i, kMostTermName);
    if (std::find(format.terms.begin(), format.terms.begin() + ptrdiff_t(i), name) != format.terms.begin() + ptrdiff_t(i))
      return fmt::format("loss term '{}' is named twice", name);
  }
  return "";
}

/// Why a record cannot follow `before` (null: it is the first); "" when it can.
std::string fault_of(const StepRecord& r, const StepRecord* before, int64_t index, const StepFormat& format) {
  if (r.step != index) return fmt::format("has step number {}", r.step);
  if (r.position < 0 || (before && r.position < before->position)) return "goes back in the order of training";
  if (r.tokens < 1) return "has no tokens";
  if (format.version > 1 && r.sequences < 1) return "has no sequences";
  const auto seen = checked_add(before ? before->tokens_seen : 0, r.tokens);
  if (!seen || r.tokens_seen != *seen) return "has a tokens_seen that is not the sum of the tokens so far";
  for (const double x : {r.weight, r.learning_rate, r.loss, r.grad_norm, r.balance})
    if (!std::isfinite(x)) return "has a number that is not finite";
  if (std::ranges::any_of(r.terms, [](double x) { return !std::isfinite(x); })) return "has a loss term that is not finite";
  if (r.weight < 0) return "has a negative weight";
  if ((r.weights == Digest{}) != (r.optimizer == Digest{})) return "has one digest of the state but not the other";
  return "";
}

StepFormat format_of(const SafetensorsFile& file) {
  const int64_t version = metadata_integer(file, "format_version", 0);
  const Digest initial_weights = metadata_digest(file, "initial_weights");
  const int64_t digest_every = metadata_integer(file, "digest_every", 1);
  if (version == 1) return StepFormat::first_version(initial_weights, digest_every);
  if (version != 2)
    throw FormatError(file.path(), -1, fmt::format("step records of version {} are unknown; 1 and 2 are known", version));
  StepFormat format{version, initial_weights, digest_every, {}, metadata_integer(file, "ranks", 1, kMostRanks)};
  const std::string& recipe = metadata_text(file, "batch_root");
  format.salted_batches = recipe == kBatchRoots[1];
  if (recipe != kBatchRoots[format.salted_batches])
    throw FormatError(file.path(), -1,
                      fmt::format("batch_root '{}' is unknown; {} are known", recipe.substr(0, 80), fmt::join(kBatchRoots, " and ")));
  const Json terms = parse_json(metadata_text(file, "terms"), file.path());
  if (!terms.is_array() || !std::ranges::all_of(terms, [](const Json& name) { return name.is_string(); }))
    throw FormatError(file.path(), -1, "metadata 'terms' is not a list of names");
  format.terms = terms.get<std::vector<std::string>>();
  if (const std::string fault = fault_of(format); !fault.empty()) throw FormatError(file.path(), -1, "step records: " + fault);
  return format;
}

}  // namespace

int64_t StepFormat::record_bytes() const { return int64_t(layout_of(*this).size); }

StepFormat StepFormat::first_version(const Digest& initial_weights, int64_t digest_every) {
  return {1, initial_weights, digest_every, {"forward-kl", "cross-entropy"}, 1};
}

StepRecord with_terms_in_order(StepRecord record, const std::vector<std::string>& from, const std::vector<std::string>& to) {
  const std::array<double, kMostLossTerms> values = record.terms;
  record.terms = {};
  for (size_t i = 0; i < from.size(); ++i) {
    const auto place = std::ranges::find(to, from[i]);
    OVERPROOF_CHECK(place != to.end());
    record.terms[size_t(place - to.begin())] = values[i];
  }
  return record;
}

std::string first_difference(const StepFormat& format, const StepRecord& a, const StepRecord& b) {
  for (const Field& f : layout_of(format).fields)
    if (bits_of(a, f) != bits_of(b, f)) return f.name;
  for (size_t i = 0; i < format.terms.size(); ++i)
    if (std::bit_cast<uint64_t>(a.terms[i]) != std::bit_cast<uint64_t>(b.terms[i])) return format.terms[i];
  if (a.batch != b.batch) return "batch root";
  if (!a.has_state() || !b.has_state()) return "";
  if (a.weights != b.weights) return "weights";
  return a.optimizer != b.optimizer ? "optimizer" : "";
}

std::string field_text(const StepFormat& format, const StepRecord& record, const std::string& field) {
  for (const Field& f : layout_of(format).fields)
    if (f.name == field) return f.integer ? fmt::format("{}", record.*f.integer) : fmt::format("{}", record.*f.number);
  if (const auto term = std::ranges::find(format.terms, field); term != format.terms.end())
    return fmt::format("{}", record.terms[size_t(term - format.terms.begin())]);
  const Digest& digest = field == "batch root" ? record.batch : field == "weights" ? record.weights : record.optimizer;
  return "sha256:" + digest.hex().substr(0, 16);
}

StepRecords::StepRecords(StepFormat format) : format_(std::move(format)) {
  OVERPROOF_CHECK(fault_of(format_).empty());
  chain_ = first_link(format_);
}

void StepRecords::append(const StepRecord& record) {
  OVERPROOF_CHECK(record.step == int64_t(steps_.size()));
  std::string bytes = encode(record, format_);
  chain_ = next_link(chain_, bytes, layout_of(format_));
  put_digest(bytes, layout_of(format_).chain, chain_);
  encoded_ += bytes;
  steps_.push_back(record);
}

std::vector<int64_t> StepRecords::segment_ends() const {
  std::vector<int64_t> ends = {0};
  for (const StepRecord& r : steps_)
    if (r.has_state()) ends.push_back(r.step + 1);
  return ends;
}

const Digest& StepRecords::weights_after(int64_t steps_done) const {
  return steps_done == 0 ? format_.initial_weights : steps_.at(size_t(steps_done) - 1).weights;
}

const Digest& StepRecords::optimizer_after(int64_t steps_done) const {
  static const Digest kNone;
  return steps_done == 0 ? kNone : steps_.at(size_t(steps_done) - 1).optimizer;
}

StepRecords StepRecords::from_bytes(std::string_view bytes, const StepFormat& format, const fs::path& origin, Ended ended) {
  StepRecords records(format);
  const Layout& layout = layout_of(format);
  if (bytes.size() % layout.size != 0)
    throw FormatError(origin, -1, fmt::format("{} bytes of step records are not records of {} bytes", bytes.size(), layout.size));
  const int64_t count = int64_t(bytes.size() / layout.size);
  records.steps_.reserve(size_t(count));
  for (int64_t i = 0; i < count; ++i) {
    const std::string_view at = bytes.substr(size_t(i) * layout.size, layout.size);
    const StepRecord record = decode(at.data(), format);
    const auto fail = [&](std::string_view what) {
      throw FormatError(origin, -1, fmt::format("the record of step {} {}", i, what));
    };
    if (const std::string fault = fault_of(record, i > 0 ? &records.steps_.back() : nullptr, i, format); !fault.empty())
      fail(fault);
    // Segments have one length: otherwise a forger could hide one long segment among many short ones, and draws would miss it.
    const bool wanted = (i + 1) % format.digest_every == 0 || (ended == Ended::yes && i + 1 == count);
    if (record.has_state() != wanted)
      fail(wanted ? "has no digest of the state, at the end of a segment" : "has a digest of the state inside a segment");
    if (std::ranges::any_of(unused(at, format), [](char c) { return c != 0; })) fail("has bytes set that must be zero");
    const Digest chain = next_link(records.chain_, at, layout);
    if (std::memcmp(chain.bytes.data(), at.data() + layout.chain, 32) != 0)
      fail("does not follow from the record before it: one of the two was changed after it was written");
    records.chain_ = chain;
    records.steps_.push_back(record);
  }
  records.encoded_ = bytes;
  return records;
}

void write_step_records(const StepRecords& records, OutputFolder& folder) {
  const StepFormat& format = records.format();
  Metadata metadata = {{"format_version", std::to_string(format.version)},
                       {"initial_weights", format.initial_weights.hex()},
                       {"digest_every", std::to_string(format.digest_every)},
                       {"chain", records.chain().hex()}};
  if (format.version > 1) {
    metadata["terms"] = Json(format.terms).dump();
    metadata["ranks"] = std::to_string(format.ranks);
    metadata["batch_root"] = kBatchRoots[format.salted_batches];
  }
  SafetensorsWriter writer(folder, kStepRecordsFile,
                           {{kTensor, DType::u8, {int64_t(records.steps().size()), format.record_bytes()}}}, metadata);
  writer.append(records.bytes().data(), records.bytes().size());
  writer.close();
}

StepRecords read_step_records(const fs::path& artifact) {
  const SafetensorsFile file(artifact / kStepRecordsFile);
  const StepFormat format = format_of(file);
  const TensorInfo& info = file.info(kTensor);
  if (info.dtype != DType::u8 || info.shape.size() != 2 || info.shape[1] != format.record_bytes())
    throw FormatError(file.path(), -1, fmt::format("'{}' must be U8 [steps, {}]", kTensor, format.record_bytes()));
  const auto bytes = file.bytes(kTensor);
  StepRecords records =
      StepRecords::from_bytes({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, format, file.path());
  if (records.chain() != metadata_digest(file, "chain"))
    throw FormatError(file.path(), -1, "metadata 'chain' is not the link of its last record");
  return records;
}

Digest digest_of_tensors(std::vector<TensorDigest> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorDigest& a, const TensorDigest& b) { return a.name < b.name; });
  Sha256 hash;
  for (const TensorDigest& t : tensors)
    hash.update(fmt::format("{} {} {} {}\n", t.name, dtype_name(t.dtype), fmt::join(t.shape, "x"), t.digest.hex()));
  return hash.finish();
}

Digest digest_of_checkpoint(const fs::path& path) {
  const Checkpoint checkpoint = open_checkpoint(path);
  const std::vector<TensorInfo>& infos = checkpoint.tensors->tensors();
  std::vector<TensorDigest> digests(infos.size());
  parallel_for(int64_t(infos.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      throw_if_interrupted();
      const std::vector<float> values = checkpoint.tensors->read_all_f32(infos[size_t(i)].name);
      digests[size_t(i)] = {infos[size_t(i)].name, DType::f32, infos[size_t(i)].shape,
                            sha256(std::span(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)))};
    }
  });
  return digest_of_tensors(std::move(digests));
}

}  // namespace overproof
