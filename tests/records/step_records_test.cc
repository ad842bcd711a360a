#include "records/step_records.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>

#include "core/error.h"
#include "core/json.h"
#include "formats/safetensors.h"
#include "records/step_log.h"
#include "tests/support.h"

using namespace overproof;

namespace {

const Digest kWeights = sha256(std::string_view("weights")), kOptimizer = sha256(std::string_view("optimizer"));

StepFormat format_of(int64_t every) {
  return {.initial_weights = kWeights, .digest_every = every, .terms = {"forward-kl", "cross-entropy", "hidden"}, .ranks = 2};
}

StepRecords some_records(int64_t steps, int64_t every, StepFormat format = {}) {
  StepRecords records(format.terms.empty() ? format_of(every) : format);
  for (int64_t s = 0; s < steps; ++s) {
    StepRecord r;
    r.step = s;
    r.position = 3 * s;
    r.sequences = 3;
    r.tokens = 96;
    r.weight = 64.5;
    r.tokens_seen = 96 * (s + 1);
    r.learning_rate = 1e-3 / double(s + 1);
    r.loss = 2.0 + 1.0 / double(s + 3);
    r.terms = {1.5, 3.25};
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
  for (size_t i = 0; i < 10; ++i) CHECK(first_difference(records.format(), records.steps()[i], back.steps()[i]).empty());
  CHECK(back.chain() == records.chain());
  CHECK(back.digest_every() == 4);
  CHECK(back.format().terms == records.format().terms);
  CHECK(back.format().ranks == 2);
  CHECK(back.segment_ends() == std::vector<int64_t>{0, 4, 8, 10});
  CHECK(back.weights_after(0) == kWeights);
  CHECK(back.optimizer_after(8) == records.steps()[7].optimizer);
  CHECK(records.bytes().size() == 10 * 320);
  CHECK(back.optimizer_after(0) == Digest{});
}

TEST_CASE("the first link binds the initial weights and the metadata of the records") {
  const Digest first = StepRecords(format_of(2)).chain();
  const auto changed = [](const std::function<void(StepFormat&)>& change) {
    StepFormat format = format_of(2);
    change(format);
    return StepRecords(format).chain();
  };
  CHECK(changed([](StepFormat&) {}) == first);
  CHECK(changed([](StepFormat& f) { f.initial_weights = kOptimizer; }) != first);
  CHECK(changed([](StepFormat& f) { f.digest_every = 3; }) != first);
  CHECK(changed([](StepFormat& f) { f.ranks = 1; }) != first);
  CHECK(changed([](StepFormat& f) { f.terms[2] = "hidden-states"; }) != first);
  CHECK(changed([](StepFormat& f) { std::swap(f.terms[0], f.terms[1]); }) != first);
  CHECK(changed([](StepFormat& f) { f = StepFormat::first_version(kWeights, 2); }) != first);
}

TEST_CASE("no bit of a step record can be changed without breaking the chain") {
  const std::string bytes = some_records(5, 2).bytes();
  const auto parse = [&](const std::string& b) { return StepRecords::from_bytes(b, format_of(2), "steps.safetensors"); };
  CHECK_NOTHROW(parse(bytes));
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string changed = bytes;
    changed[at] = char(changed[at] ^ (1 << (at % 8)));
    CHECK_THROWS_AS(parse(changed), FormatError);
  }
  CHECK_THROWS_AS(parse(bytes.substr(0, bytes.size() - 1)), FormatError);
  CHECK_THROWS_WITH(parse(bytes.substr(0, 3 * 320)), Catch::Contains("no digest of the state"));  // cut off where none was taken
  CHECK_THROWS_AS(parse(bytes.substr(320)), FormatError);
  StepFormat other = format_of(2);
  other.ranks = 1;
  CHECK_THROWS_WITH(StepRecords::from_bytes(bytes, other, "x"), Catch::Contains("does not follow"));
  CHECK(StepRecords::from_bytes(bytes.substr(0, 3 * 320), format_of(2), "x", StepRecords::Ended::no).steps().size() == 3);
}

TEST_CASE("records with a new, valid chain are still checked for values that no training has") {
  const auto refuse = [](const std::function<void(StepRecord&)>& change, const char* why) {
    const StepRecords good = some_records(4, 1);
    StepRecords forged(good.format());
    for (StepRecord r : good.steps()) {
      if (r.step == 2) change(r);
      forged.append(r);
    }
    CHECK_THROWS_WITH(StepRecords::from_bytes(forged.bytes(), forged.format(), "x"), Catch::Contains(why));
  };
  refuse([](StepRecord& r) { r.tokens_seen += 1; }, "not the sum of the tokens");
  refuse([](StepRecord& r) { r.tokens = 0; }, "has no tokens");
  refuse([](StepRecord& r) { r.tokens = std::numeric_limits<int64_t>::max(); }, "not the sum of the tokens");
  refuse([](StepRecord& r) { r.position = 0; }, "goes back");
  refuse([](StepRecord& r) { r.sequences = 0; }, "has no sequences");
  refuse([](StepRecord& r) { r.weight = -1; }, "negative weight");
  refuse([](StepRecord& r) { r.terms[2] = std::numeric_limits<double>::infinity(); }, "loss term that is not finite");
  refuse([](StepRecord& r) { r.loss = std::numeric_limits<double>::quiet_NaN(); }, "not finite");
  refuse([](StepRecord& r) { r.weights = Digest{}; }, "one digest of the state but not the other");
  refuse([](StepRecord& r) { r.weights = r.optimizer = Digest{}; }, "no digest of the state");
  // The same records under a longer segment have digests where none belong.
  CHECK_THROWS_WITH(StepRecords::from_bytes(some_records(4, 1).bytes(), format_of(2), "x"), Catch::Contains("inside a segment"));
}

TEST_CASE("differences between records are named, also those that == does not see") {
  const StepRecord a = some_records(1, 1).steps()[0];
  StepRecord b = a;
  const StepFormat format = format_of(1);
  const auto first_difference = [&](const StepRecord& x, const StepRecord& y) { return overproof::first_difference(format, x, y); };
  CHECK(first_difference(a, b).empty());
  b.grad_norm = 0.0;
  StepRecord c = b;
  c.grad_norm = -0.0;
  CHECK(first_difference(b, c) == "gradient norm");
  b = a;
  b.learning_rate = std::nextafter(a.learning_rate, 1.0);
  CHECK(first_difference(a, b) == "learning rate");
  b = a;
  b.terms[2] = 1;
  CHECK(first_difference(a, b) == "hidden");
  CHECK(field_text(format, b, "hidden") == "1");
  CHECK(field_text(format, b, "tokens") == "96");
  CHECK(field_text(format, b, "batch root") == "sha256:" + a.batch.hex().substr(0, 16));
  b = a;
  b.batch = kWeights;
  CHECK(first_difference(a, b) == "batch root");
  b = a;
  b.optimizer = kWeights;
  CHECK(first_difference(a, b) == "optimizer");
  b.weights = b.optimizer = Digest{};  // states are compared only where both have one
  CHECK(first_difference(a, b).empty());
}

TEST_CASE("a file of step records must agree with its metadata") {
  const TempFolder folder;
  const auto write = [&](Metadata metadata, std::vector<int64_t> shape, DType dtype, const std::string& bytes) {
    OutputFolder out(folder.path());
    SafetensorsWriter writer(out, kStepRecordsFile, {{"steps", dtype, std::move(shape)}}, metadata);
    writer.append(bytes.data(), bytes.size());
    writer.close();
  };
  const StepRecords records = some_records(2, 1);
  const Metadata good = {{"format_version", "2"}, {"initial_weights", kWeights.hex()}, {"digest_every", "1"},
                         {"terms", R"(["forward-kl","cross-entropy","hidden"])"}, {"ranks", "2"},
                         {"batch_root", "plain"}, {"chain", records.chain().hex()}};
  write(good, {2, 320}, DType::u8, records.bytes());
  CHECK_NOTHROW(read_step_records(folder.path()));
  write(good, {640}, DType::u8, records.bytes());
  CHECK_THROWS_WITH(read_step_records(folder.path()), Catch::Contains("U8 [steps, 320]"));
  for (const auto& [key, value] : std::vector<std::pair<std::string, std::string>>{{"format_version", "3"},
                                                                     {"format_version", "0"},
                                                                     {"ranks", "0"},
                                                                     {"ranks", "1"},
                                                                     {"terms", "[]"},
                                                                     {"terms", "{}"},
                                                                     {"terms", "[1]"},
                                                                     {"terms", R"(["forward-kl","cross-entropy","Hidden"])"},
                                                                     {"terms", R"(["forward-kl","cross-entropy","hidden","forward-kl"])"},
                                                                     {"terms", R"(["forward-kl","cross-entropy","other"])"},
                                                                     {"terms", R"(["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f"])"},
                                                                     {"batch_root", "keyed"},
                                                                     {"initial_weights", "0"},
                                                                     {"digest_every", "0"},
                                                                     {"digest_every", "1x"},
                                                                     {"chain", kWeights.hex()}}) {
    Metadata bad = good;
    bad[key] = value;
    write(bad, {2, 320}, DType::u8, records.bytes());
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

TEST_CASE("terms that the metadata does not name are zeros") {
  const StepFormat one{.initial_weights = kWeights, .terms = {"forward-kl"}};
  StepRecords records(one);
  StepRecord r = some_records(1, 1).steps()[0];
  r.terms[1] = 7;  // not named, so not stored
  records.append(r);
  const StepRecords back = StepRecords::from_bytes(records.bytes(), one, "x");
  CHECK(back.steps()[0].terms[0] == 1.5);
  CHECK(back.steps()[0].terms[1] == 0);
  // The same bytes with one set there, chained anew.
  std::string bytes = records.bytes();
  bytes[88] = 1;
  Sha256 link;
  link.update(StepRecords(one).chain().bytes.data(), 32);
  link.update(bytes.data(), 288);
  const Digest chain = link.finish();
  bytes.replace(288, 32, reinterpret_cast<const char*>(chain.bytes.data()), 32);
  CHECK_THROWS_WITH(StepRecords::from_bytes(bytes, one, "x"), Catch::Contains("must be zero"));
}

TEST_CASE("terms are put in another order by name") {
  StepRecord r;
  r.terms = {1, 2};
  const StepRecord moved = with_terms_in_order(r, {"a", "b"}, {"b", "c", "a"});
  CHECK(moved.terms[0] == 2);
  CHECK(moved.terms[1] == 0);
  CHECK(moved.terms[2] == 1);
  CHECK_THROWS_AS(with_terms_in_order(r, {"a", "b"}, {"a"}), std::logic_error);
}

TEST_CASE("the readable log has the numbers of the records") {
  const StepRecords records = some_records(3, 1);
  std::string text;
  for (const StepRecord& r : records.steps()) text += step_log_line(records.format(), r).dump() + "\n";
  const StepCurves curves = parse_step_log(text, "steps.jsonl");
  REQUIRE(curves.losses.size() == 4);
  CHECK(curves.losses[0].name == "loss");
  CHECK(curves.losses[0].values[2] == records.steps()[2].loss);
  CHECK(curves.losses[1].name == "cross-entropy");
  CHECK(curves.losses[1].values == std::vector<double>{3.25, 3.25, 3.25});
  CHECK(curves.balance.values == std::vector<double>{1, 1, 1});
  const Json line = Json::parse(text.substr(0, text.find('\n')));
  CHECK(line.at("weight") == 64.5);
  CHECK(line.at("sequences") == 3);
}

TEST_CASE("a log may leave values out, but is made of objects") {
  const StepCurves curves = parse_step_log("{\"loss\":1}\n{\"terms\":{\"x\":2,\"y\":null}}\n{\"kl\":3,\"balance\":1}", "steps.jsonl");
  REQUIRE(curves.losses.size() == 4);
  CHECK(std::isnan(curves.losses[0].values[1]));
  CHECK(curves.losses[1].name == "x");
  CHECK(std::isnan(curves.losses[1].values[0]));
  CHECK(curves.losses[1].values[1] == 2);
  CHECK(curves.losses[3].name == "forward-kl");
  for (const StepSeries& s : curves.losses) CHECK(s.values.size() == 3);
  CHECK_THROWS_AS(parse_step_log("[1]\n", "x"), FormatError);
  CHECK_THROWS_AS(parse_step_log("{\"loss\":1}\nnot json\n", "x"), FormatError);
  std::string many = "{\"terms\":{";
  for (int i = 0; i < 15; ++i) many += std::string(i ? "," : "") + "\"t" + std::to_string(i) + "\":1";
  CHECK_THROWS_WITH(parse_step_log(many + "}}", "x"), Catch::Contains("more than 14"));
}

TEST_CASE("records of version 1 are read as the program of that version wrote them") {
  // tests/golden/step_records_v1/make.sh: made by overproof at 46399e7.
  const fs::path golden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/step_records_v1";
  const Json expected = read_json(golden / "expected.json");
  const StepRecords records = read_step_records(golden);
  CHECK(records.format().version == 1);
  CHECK(records.format().terms == std::vector<std::string>{"forward-kl", "cross-entropy"});
  CHECK(records.chain().hex() == expected.at("step_chain"));
  CHECK(records.initial_weights().hex() == expected.at("initial_weights"));
  const std::string log = read_file(golden / "steps.jsonl");
  std::string lines;
  for (const StepRecord& r : records.steps()) {
    CHECK(r.weight == double(r.tokens));
    lines += step_log_line(records.format(), r).dump() + "\n";
  }
  CHECK(records.steps().size() == expected.at("steps"));
  CHECK(lines == log);
  const StepCurves curves = parse_step_log(log, "steps.jsonl");
  REQUIRE(curves.losses.size() == 3);
  CHECK(curves.losses[1].name == "forward-kl");
  CHECK(curves.losses[1].values[0] == records.steps()[0].terms[0]);
  // Written again, the file is the same.
  const TempFolder folder;
  OutputFolder out(folder.path());
  write_step_records(records, out);
  CHECK(read_file(folder / kStepRecordsFile) == read_file(golden / kStepRecordsFile));
}
