#include "teacher/sample_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>
#include <map>

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

/// Gives the world a teacher with these special tokens, from id 257 on, and a chat template.
void make_chat_teacher(const TinyWorld& world, const std::vector<std::string>& markers, const std::string& chat_template) {
  BpeDefinition definition = read_tokenizer_json(world.path / "teacher/tokenizer.json");
  for (const std::string& marker : markers) {
    definition.added.push_back({.id = int32_t(definition.tokens.size()), .text = marker, .special = true});
    definition.tokens.push_back(marker);
  }
  fs::remove_all(world.path / "teacher");
  fs::create_directories(world.path / "teacher");
  OutputFolder folder(world.path / "teacher");
  ModelConfig shape = tiny_config();
  shape.vocab_size = int64_t(definition.tokens.size());
  save_decoder(Decoder(shape, RandomSource(shape)), folder, DType::f32);
  folder.write_file("tokenizer.json", write_tokenizer_json(definition));
  folder.write_file("chat_template.jinja", chat_template);
}

std::vector<Json> records_in(const fs::path& samples) {
  std::vector<Json> records;
  const std::string table = read_file(samples / "documents.jsonl");
  for (size_t at = 0; at < table.size(); at = table.find('\n', at) + 1) records.push_back(Json::parse(table.substr(at, table.find('\n', at) - at)));
  return records;
}

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

TEST_CASE("the number of documents that are written at a time changes no byte") {
  const TinyWorld world;
  Outputs together = world.fresh("together");
  run_sample(short_config(), world.inputs(), together);
  SampleConfig one_by_one = short_config();
  one_by_one.batch_size = 1;
  Outputs alone = world.fresh("alone");
  run_sample(one_by_one, world.inputs(), alone);
  for (const std::string& file : kFiles) CHECK(read_file(world.path / "together" / file) == read_file(world.path / "alone" / file));
  const std::string table = read_file(world.path / "alone/documents.jsonl");
  const std::string name = Json::parse(table.substr(0, table.find('\n'))).at("name");
  CHECK(read_file(world.path / "together" / name) == read_file(world.path / "alone" / name));
}

TEST_CASE("what follows a prompt is drawn at the temperature of answers") {
  const TinyWorld world;
  const auto tokens_of = [&](const std::string& name, double temperature, double of_answers, const Inputs& inputs) {
    SampleConfig config = short_config();
    config.temperature = temperature;
    config.answer_temperature = of_answers;
    Outputs outputs = world.fresh(name);
    run_sample(config, inputs, outputs);
    std::map<std::string, std::vector<int32_t>> ids;
    for (const Json& record : records_in(world.path / name)) ids[record.at("name")] = record.at("ids").get<std::vector<int32_t>>();
    return ids;
  };
  // A completion follows a prompt of the corpus, so none of its ids is drawn at the other temperature.
  CHECK(tokens_of("cold", 0, -1, world.inputs()) == tokens_of("cold-answers", 1, 0, world.inputs()));
  // Of a text from nothing the first five ids are the prompt.
  const Inputs alone({{"teacher", {world.path / "teacher", sha256("teacher")}}});
  const auto warm = tokens_of("warm", 1, -1, alone), mixed = tokens_of("mixed", 1, 0, alone);
  int64_t compared = 0, different = 0;
  for (const auto& [name, ids] : mixed) {
    REQUIRE(warm.contains(name));
    const auto& other = warm.at(name);
    if (ids.size() <= 5 || other.size() <= 5) continue;
    ++compared;
    CHECK(std::equal(ids.begin(), ids.begin() + 5, other.begin()));
    different += ids != other;
  }
  CHECK(compared > 3);
  CHECK(different > 0);
}

