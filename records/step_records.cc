#include "records/step_records.h"

#include <fmt/format.h>

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

constexpr size_t kBatchAt = 80, kWeightsAt = 112, kOptimizerAt = 144, kZerosAt = 176, kChainAt = 224;
constexpr const char* kTensor = "steps";
constexpr int64_t kFormatVersion = 1;
static_assert(std::endian::native == std::endian::little, "records are little-endian");

struct Field {
  const char* name;
  int64_t StepRecord::*integer;
  double StepRecord::*number;
};
// In the order of their bytes, 8 each.
constexpr Field kFields[] = {
    {"step", &StepRecord::step, nullptr},
    {"position", &StepRecord::position, nullptr},
    {"tokens", &StepRecord::tokens, nullptr},
    {"tokens_seen", &StepRecord::tokens_seen, nullptr},
    {"learning rate", nullptr, &StepRecord::learning_rate},
    {"loss", nullptr, &StepRecord::loss},
    {"kl", nullptr, &StepRecord::kl},
    {"ce", nullptr, &StepRecord::ce},
    {"gradient norm", nullptr, &StepRecord::grad_norm},
    {"balance", nullptr, &StepRecord::balance},
};
static_assert(sizeof kFields / sizeof kFields[0] * 8 == kBatchAt);

using RecordBytes = std::array<char, kStepRecordBytes>;

uint64_t bits_of(const StepRecord& r, const Field& f) {
  return f.integer ? uint64_t(r.*f.integer) : std::bit_cast<uint64_t>(r.*f.number);
}

RecordBytes encode(const StepRecord& record) {
  RecordBytes bytes{};
  for (size_t i = 0; i < std::size(kFields); ++i) {
    const uint64_t bits = bits_of(record, kFields[i]);
    std::memcpy(bytes.data() + 8 * i, &bits, 8);
  }
  std::memcpy(bytes.data() + kBatchAt, record.batch.bytes.data(), 32);
  std::memcpy(bytes.data() + kWeightsAt, record.weights.bytes.data(), 32);
  std::memcpy(bytes.data() + kOptimizerAt, record.optimizer.bytes.data(), 32);
  return bytes;
}

StepRecord decode(const char* bytes) {
  StepRecord record;
  for (size_t i = 0; i < std::size(kFields); ++i) {
    uint64_t bits = 0;
    std::memcpy(&bits, bytes + 8 * i, 8);
    if (kFields[i].integer) record.*kFields[i].integer = int64_t(bits);
    else record.*kFields[i].number = std::bit_cast<double>(bits);
  }
  std::memcpy(record.batch.bytes.data(), bytes + kBatchAt, 32);
  std::memcpy(record.weights.bytes.data(), bytes + kWeightsAt, 32);
  std::memcpy(record.optimizer.bytes.data(), bytes + kOptimizerAt, 32);
  return record;
}

Digest first_link(const Digest& weights) {
  Sha256 hash;
  hash.update("overproof step chain v1");
  hash.update(weights.bytes.data(), weights.bytes.size());
  return hash.finish();
}

Digest next_link(const Digest& chain, const char* record) {
  Sha256 hash;
  hash.update(chain.bytes.data(), chain.bytes.size());
  hash.update(record, kChainAt);
  return hash.finish();
}

/// What must hold of a record by itself and after the one before it; "" when it does.
std::string fault_of(const StepRecord& r, const StepRecord* before, int64_t index) {
  if (r.step != index) return fmt::format("is of step {}", r.step);
  if (r.position < 0 || (before && r.position < before->position)) return "goes back in the order of training";
  if (r.tokens < 1) return "has no tokens";
  const auto seen = checked_add(before ? before->tokens_seen : 0, r.tokens);
  if (!seen || r.tokens_seen != *seen) return "has a count of tokens that does not add up";
  for (const double x : {r.learning_rate, r.loss, r.kl, r.ce, r.grad_norm, r.balance})
    if (!std::isfinite(x)) return "has a number that is not finite";
  if ((r.weights == Digest{}) != (r.optimizer == Digest{})) return "has one digest of the state but not the other";
  return "";
}

}  // namespace

Json StepRecord::to_json() const {
  return {{"step", step},        {"loss", loss},           {"kl", kl},         {"ce", ce},
          {"lr", learning_rate}, {"grad_norm", grad_norm}, {"tokens", tokens}, {"balance", balance}};
}

std::string first_difference(const StepRecord& a, const StepRecord& b) {
  for (const Field& f : kFields)
    if (bits_of(a, f) != bits_of(b, f)) return f.name;
  if (a.batch != b.batch) return "batch root";
  if (!a.has_state() || !b.has_state()) return "";
  if (a.weights != b.weights) return "weights";
  return a.optimizer != b.optimizer ? "optimizer" : "";
}

