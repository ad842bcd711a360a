#include "teacher/sample_stage.h"

#include <ATen/ATen.h>

#include <catch2/catch.hpp>
#include <limits>

#include "core/error.h"
#include "core/utf8.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "data/watermark.h"
#include "records/sampled_tokens.h"
#include "teacher/text_stream.h"
#include "tests/teacher/tiny_world.h"

namespace overproof {
namespace {

SampleConfig short_config() {
  SampleConfig config;
  config.count = 37;  // the last batch is not full
  config.max_tokens = 12;
  config.prompt_tokens = 5;
  return config;
}

const std::vector<std::string> kFiles = {"documents.jsonl", "tokens.jsonl", "sampling.json"};

}  // namespace

TEST_CASE("sampled documents are valid UTF-8, name what they were made from, and depend on seed and number only") {
  const TinyWorld world;
  Outputs first = world.fresh("first");
  const StageReport report = run_sample(short_config(), world.inputs(), first);
  const int64_t documents = report.metrics().at("documents");
  CHECK(documents + report.metrics().at("empty").get<int64_t>() == 37);
  const auto tokens = read_sampled_tokens(world.path / "first", 257);
  REQUIRE(int64_t(tokens.size()) == documents);
  const std::string table = read_file(world.path / "first/documents.jsonl");
  int64_t lines = 0;
  for (size_t at = 0; at < table.size(); at = table.find('\n', at) + 1, ++lines) {
    const Json record = Json::parse(table.substr(at, table.find('\n', at) - at));
    CHECK(invalid_utf8_at(read_file(world.path / "first" / record.at("name").get<std::string>())) == -1);
    CHECK(record.at("parents").at(0).at("digest") == "sha256:" + sha256("teacher").hex());
    CHECK(record.at("parents").at(1).at("slot") == "prompt");
  }
  CHECK(lines == documents);

  SampleConfig fewer = short_config();
  fewer.count = 20;
  Outputs second = world.fresh("second");
  run_sample(fewer, world.inputs(), second);
  const auto some = read_sampled_tokens(world.path / "second", 257);
  for (size_t i = 0; i < some.size(); ++i) CHECK(some[i].tokens == tokens[i].tokens);
}

TEST_CASE("a killed sampling resumes after the last saved document, with the same bytes") {
  const TinyWorld world;
  Outputs whole = world.fresh("whole");
  run_sample(short_config(), world.inputs(), whole);
  // What a kill after 16 of the documents leaves.
  SampleConfig sixteen = short_config();
  sixteen.count = 16;
  Outputs killed = world.fresh("killed");
  run_sample(sixteen, world.inputs(), killed);
  Outputs resumed(world.path / "resumed", world.path / "killed.scratch", {}, sha256("stage key"));
  fs::create_directories(world.path / "resumed");
  const StageReport report = run_sample(short_config(), world.inputs(), resumed);
  CHECK_THAT(report.summary.back(), Catch::Contains("resumed: 16 of"));
  for (const std::string& file : kFiles) CHECK(read_file(world.path / "whole" / file) == read_file(world.path / "resumed" / file));

  SECTION("but not under another stage key") {
    Outputs other(world.path / "other", world.path / "killed.scratch", {}, sha256("another"));
    fs::create_directories(world.path / "other");
    CHECK(run_sample(short_config(), world.inputs(), other).summary.size() == 1);
  }
}

TEST_CASE("a sampled watermark is recorded by its commitment and raises the share of green tokens") {
  const TinyWorld world;
  const WatermarkKey key = WatermarkKey::create(world.path / "key.json", 0.25, 1);
  std::map<std::string, InputArtifact> slots = world.inputs().all();
  slots["watermark-key"] = {world.path / "key.json", {}};
  SampleConfig config = short_config();
  config.watermark_strength = 6;
  Outputs outputs = world.fresh("marked");
  const StageReport report = run_sample(config, Inputs(slots), outputs);
  CHECK(report.metrics().at("watermark").at("commitment") == "sha256:" + key.commitment().hex());
  CHECK(report.metrics().at("watermark").at("green").get<double>() > 0.5);
  int64_t green = 0, scored = 0;
  for (const SampledTokens& document : read_sampled_tokens(world.path / "marked", 257)) {
    std::vector<int32_t> all = document.before;
    REQUIRE(all.size() == 1);
    for (const int32_t id : document.tokens) {
      green += key.after(all).green(id);
      ++scored;
      all.push_back(id);
    }
  }
  CHECK(report.metrics().at("watermark").at("green").get<double>() == Approx(double(green) / double(scored)));
}

TEST_CASE("prompts are read from each source once, and no further than they are needed") {
  const TinyWorld world;
  int64_t seen = 0;
  for_each_text_while(world.path / "corpus", [&](const Document&, std::string_view) { return ++seen < 1; });
  CHECK(seen == 1);
  // Damage after the only prompt that is needed is not met; before, the whole file was read for each prompt.
  const fs::path texts = world.path / "corpus" / texts_file_name("test");
  std::string lines = read_file(texts);
  lines.resize(lines.find('\n') + 1);
  write_file_atomically(texts, lines + "damaged\n");
  SampleConfig config = short_config();
  config.count = 1;
  Outputs one = world.fresh("one");
  run_sample(config, world.inputs(), one);
  config.count = 2;
  Outputs two = world.fresh("two");
  CHECK_THROWS_AS(run_sample(config, world.inputs(), two), FormatError);
}

TEST_CASE("a teacher with weights that are not numbers is refused, not sampled") {
  const TinyWorld world;
  const ModelConfig shape = tiny_config();
  Decoder broken(shape, RandomSource(shape));
  {
    at::NoGradGuard no_grad;
    for (NamedTensor& t : broken.parameters())
      if (t.name == "embedding") t.tensor.fill_(std::numeric_limits<float>::quiet_NaN());
  }
  fs::remove(world.path / "teacher/model.safetensors");
  OutputFolder folder(world.path / "teacher");
  fs::remove(world.path / "teacher/config.json");
  fs::remove(world.path / "teacher/generation_config.json");
  save_decoder(broken, folder, DType::f32);
  Outputs outputs = world.fresh("samples");
  CHECK_THROWS_AS(run_sample(short_config(), world.inputs(), outputs), DivergenceError);
}

namespace {

/// Bytes as tokens. Counts the ids that it decodes.
class CountingTokenizer final : public Tokenizer {
 public:
  void encode(std::string_view text, std::vector<int32_t>& ids, bool) const override {
    for (const char c : text) ids.push_back(uint8_t(c));
  }
  std::string decode(const std::vector<int32_t>& ids) const override {
    decoded += int64_t(ids.size());
    std::string bytes;
    for (const int32_t id : ids) bytes += char(id);
    return to_valid_utf8(bytes);
  }
  int64_t vocab_size() const override { return 256; }
  std::string token_text(int32_t id) const override { return {char(id)}; }
  int32_t bos_id() const override { return -1; }
  int32_t eos_id() const override { return -1; }
  Digest definition_digest() const override { return {}; }
  mutable int64_t decoded = 0;
};

}  // namespace

TEST_CASE("streamed text is the whole text, and its cost grows with its length only") {
  std::string text;
  for (int i = 0; i < 500; ++i) text += i % 7 == 0 ? "\xf0\x9f\x8e\x88" : i % 3 == 0 ? "\xc3\xa9" : "x";
  const CountingTokenizer tokenizer;
  std::vector<int32_t> ids;
  tokenizer.encode(text, ids, false);
  ids.push_back(0xc3);  // a character that is never completed
  TextStream stream(tokenizer);
  std::string streamed;
  for (const int32_t id : ids) {
    streamed += stream.add(id);
    REQUIRE(invalid_utf8_at(streamed) == -1);
  }
  CHECK(streamed == text);
  streamed += stream.finish();
  CHECK(streamed == text + "\xEF\xBF\xBD");
  CHECK(tokenizer.decoded < 16 * int64_t(ids.size()));
}

}  // namespace overproof
