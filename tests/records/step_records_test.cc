#include "records/step_records.h"

#include <catch2/catch.hpp>
#include <limits>

#include "core/error.h"
#include "core/json.h"
#include "formats/safetensors.h"
#include "tests/support.h"

using namespace overproof;

namespace {

const Digest kWeights = sha256(std::string_view("weights")), kOptimizer = sha256(std::string_view("optimizer"));

StepRecords some_records(int64_t steps, int64_t every) {
  StepRecords records(kWeights, every);
  for (int64_t s = 0; s < steps; ++s) {
    StepRecord r;
    r.step = s;
    r.position = 3 * s;
    r.tokens = 96;
    r.tokens_seen = 96 * (s + 1);
    r.learning_rate = 1e-3 / double(s + 1);
    r.loss = 2.0 + 1.0 / double(s + 3);
    r.kl = 1.5;
    r.ce = 3.25;
    r.grad_norm = 0.5;
    r.batch = sha256(std::to_string(s));
    if ((s + 1) % every == 0 || s + 1 == steps) {
      r.weights = sha256("w" + std::to_string(s));
      r.optimizer = sha256("o" + std::to_string(s));
    }
    records.append(r);
  }
  return records;
}

}  // namespace

TEST_CASE("step records come back as they were written") {
  const TempFolder folder;
  const StepRecords records = some_records(10, 4);
  OutputFolder out(folder.path());
  write_step_records(records, out);
  const StepRecords back = read_step_records(folder.path());
  REQUIRE(back.steps().size() == 10);
  for (size_t i = 0; i < 10; ++i) CHECK(first_difference(records.steps()[i], back.steps()[i]).empty());
  CHECK(back.chain() == records.chain());
  CHECK(back.digest_every() == 4);
  CHECK(back.segment_ends() == std::vector<int64_t>{0, 4, 8, 10});
  CHECK(back.weights_after(0) == kWeights);
  CHECK(back.optimizer_after(8) == records.steps()[7].optimizer);
  CHECK(records.bytes().size() == 10 * 256);
  // The empty chain binds what training began with.
  CHECK(StepRecords(kWeights, 1).chain() != StepRecords(kOptimizer, 1).chain());
  CHECK(StepRecords(kWeights, 1).optimizer_after(0) == Digest{});
}

TEST_CASE("no bit of a step record can be changed without breaking the chain") {
  const std::string bytes = some_records(5, 2).bytes();
  const auto parse = [&](const std::string& b) { return StepRecords::from_bytes(b, kWeights, 2, "steps.safetensors"); };
  CHECK_NOTHROW(parse(bytes));
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string changed = bytes;
    changed[at] = char(changed[at] ^ (1 << (at % 8)));
    CHECK_THROWS_AS(parse(changed), FormatError);
  }
  CHECK_THROWS_AS(parse(bytes.substr(0, bytes.size() - 1)), FormatError);
  CHECK_THROWS_WITH(parse(bytes.substr(0, 3 * 256)), Catch::Contains("no digest of the state"));  // cut off where none was taken
  CHECK_THROWS_AS(parse(bytes.substr(256)), FormatError);
  CHECK_THROWS_WITH(StepRecords::from_bytes(bytes, kOptimizer, 2, "x"), Catch::Contains("does not follow"));
  CHECK(StepRecords::from_bytes(bytes.substr(0, 3 * 256), kWeights, 2, "x", StepRecords::Ended::no).steps().size() == 3);
}