TEST_CASE("completions of tasks do not depend on what the tasks before began with, and each record names its task") {
  const TinyWorld world;
  SampleConfig config = short_config();
  config.per_task = 3;
  const auto sample = [&](const std::string& name, const std::string& before) {
    const fs::path tasks = write_text(world.path / (name + ".jsonl"), "{\"prompt\": \"" + before + "\", \"answer\": 1}\n" +
                                                                          R"({"prompt": "the same beginning, another end", "answer": 2, "name": "last"})" "\n");
    Outputs outputs = world.fresh(name);
    run_sample(config, Inputs({{"teacher", {world.path / "teacher", sha256("teacher")}}, {"tasks", {tasks, {}}}}), outputs);
    CHECK(read_file(world.path / name / "tasks.jsonl") == read_file(tasks));
    std::map<std::string, Json> last;
    const std::string table = read_file(world.path / name / "documents.jsonl");
    for (size_t at = 0; at < table.size(); at = table.find('\n', at) + 1) {
      const Json record = Json::parse(table.substr(at, table.find('\n', at) - at));
      CHECK(record["parents"][1]["slot"] == "task");
      CHECK_FALSE(record.contains("text"));
      if (record["task"] == "last") last[record["name"]] = record["completion"];
      else CHECK(record["task"] == "task-1");
    }
    return last;
  };
  const auto alone = sample("alone", "nothing alike");
  CHECK(alone.size() >= 2);
  CHECK(sample("shared", "the same beginning, and more") == alone);
  CHECK(sample("inside", "the same beginning, another end, and more") == alone);
  CHECK(sample("shorter", "the same") == alone);
  SampleConfig wrong = short_config();
  wrong.per_task = 2;
  Outputs outputs = world.fresh("wrong");
  CHECK_THROWS_AS(run_sample(wrong, world.inputs(), outputs), UsageError);
}

