// From documents to soft targets with a tiny random teacher.

#include "teacher/teach_stage.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <sstream>

#include "core/json.h"
#include "data/bpe.h"
#include "data/corpus_stage.h"
#include "data/tokenizer.h"
#include "core/utf8.h"
#include "teacher/generate.h"
#include "tests/model/random_model.h"
#include "tests/support.h"

namespace overproof {
namespace {

/// Tokenizer of single bytes and one end token.
std::string byte_tokenizer(const std::string& end_token) {
  BpeDefinition d;
  for (int b = 0; b < 256; ++b) append_utf8(d.tokens.emplace_back(), byte_level_char(uint8_t(b)));
  d.pre_tokenizer = {{kGpt2Pattern}};
  d.tokens.push_back(end_token);
  d.added = {{.id = 256, .text = end_token, .special = true}};
  d.bos = d.eos = 256;
  return write_tokenizer_json(d);
}

ModelConfig tiny_config() {
  ModelConfig c = random_dense_config();
  c.vocab_size = 257;
  c.hidden_size = 24;
  c.intermediate_size = 32;
  c.bos_id = c.eos_id = 256;
  return c;
}

/// A teacher and a corpus of two documents in a folder that goes away with the test.
struct World {
  TempFolder folder;
  const fs::path& path = folder.path();
  World() {
    fs::create_directories(path / "teacher");
    OutputFolder teacher(path / "teacher");
    const ModelConfig config = tiny_config();
    save_decoder(Decoder(config, RandomSource(config)), teacher, SaveDType::f32);
    teacher.write_file("tokenizer.json", byte_tokenizer("<|endoftext|>"));
    fs::create_directories(path / "source");
    std::string records;
    for (int i = 0; i < 2; ++i) {
      std::string text;
      for (int line = 0; line < 12; ++line) text += fmt::format("document {} says {} in line {}\n", i, line * line, line);
      write_file_atomically(path / "source" / fmt::format("{}.txt", i), text);
      records += Json{{"name", fmt::format("{}.txt", i)}, {"license", "CC0-1.0"}, {"source", "test"}}.dump() + "\n";
    }
    write_file_atomically(path / "source/documents.jsonl", records);
    CorpusConfig corpus;
    corpus.held_out = 0;
    corpus.window_length = 32;
    Outputs outputs = fresh("corpus");
    run_corpus(corpus, Inputs({{"source", {path / "source", {}}}, {"tokenizer", {path / "teacher", {}}}}), outputs);
  }
  Outputs fresh(const std::string& name) const {
    fs::create_directories(path / name);
    fs::create_directories(path / (name + ".scratch"));
    return Outputs(path / name, path / (name + ".scratch"));
  }
  Inputs inputs() const {
    return Inputs({{"teacher", {path / "teacher", sha256("teacher")}}, {"corpus", {path / "corpus", sha256("corpus")}}});
  }
};

TeachConfig short_lesson(const std::string& mode) {
  TeachConfig config;
  config.tokens = 32 * 11 + 5;  // eleven windows: the last batch is not full
  config.mode = mode;
  config.k = 20;
  return config;
}

}  // namespace

TEST_CASE("soft targets are written, read and made again row by row") {
  const World world;
  const std::string mode = GENERATE("sample", "top-k");
  const TeachConfig config = short_lesson(mode);
  Outputs outputs = world.fresh("targets");
  const StageReport report = run_teach(config, world.inputs(), outputs);
  CHECK(report.metrics().at("windows") == 11);

  const SoftTargets targets(world.path / "targets");
  CHECK(targets.kind() == mode);
  CHECK(targets.blocks() == 11);
  CHECK(targets.vocab_size() == 257);
  CHECK(targets.teacher_root() == sha256("teacher"));
  CHECK(targets.order_key() == order_key(sha256("corpus"), 0));
  CHECK(targets.bytes_per_token() == Approx(report.metrics().at("bytes_per_token").get<double>()));
  TargetBlock block;
  targets.read_block(10, block);
  REQUIRE(block.offsets.size() == 33);
  for (size_t r = 0; r < 32; ++r) {
    double mass = block.tail[r];
    for (int64_t i = block.offsets[r]; i < block.offsets[r + 1]; ++i) mass += block.probabilities[size_t(i)];
    CHECK(mass == Approx(1.0).epsilon(1e-5));
  }

  const Decoder teacher(open_checkpoint(world.path / "teacher"));
  const Corpus corpus(world.path / "corpus");
  for (const int64_t row : {0, 31, 32, 150, 11 * 32 - 1}) {
    const auto stored = targets.row_bytes(row);
    CHECK(rederive_row(teacher, corpus, targets, row) == std::vector<uint8_t>(stored.begin(), stored.end()));
  }
}

TEST_CASE("a killed lesson goes on after its last finished batch, to the same bytes") {
  const World world;
  const TeachConfig config = short_lesson("sample");
  Outputs first = world.fresh("first"), second = world.fresh("second");
  run_teach(config, world.inputs(), first);
  fs::copy(world.path / "first.scratch/batch-000000004.bin", world.path / "second.scratch/batch-000000004.bin");
  const StageReport report = run_teach(config, world.inputs(), second);
  CHECK_THAT(report.summary.back(), Catch::Contains("224 tokens taught now"));  // 7 of the batches
  CHECK(read_file(world.path / "first/targets.safetensors") == read_file(world.path / "second/targets.safetensors"));
}

TEST_CASE("a corpus of another tokenizer is refused") {
  const World world;
  write_file_atomically(world.path / "teacher/tokenizer.json", byte_tokenizer("<|stop|>"));
  Outputs outputs = world.fresh("targets");
  CHECK_THROWS_WITH(run_teach(short_lesson("sample"), world.inputs(), outputs), Catch::Contains("another tokenizer"));
}

TEST_CASE("damaged soft targets are refused") {
  const World world;
  Outputs outputs = world.fresh("targets");
  run_teach(short_lesson("sample"), world.inputs(), outputs);
  const fs::path file = world.path / "targets/targets.safetensors";
  const std::string good = read_file(file);
  // Bytes that differ from the sound file must never be read as other targets without complaint: header and row lengths
  // fail when opened, ids and counts mostly when read; what still is a sound row stays within the vocabulary.
  uint64_t header = 0;
  std::memcpy(&header, good.data(), 8);
  const size_t data = 8 + size_t(header);
  const auto survives = [&](const std::string& bytes) {
    write_file_atomically(file, bytes);
    try {
      const SoftTargets targets(world.path / "targets");
      TargetBlock block;
      for (int64_t b = 0; b < targets.blocks(); ++b) targets.read_block(b, block);
      for (const int32_t id : block.ids) REQUIRE((id >= 0 && id < 257));
      return true;
    } catch (const FormatError&) {
      return false;
    }
  };
  CHECK(survives(good));
  for (size_t at = 0; at < good.size(); at += 97) CHECK_FALSE(survives(good.substr(0, at)));
  for (const size_t at : {data, data + 8, data + 12 * 8, data + 12 * 8 + 11 * 32 - 1}) {  // an offset, an offset, lengths
    std::string bad = good;
    bad[at] = char(bad[at] ^ 1);
    CHECK_FALSE(survives(bad));
  }
  std::string bad = good;
  bad[good.size() - 3] = char(bad[good.size() - 3] ^ 1);  // the number of draws of the last entry
  CHECK_FALSE(survives(bad));
}

TEST_CASE("generation continues greedily as the whole sequence would") {
  const World world;
  GenerateConfig config;
  config.prompt = "document 1 says";
  config.max_tokens = 12;
  std::ostringstream out;
  CHECK(run_generate(config, world.path / "teacher", true, out) == 0);
  const Json told = Json::parse(out.str());
  const auto ids = told.at("ids").get<std::vector<int64_t>>();
  REQUIRE(!ids.empty());

  const Decoder teacher(open_checkpoint(world.path / "teacher"));
  std::vector<int32_t> prompt;
  open_tokenizer(world.path / "teacher")->encode(config.prompt, prompt);
  std::vector<int64_t> all(prompt.begin(), prompt.end());
  for (const int64_t id : ids) {
    const at::Tensor logits = teacher.logits(teacher.hidden(at::tensor(all, at::kLong).unsqueeze(0)));
    CHECK(logits[int64_t(all.size()) - 1].argmax().item<int64_t>() == id);
    all.push_back(id);
  }

  config.temperature = 1.0;
  config.top_p = 1e-6;  // a nucleus of one token
  std::ostringstream again;
  run_generate(config, world.path / "teacher", true, again);
  CHECK(Json::parse(again.str()).at("ids") == told.at("ids"));
}

}  // namespace overproof
