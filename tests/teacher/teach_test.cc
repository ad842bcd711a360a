// From documents to soft targets with a tiny random teacher.

#include "teacher/teach_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "core/json.h"
#include "core/error.h"
#include "data/order.h"
#include "data/tokenizer.h"
#include "formats/safetensors.h"
#include "records/batch_spool.h"
#include "records/merge_targets_stage.h"
#include "teacher/generate.h"
#include "teacher/signal.h"
#include "teacher/teach_rows.h"
#include "tests/teacher/tiny_world.h"

namespace overproof {
namespace {

TeachConfig short_config(RowEncoding::Kind mode) {
  TeachConfig config;
  config.tokens = 32 * 11 + 5;  // eleven windows: the last batch is not full
  config.mode = mode;
  config.k = 20;
  return config;
}

}  // namespace

TEST_CASE("soft targets are written, read and made again row by row") {
  const TinyWorld world;
  const RowEncoding::Kind mode = GENERATE(RowEncoding::Kind::sample, RowEncoding::Kind::top_k);
  const TeachConfig config = short_config(mode);
  Outputs outputs = world.fresh("targets");
  const StageReport report = run_teach(config, world.inputs(), outputs);
  CHECK(report.metrics().at("windows") == 11);

  const SoftTargets targets(world.path / "targets");
  CHECK(targets.encoding().kind == mode);
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

TEST_CASE("a killed stage resumes after its last finished batch, with the same bytes") {
  const TinyWorld world;
  const TeachConfig config = short_config(RowEncoding::Kind::sample);
  Outputs first = world.fresh("first"), second = world.fresh("second");
  run_teach(config, world.inputs(), first);
  {  // what a kill after two of the three batches leaves
    const BatchSpool::Shape shape{3, 4 * 32, 11 * 32};
    const BatchSpool whole(world.path / "first.scratch", first.stage_key(), shape);
    REQUIRE(whole.batches() == 3);
    BatchSpool part(world.path / "second.scratch", first.stage_key(), shape);
    whole.for_each([&](std::span<const uint8_t> lengths, std::span<const uint8_t> entries) {
      if (part.batches() < 2) part.append({{lengths.begin(), lengths.end()}, {entries.begin(), entries.end()}});
    });
  }
  const StageReport report = run_teach(config, world.inputs(), second);
  CHECK_THAT(report.summary.back(), Catch::Contains("96 tokens taught now"));  // 3 windows
  CHECK(read_file(world.path / "first/targets.safetensors") == read_file(world.path / "second/targets.safetensors"));
}

TEST_CASE("masked labels have no rows, and no others are left out") {
  const TinyWorld world;
  const RowEncoding::Kind mode = GENERATE(RowEncoding::Kind::sample, RowEncoding::Kind::top_k);
  write_file_atomically(world.path / "teacher/chat_template.jinja",
                        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}");
  std::string chats;
  for (int i = 0; i < 20; ++i)
    chats += Json{{"messages", {{{"role", "user"}, {"content", fmt::format("question {}", i)}}, {{"role", "assistant"}, {"content", fmt::format("answer {}", i * i)}}}}}.dump() + "\n";
  write_file_atomically(world.path / "source/documents.jsonl", chats);
  fs::remove_all(world.path / "corpus");
  CorpusConfig corpus_config;
  corpus_config.held_out = 0;
  corpus_config.min_bytes = 1;
  corpus_config.window_length = 32;
  Outputs made = world.fresh("corpus");
  run_corpus(corpus_config, Inputs({{"source", {world.path / "source", {}}}, {"tokenizer", {world.path / "teacher", {}}}}), made);
  Outputs outputs = world.fresh("targets");
  const StageReport report = run_teach(short_config(mode), world.inputs(), outputs);

  const auto targets = std::make_shared<const SoftTargets>(world.path / "targets");
  const auto corpus = std::make_shared<const Corpus>(world.path / "corpus");
  const Decoder teacher(open_checkpoint(world.path / "teacher"));
  const TrainingOrder order(targets->order_key(), corpus->windows(Split::train), targets->blocks());
  REQUIRE(targets->masked());
  const EncodedRows all = teach_batch({teacher, *corpus, order, targets->encoding()}, 0, 4);
  std::vector<int64_t> stored;
  size_t at = 0;  // in `all`, which has rows for every label
  for (int64_t block = 0; block < targets->blocks(); ++block) {
    std::vector<float> mask(32);
    corpus->read_mask(Split::train, order.window_of_block(block), mask);
    for (int64_t r = 0; r < 32; ++r) {
      const int64_t row = block * 32 + r;
      const auto bytes = targets->row_bytes(row);
      REQUIRE(bytes.empty() == (mask[size_t(r)] == 0));
      if (!bytes.empty()) stored.push_back(row);
      if (block < 4) {
        const size_t size = all.lengths[size_t(row)] * size_t(targets->encoding().entry_bytes());
        if (!bytes.empty()) CHECK(std::ranges::equal(bytes, std::span(all.entries).subspan(at, size)));
        at += size;
      }
      if (row % 37 == 0) CHECK(std::ranges::equal(rederive_row(teacher, *corpus, *targets, row), bytes));
    }
  }
  CHECK(targets->stored_rows() == stored);
  CHECK(report.metrics().at("trained_tokens") == stored.size());
  CHECK(stored.size() > 50);
  CHECK(stored.size() < 11 * 32 / 2);

  // A signal gives rows that weigh nothing for what was left out, and refuses a batch that needs one of them.
  const auto signal = stored_signal(targets, corpus->windows(Split::train));
  TokenBatch batch = WindowBatches(corpus, Split::train, order_of(order), 1, 1).at(0);
  const SparseRows rows = signal->rows(batch, 0, 1).at(0).sparse;
  for (int64_t r = 0; r < 32; ++r) CHECK((rows.offsets[size_t(r)] == rows.offsets[size_t(r) + 1]) == (batch.weight[size_t(r)] == 0));
  batch.weight.assign(32, 1.0f);
  CHECK_THROWS_WITH(signal->rows(batch, 0, 1), Catch::Contains("have no row for token"));
  const auto read_mask = [&](int64_t block, std::span<float> mask) { corpus->read_mask(Split::train, order.window_of_block(block), mask); };
  CHECK(targets->mask_fault(read_mask) == "");
  CHECK_THAT(targets->mask_fault([&](int64_t block, std::span<float> mask) { read_mask(block, mask), mask[31] = 1 - mask[31]; }),
             Catch::Contains("row 31 has"));
}

TEST_CASE("parts that several processes teach are put together to the bytes of one") {
  const TinyWorld world;
  TeachShardConfig config;
  static_cast<TeachConfig&>(config) = short_config(RowEncoding::Kind::sample);  // three batches
  Outputs whole = world.fresh("whole");
  run_teach(config, world.inputs(), whole);
  const int64_t parts = GENERATE(1, 2, 3);
  std::map<std::string, InputArtifact> slots = world.inputs().all();
  for (int64_t p = 1; p <= parts; ++p) {
    const std::string name = fmt::format("part-{}", p);
    config.shard = fmt::format("{}/{}", p, parts);
    Outputs outputs = world.fresh(name);
    run_teach_shard(config, world.inputs(), outputs);
    slots[fmt::format("p{}", parts - p)] = {world.path / name, sha256(name)};  // in any order of names
  }
  const auto merge = [&](const std::string& name, const std::map<std::string, InputArtifact>& inputs) {
    fs::remove_all(world.path / name);
    Outputs outputs = world.fresh(name);
    return run_merge_targets({}, Inputs(inputs), outputs);
  };
  const StageReport report = merge("merged", slots);
  CHECK(report.metrics().at("windows") == 11);
  CHECK(report.metrics().at("parts") == parts);
  CHECK(read_file(world.path / "merged/targets.safetensors") == read_file(world.path / "whole/targets.safetensors"));
  CHECK_THROWS_WITH(SoftTargets(world.path / "part-1"), Catch::Contains("merge-targets"));

  if (parts < 3) return;
  const auto refused = [&](std::map<std::string, InputArtifact> inputs) -> std::string {
    try {
      merge("refused", inputs);
    } catch (const MismatchError& e) {
      return e.what();
    }
    return "";
  };
  auto changed = slots;
  changed.erase("p1");
  CHECK_THAT(refused(changed), Catch::Contains("no windows 4 to 7"));
  changed = slots;
  changed.erase("p0");
  CHECK_THAT(refused(changed), Catch::Contains("no windows 8 to 10"));
  changed = slots;
  changed["again"] = changed["p1"];
  CHECK_THAT(refused(changed), Catch::Contains("which another part has as well"));
  changed = slots;
  changed["corpus"].root = sha256("another");
  CHECK_THAT(refused(changed), Catch::Contains("was made with the corpus"));
  config.shard = "2/3";
  config.seed = 5;
  Outputs other = world.fresh("other");
  run_teach_shard(config, world.inputs(), other);
  changed = slots;
  changed["p1"].path = world.path / "other";
  CHECK_THAT(refused(changed), Catch::Contains("differ in order of windows"));
  for (const char* shard : {"0/3", "4/3", "2", "1/0", "a/b", "1/3x", "/"}) {
    config.shard = shard;
    Outputs outputs = world.fresh(fmt::format("bad{}", int(shard[0])));
    CHECK_THROWS_AS(run_teach_shard(config, world.inputs(), outputs), UsageError);
  }
  config.shard = "2/99";
  Outputs outputs = world.fresh("empty");
  CHECK_THROWS_WITH(run_teach_shard(config, world.inputs(), outputs), Catch::Contains("would be empty"));
}

TEST_CASE("a corpus of another tokenizer is refused") {
  const TinyWorld world;
  write_file_atomically(world.path / "teacher/tokenizer.json", byte_tokenizer("<|stop|>"));
  Outputs outputs = world.fresh("targets");
  CHECK_THROWS_AS(run_teach(short_config(RowEncoding::Kind::sample), world.inputs(), outputs), MismatchError);
}

TEST_CASE("damaged soft targets are refused") {
  const TinyWorld world;
  Outputs outputs = world.fresh("targets");
  run_teach(short_config(RowEncoding::Kind::sample), world.inputs(), outputs);
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

TEST_CASE("a model with a number that is not one is not opened, and the tensor and the row are named") {
  const ModelConfig shape = tiny_config();
  for (const char* name : {"model.norm.weight", "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"})
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      const TempFolder t;
      OutputFolder folder(t.path());
      Decoder model(shape, RandomSource(shape));
      save_decoder(model, folder, DType::f32);
      std::string file = read_file(t.path() / "model.safetensors");
      const int64_t at = SafetensorsFile(t.path() / "model.safetensors").offset(name);
      std::memcpy(file.data() + at + 4 * 7, &bad, sizeof bad);
      write_file_atomically(t.path() / "model.safetensors", file);
      CHECK_THROWS_AS(Decoder(open_checkpoint(t.path())), FormatError);
      CHECK_THROWS_WITH(Decoder(open_checkpoint(t.path())), Catch::Contains(std::string("'") + name + "' row"));
    }
  const TempFolder t;
  OutputFolder folder(t.path());
  Decoder model(shape, RandomSource(shape));
  at::NoGradGuard no_grad;
  model.weights().final_norm[3] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(save_decoder(model, folder, DType::f32), DivergenceError);
}

TEST_CASE("generation ends at any of the ids that the model names, and a padded row has no text") {
  const TinyWorld world;
  GenerateConfig config;
  config.prompt = "document 1 says";
  config.max_tokens = 12;
  const auto ids = [&] { return run_generate(config, world.path / "teacher").json.at("ids").get<std::vector<int64_t>>(); };
  const std::vector<int64_t> all = ids();
  REQUIRE(all.size() > 3);
  const auto settings = [&](const char* file, const Json& ends) {
    Json json = read_json(world.path / "teacher" / file);
    json["eos_token_id"] = ends;
    write_file_atomically(world.path / "teacher" / file, json.dump());
  };
  // generation_config.json counts, as in transformers; without it config.json, without either the tokenizer.
  settings("generation_config.json", {256, all[2]});
  settings("config.json", {all[1]});
  const auto first = [&](size_t i) { return std::find(all.begin(), all.end(), all[i]) - all.begin(); };
  CHECK(ids() == std::vector<int64_t>(all.begin(), all.begin() + first(2)));
  fs::remove(world.path / "teacher/generation_config.json");
  CHECK(ids() == std::vector<int64_t>(all.begin(), all.begin() + first(1)));

  // An embedding of more rows than the tokenizer has tokens.
  ModelConfig padded = tiny_config();
  padded.vocab_size = 600;
  fs::create_directories(world.path / "padded");
  OutputFolder folder(world.path / "padded");
  save_decoder(Decoder(padded, RandomSource(padded)), folder, DType::f32);
  folder.write_file("tokenizer.json", byte_tokenizer("<|endoftext|>"));
  config.temperature = 1;
  config.max_tokens = 40;
  const Json told = run_generate(config, world.path / "padded").json;
  const auto drawn = told.at("ids").get<std::vector<int64_t>>();
  CHECK(std::ranges::any_of(drawn, [](int64_t id) { return id >= 257; }));
  std::vector<int32_t> of_tokenizer;
  for (const int64_t id : drawn)
    if (id < 257) of_tokenizer.push_back(int32_t(id));
  CHECK(told.at("text") == open_tokenizer(world.path / "padded")->decode(of_tokenizer));
}

TEST_CASE("generation continues greedily as the whole sequence would") {
  const TinyWorld world;
  GenerateConfig config;
  config.prompt = "document 1 says";
  config.max_tokens = 12;
  std::string streamed;
  const Answer answer = run_generate(config, world.path / "teacher", [&](std::string_view text) { streamed += text; });
  const Json& told = answer.json;
  CHECK(streamed == config.prompt + told.at("text").get<std::string>());
  CHECK(answer.text == "\n");
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
  const Answer again = run_generate(config, world.path / "teacher");
  CHECK(again.json.at("ids") == told.at("ids"));
  CHECK(again.text == told.at("text").get<std::string>() + "\n");
}

}  // namespace overproof