TEST_CASE("a share of the documents are chats, whose markers are tokens in a corpus as well") {
  const TinyWorld world;
  const auto slots = [&] { return Inputs({{"teacher", {world.path / "teacher", sha256("teacher")}}}); };
  SampleConfig config = short_config();
  config.chat = 0.5;
  config.system = "Be brief.";
  Outputs refused = world.fresh("refused");
  CHECK_THROWS_WITH(run_sample(config, slots(), refused), Catch::Contains("no chat template"));
  make_chat_teacher(world, {"<|im_start|>", "<|im_end|>"},
                    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
                    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
  const auto tokenizer = open_tokenizer(world.path / "teacher");
  constexpr int32_t start = 257, end = 258;

  Outputs outputs = world.fresh("samples");
  const StageReport report = run_sample(config, slots(), outputs);
  SampleConfig one_by_one = config;
  one_by_one.batch_size = 1;
  Outputs alone = world.fresh("alone");
  run_sample(one_by_one, slots(), alone);
  for (const std::string& file : kFiles) CHECK(read_file(world.path / "samples" / file) == read_file(world.path / "alone" / file));

  const std::string table = read_file(world.path / "samples/documents.jsonl");
  std::map<std::string, std::vector<int32_t>> ids;
  int64_t chats = 0, with_system = 0;
  for (size_t at = 0; at < table.size(); at = table.find('\n', at) + 1) {
    const Json record = Json::parse(table.substr(at, table.find('\n', at) - at));
    const std::vector<int32_t> document = record.at("ids");
    const std::string name = record.at("name"), text = read_file(world.path / "samples" / name);
    ids[name] = document;
    CHECK(tokenizer->decode(document) == text);
    const bool is_chat = record.at("source").get<std::string>().ends_with(" chat");
    chats += is_chat;
    CHECK(std::ranges::count(document, start) == (!is_chat ? 0 : text.starts_with("<|im_start|>system\nBe brief.") ? 3 : 2));
    if (!is_chat) continue;
    with_system += text.starts_with("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n");
    CHECK_THAT(text, Catch::Contains("<|im_end|>\n<|im_start|>assistant\n"));
  }
  CHECK(chats == report.metrics().at("chats").get<int64_t>());
  CHECK(chats > 8);
  CHECK(with_system > 0);
  CHECK(with_system < chats);
  // The drawn ids of a chat are its question and its answer, and hold no marker.
  int64_t lines = 0;
  for (const SampledTokens& drawn : read_sampled_tokens(world.path / "samples", 259)) {
    ++lines;
    CHECK(!drawn.tokens.empty());
    CHECK(std::ranges::count(drawn.tokens, start) + std::ranges::count(drawn.tokens, end) == 0);
  }
  CHECK(lines == report.metrics().at("documents").get<int64_t>() + chats);

  CorpusConfig corpus_config;
  corpus_config.held_out = 0;
  corpus_config.min_bytes = 1;
  corpus_config.window_length = 8;
  fs::remove_all(world.path / "corpus");
  Outputs corpus_outputs = world.fresh("corpus");
  run_corpus(corpus_config,
             Inputs({{"source", {world.path / "source", {}}}, {"samples", {world.path / "samples", {}}}, {"tokenizer", {world.path / "teacher", {}}}}),
             corpus_outputs);
  const Corpus corpus(world.path / "corpus");
  const SafetensorsFile stream(world.path / "corpus/tokens.safetensors");
  const auto all = stream.values<uint16_t>("train");
  int64_t sampled = 0;
  for (const Document& d : corpus.documents()) {
    if (d.license_rule != kSampledRule) continue;
    ++sampled;
    CHECK(std::vector<int32_t>(all.begin() + d.first_token, all.begin() + d.first_token + d.tokens - 1) == ids.at(d.name));
  }
  CHECK(sampled > 0);
  CHECK(int64_t(corpus.documents().size()) == sampled + 2);
}

TEST_CASE("a chat has the turns of the teacher's own template, also where that ends no answer") {
  const TinyWorld world;
  // As glm4_moe writes turns, with a beginning of its own for chats without a system turn.
  make_chat_teacher(world, {"<sop>", "<|system|>", "<|user|>", "<|assistant|>"},
                    "<sop>{% if messages[0].role != 'system' %}<|system|>own{% endif %}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
                    "{% if add_generation_prompt %}<|assistant|>\n<think>{% endif %}");
  const auto run = [&](const std::string& out, SampleConfig config) {
    config.chat = 1;
    config.system = "Ask.";
    Outputs outputs = world.fresh(out);
    run_sample(config, Inputs({{"teacher", {world.path / "teacher", sha256("teacher")}}}), outputs);
  };
  constexpr int32_t user = 259;
  const auto check = [&](const std::string& out, int32_t ended_by) {
    const auto tokenizer = open_tokenizer(world.path / "teacher");
    const std::vector<SampledTokens> drawn = read_sampled_tokens(world.path / out, 261);
    const std::vector<Json> records = records_in(world.path / out);
    REQUIRE(drawn.size() == 2 * records.size());
    int64_t ended = 0;
    for (size_t i = 0; i < records.size(); ++i) {
      const std::vector<int32_t> ids = records[i].at("ids"), &question = drawn[2 * i].tokens, &answer = drawn[2 * i + 1].tokens;
      const bool with_system = tokenizer->decode(ids).starts_with("<sop><|system|>\nAsk.<|user|>\n");
      std::vector<int32_t> expected;
      tokenizer->encode(with_system ? "<sop><|system|>\nAsk.<|user|>\n" : "<sop><|system|>own<|user|>\n", expected, true);
      expected.insert(expected.end(), question.begin(), question.end());
      tokenizer->encode("<|assistant|>\n<think>", expected, true);
      expected.insert(expected.end(), answer.begin(), answer.end());
      if (ids.size() > expected.size()) {
        expected.push_back(ended_by);
        ++ended;
      }
      CHECK(ids == expected);
      for (const auto* part : {&question, &answer}) CHECK(std::ranges::count_if(*part, [](int32_t id) { return id >= 256; }) == 0);
    }
    return ended;
  };
  SampleConfig config = short_config();
  config.temperature = 8;  // nearly even, so that some answers end
  config.max_tokens = 200;
  write_file_atomically(world.path / "teacher/generation_config.json", Json{{"eos_token_id", {256, user}}}.dump());
  run("ended", config);
  CHECK(check("ended", user) > 0);
  // A marker that does not end the model's texts is not put behind an answer.
  write_file_atomically(world.path / "teacher/generation_config.json", Json{{"eos_token_id", 256}}.dump());
  run("open", config);
  CHECK(check("open", -1) == 0);

  const auto refusal = [&](const std::string& chat_template) -> std::string {
    write_file_atomically(world.path / "teacher/chat_template.jinja", chat_template);
    try {
      run("refused", short_config());
    } catch (const MismatchError& e) {
      return e.what();
    }
    return "";
  };
  CHECK_THAT(refusal("{% for m in messages %}<sop>{{ m.content }}{% endfor %}"), Catch::Contains("no special token after a question"));
  CHECK_THAT(refusal("{{ raise_exception('System role not supported') }}"), Catch::Contains("System role not supported") && Catch::Contains("--system ''"));
  CHECK_THAT(refusal("{% for m in messages %}<|user|>{{ m.content | upper }}<|assistant|>{% endfor %}"), Catch::Contains("each message once"));
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

TEST_CASE("a teacher whose logits are not finite is refused, not sampled") {
  const TinyWorld world;
  const ModelConfig shape = tiny_config();
  Decoder broken(shape, RandomSource(shape));
  {
    at::NoGradGuard no_grad;
    broken.weights().final_norm.fill_(3e38);
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
  std::vector<AddedToken> special_tokens() const override { return {}; }
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