TEST_CASE("records that were chained anew are still held to what records can say") {
  const auto refuse = [](const std::function<void(StepRecord&)>& change, const char* why) {
    const StepRecords good = some_records(4, 1);
    StepRecords forged(kWeights, 1);
    for (StepRecord r : good.steps()) {
      if (r.step == 2) change(r);
      forged.append(r);
    }
    CHECK_THROWS_WITH(StepRecords::from_bytes(forged.bytes(), kWeights, 1, "x"), Catch::Contains(why));
  };
  refuse([](StepRecord& r) { r.tokens_seen += 1; }, "does not add up");
  refuse([](StepRecord& r) { r.tokens = 0; }, "has no tokens");
  refuse([](StepRecord& r) { r.tokens = std::numeric_limits<int64_t>::max(); }, "does not add up");
  refuse([](StepRecord& r) { r.position = 0; }, "goes back");
  refuse([](StepRecord& r) { r.loss = std::numeric_limits<double>::quiet_NaN(); }, "not finite");
  refuse([](StepRecord& r) { r.weights = Digest{}; }, "one digest of the state but not the other");
  refuse([](StepRecord& r) { r.weights = r.optimizer = Digest{}; }, "no digest of the state");
  // The same records under a longer segment have digests where none belong.
  CHECK_THROWS_WITH(StepRecords::from_bytes(some_records(4, 1).bytes(), kWeights, 2, "x"), Catch::Contains("where none belongs"));
}

TEST_CASE("differences between records are named, also those that == does not see") {
  const StepRecord a = some_records(1, 1).steps()[0];
  StepRecord b = a;
  CHECK(first_difference(a, b).empty());
  b.grad_norm = 0.0;
  StepRecord c = b;
  c.grad_norm = -0.0;
  CHECK(first_difference(b, c) == "gradient norm");
  b = a;
  b.learning_rate = std::nextafter(a.learning_rate, 1.0);
  CHECK(first_difference(a, b) == "learning rate");
  b = a;
  b.batch = kWeights;
  CHECK(first_difference(a, b) == "batch root");
  b = a;
  b.optimizer = kWeights;
  CHECK(first_difference(a, b) == "optimizer");
  b.weights = b.optimizer = Digest{};  // a record without a state speaks of none
  CHECK(first_difference(a, b).empty());
}

TEST_CASE("a file of step records must be what its header says") {
  const TempFolder folder;
  const auto write = [&](Metadata metadata, std::vector<int64_t> shape, DType dtype, const std::string& bytes) {
    OutputFolder out(folder.path());
    SafetensorsWriter writer(out, kStepRecordsFile, {{"steps", dtype, std::move(shape)}}, metadata);
    writer.append(bytes.data(), bytes.size());
    writer.close();
  };
  const StepRecords records = some_records(2, 1);
  const Metadata good = {
      {"format_version", "1"}, {"initial_weights", kWeights.hex()}, {"digest_every", "1"}, {"chain", records.chain().hex()}};
  write(good, {2, 256}, DType::u8, records.bytes());
  CHECK_NOTHROW(read_step_records(folder.path()));
  write(good, {512}, DType::u8, records.bytes());
  CHECK_THROWS_WITH(read_step_records(folder.path()), Catch::Contains("U8 [steps, 256]"));
  for (const auto& [key, value] : std::map<std::string, std::string>{{"format_version", "2"},
                                                                     {"initial_weights", "0"},
                                                                     {"digest_every", "0"},
                                                                     {"digest_every", "1x"},
                                                                     {"chain", kWeights.hex()}}) {
    Metadata bad = good;
    bad[key] = value;
    write(bad, {2, 256}, DType::u8, records.bytes());
    CHECK_THROWS_AS(read_step_records(folder.path()), FormatError);
  }
}

TEST_CASE("a digest of tensors depends on names, shapes and bytes, not on their order") {
  const TensorDigest a{"a", DType::f32, {2, 3}, kWeights}, b{"b", DType::f32, {4}, kOptimizer};
  CHECK(digest_of_tensors({a, b}) == digest_of_tensors({b, a}));
  TensorDigest other = a;
  other.shape = {3, 2};
  CHECK(digest_of_tensors({other, b}) != digest_of_tensors({a, b}));
  // By hand, as the header has it.
  CHECK(digest_of_tensors({b, a}) == sha256("a F32 2x3 " + kWeights.hex() + "\nb F32 4 " + kOptimizer.hex() + "\n"));
}