StepRecords::StepRecords(const Digest& initial_weights, int64_t digest_every)
    : initial_weights_(initial_weights), chain_(first_link(initial_weights)), digest_every_(digest_every) {}

void StepRecords::append(const StepRecord& record) {
  OVERPROOF_CHECK(record.step == int64_t(steps_.size()));
  RecordBytes bytes = encode(record);
  chain_ = next_link(chain_, bytes.data());
  std::memcpy(bytes.data() + kChainAt, chain_.bytes.data(), 32);
  encoded_.append(bytes.data(), bytes.size());
  steps_.push_back(record);
}

std::vector<int64_t> StepRecords::segment_ends() const {
  std::vector<int64_t> ends = {0};
  for (const StepRecord& r : steps_)
    if (r.has_state()) ends.push_back(r.step + 1);
  return ends;
}

const Digest& StepRecords::weights_after(int64_t steps_done) const {
  return steps_done == 0 ? initial_weights_ : steps_.at(size_t(steps_done) - 1).weights;
}

const Digest& StepRecords::optimizer_after(int64_t steps_done) const {
  static const Digest kNone;
  return steps_done == 0 ? kNone : steps_.at(size_t(steps_done) - 1).optimizer;
}

std::string StepRecords::bytes() const { return encoded_; }

StepRecords StepRecords::from_bytes(std::string_view bytes, const Digest& initial_weights, int64_t digest_every,
                                    const fs::path& origin, Ended ended) {
  if (bytes.size() % kStepRecordBytes != 0) throw FormatError(origin, -1, "its step records are not 256 bytes each");
  StepRecords records(initial_weights, digest_every);
  const int64_t count = int64_t(bytes.size()) / kStepRecordBytes;
  records.steps_.reserve(size_t(count));
  for (int64_t i = 0; i < count; ++i) {
    const char* at = bytes.data() + i * kStepRecordBytes;
    const StepRecord record = decode(at);
    const auto fail = [&](std::string_view what) {
      throw FormatError(origin, -1, fmt::format("the record of step {} {}", i, what));
    };
    if (const std::string fault = fault_of(record, i > 0 ? &records.steps_.back() : nullptr, i); !fault.empty()) fail(fault);
    // Segments of one length: else a forger could hide one long one among many short ones, and draws would miss it.
    const bool wanted = (i + 1) % digest_every == 0 || (ended == Ended::yes && i + 1 == count);
    if (record.has_state() != wanted)
      fail(wanted ? "has no digest of the state, where one belongs" : "has a digest of the state, where none belongs");
    if (std::any_of(at + kZerosAt, at + kChainAt, [](char c) { return c != 0; })) fail("has bytes set that mean nothing");
    const Digest chain = next_link(records.chain_, at);
    if (std::memcmp(chain.bytes.data(), at + kChainAt, 32) != 0)
      fail("does not follow from the one before it: one of the two was changed after it was written");
    records.chain_ = chain;
    records.steps_.push_back(record);
  }
  records.encoded_ = bytes;
  return records;
}

void write_step_records(const StepRecords& records, OutputFolder& folder) {
  SafetensorsWriter writer(folder, kStepRecordsFile, {{kTensor, DType::u8, {int64_t(records.steps().size()), kStepRecordBytes}}},
                           {{"format_version", std::to_string(kFormatVersion)},
                            {"initial_weights", records.initial_weights().hex()},
                            {"digest_every", std::to_string(records.digest_every())},
                            {"chain", records.chain().hex()}});
  const std::string bytes = records.bytes();
  writer.append(bytes.data(), bytes.size());
  writer.close();
}

StepRecords read_step_records(const fs::path& artifact) {
  const SafetensorsFile file(artifact / kStepRecordsFile);
  if (const int64_t version = metadata_integer(file, "format_version", 0); version != kFormatVersion)
    throw FormatError(file.path(), -1, fmt::format("step records of format {} cannot be read; {} can", version, kFormatVersion));
  const TensorInfo& info = file.info(kTensor);
  if (info.dtype != DType::u8 || info.shape.size() != 2 || info.shape[1] != kStepRecordBytes)
    throw FormatError(file.path(), -1, "'steps' must be U8 [steps, 256]");
  const auto bytes = file.bytes(kTensor);
  StepRecords records =
      StepRecords::from_bytes({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                              metadata_digest(file, "initial_weights"), metadata_integer(file, "digest_every", 1), file.path());
  if (records.chain() != metadata_digest(file, "chain"))
    throw FormatError(file.path(), -1, "its metadata 'chain' is not where its records end");
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
