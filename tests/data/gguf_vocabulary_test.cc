#include "data/gguf_vocabulary.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "data/chat_templates.h"
#include "data/gguf_pre_tokenizers.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/tokenizer_tools.h"
#include "formats/gguf.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

using namespace overproof;

namespace {

/// A .gguf that holds nothing but the vocabulary of `checkpoint`.
fs::path vocabulary_file(const TempFolder& folder, const fs::path& checkpoint, int64_t rows,
                         std::vector<std::string>* notes = nullptr) {
  GgufMetadata keys;
  keys.add_text("general.architecture", "llama");
  const std::vector<std::string> said = add_gguf_vocabulary(checkpoint, rows, keys);
  if (notes) *notes = said;
  OutputFolder out(folder.path());
  GgufWriter writer(out, "out.gguf", keys, {});
  writer.close();
  return folder / "out.gguf";
}

void put_tokenizer(const TempFolder& folder, const BpeDefinition& definition) {
  write_text(folder / "hf/tokenizer.json", write_tokenizer_json(definition));
  write_text(folder / "hf/tokenizer_config.json", write_tokenizer_config_json(definition));
}

/// ModelProto by hand: fields of https://github.com/google/sentencepiece, sentencepiece_model.proto.
std::string field(int number, int wire, const std::string& payload) { return std::string(1, char(number << 3 | wire)) + payload; }
std::string block(int number, const std::string& payload) {
  return field(number, 2, std::string(1, char(payload.size())) + payload);
}
std::string piece(const std::string& text, float score, int type) {
  std::string bits(4, '\0');
  memcpy(bits.data(), &score, 4);
  return block(1, block(1, text) + field(2, 5, bits) + field(3, 0, std::string(1, char(type))));
}
std::string model(bool bytes, int kind) {
  std::string out = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3);
  for (int b = 0; bytes && b < 256; ++b) {
    const char* digits = "0123456789ABCDEF";
    out += piece(std::string("<0x") + digits[b / 16] + digits[b % 16] + ">", 0, 6);
  }
  out += piece("ab", -1.5f, 1) + piece("a", -2, 1) + piece("b", -3, 1);
  return out + block(2, field(3, 0, std::string(1, char(kind)))) +
         block(3, field(3, 0, std::string(1, '\0')) + field(4, 0, std::string(1, '\0')));
}

}  // namespace

TEST_CASE("a byte-level vocabulary goes into GGUF and comes back") {
  const TempFolder folder;
  BpeDefinition definition = small_bpe({{"t", "h"}, {"th", "e"}});
  definition.padding = definition.added.at(0).id;
  definition.chat_template = "{{ x }}";
  for (const GgufPreTokenizer& known : gguf_pre_tokenizers()) {
    CAPTURE(known.name);
    definition.pre_tokenizer = known.steps;
    definition.nfc = known.nfc;
    definition.ignore_merges = known.ignore_merges;
    put_tokenizer(folder, definition);
    const auto count = int64_t(definition.tokens.size());
    std::vector<std::string> notes;
    const fs::path file = vocabulary_file(folder, folder / "hf", count + 2, &notes);
    CHECK(notes.size() == (known.nfc || known.name == "tekken" ? 1 : 0));
    const GgufFile gguf(file);
    CHECK(gguf.boolean("tokenizer.ggml.add_bos_token") == false);
    CHECK(gguf.integers("tokenizer.ggml.token_type")[size_t(count)] == 5);
    const BpeDefinition back = read_gguf_tokenizer(file);
    CHECK(back.tokens[size_t(count)] == "[PAD" + std::to_string(count) + "]");
    CHECK(std::equal(definition.tokens.begin(), definition.tokens.end(), back.tokens.begin()));
    CHECK(back.merges == definition.merges);
    CHECK(back.pre_tokenizer == definition.pre_tokenizer);
    CHECK(back.nfc == definition.nfc);
    CHECK(back.ignore_merges == definition.ignore_merges);
    CHECK(back.bos == definition.bos);
    CHECK(back.padding == definition.padding);
    CHECK(back.chat_template == "{{ x }}");
    CHECK(back.added.at(0).special);
    CHECK_FALSE(back.added.at(1).special);
    // And from that file to the next, byte for byte.
    GgufMetadata again;
    CHECK(add_gguf_vocabulary(file, count + 2, again).empty());
    CHECK(read_file(file).find(again.bytes()) != std::string::npos);
    GgufMetadata fewer;
    CHECK_THROWS_WITH(add_gguf_vocabulary(file, count, fewer), Catch::Contains("embedding has"));
  }
}

TEST_CASE("ids that the tokenizer's files leave open come from the configuration of generation") {
  const TempFolder folder;
  BpeDefinition definition = small_bpe({});
  definition.bos = definition.eos = -1;
  put_tokenizer(folder, definition);
  write_text(folder / "hf/generation_config.json", R"({"bos_token_id": 3, "eos_token_id": [257, 256], "pad_token_id": 999})");
  write_text(folder / "hf/config.json", R"({"bos_token_id": 5, "pad_token_id": 7})");
  const GgufFile gguf(vocabulary_file(folder, folder / "hf", int64_t(definition.tokens.size())));
  CHECK(gguf.integer("tokenizer.ggml.bos_token_id") == 5);  // read_tokenizer_json knows config.json
  CHECK(gguf.integer("tokenizer.ggml.eos_token_id") == 257);
  CHECK(gguf.integer("tokenizer.ggml.padding_token_id") == 7);
  CHECK(gguf.integer("tokenizer.ggml.eot_token_id") == 256);  // llama.cpp stops there, too
  CHECK_FALSE(gguf.has("tokenizer.ggml.eom_token_id"));
  write_text(folder / "hf/generation_config.json", R"({"eos_token_id": [257, 256, 1, 2]})");
  std::vector<std::string> notes;
  const GgufFile more(vocabulary_file(folder, folder / "hf", int64_t(definition.tokens.size()), &notes));
  CHECK(more.integer("tokenizer.ggml.eom_token_id") == 1);
  CHECK_THAT(notes.at(0), Catch::Contains("4 ids end a text"));
}

TEST_CASE("chat templates are taken from the place that transformers takes them from, and none is lost in GGUF") {
  using Named = std::vector<std::pair<std::string, std::string>>;
  const auto read = [](const TempFolder& t) {
    const fs::path config = t / "tokenizer_config.json";
    return read_chat_templates(t.path(), fs::exists(config) ? read_json(config) : Json());
  };
  const Json list = {{{"name", "tool_use"}, {"template", "T"}}, {{"name", "default"}, {"template", "D"}}};
  {
    const TempFolder t;
    CHECK(read(t).named.empty());
    CHECK(read(t).text().empty());
    write_text(t / "chat_template.json", R"({"chat_template": "P"})");
    CHECK(read(t).named == Named{{"default", "P"}});
    write_text(t / "tokenizer_config.json", Json{{"chat_template", list}}.dump());
    CHECK(read(t).named == Named{{"default", "D"}, {"tool_use", "T"}});
    CHECK(read(t).note.empty());
    write_text(t / "chat_template.jinja", "F");
    CHECK(read(t).named == Named{{"default", "F"}});
    CHECK_THAT(read(t).note, Catch::Contains("the files count"));
    write_text(t / "additional_chat_templates/rag.jinja", "R");
    CHECK(read(t).named == Named{{"default", "F"}, {"rag", "R"}});
    fs::remove(t / "chat_template.jinja");
    CHECK(read(t).named == Named{{"rag", "R"}});
    CHECK(read(t).text().empty());
  }
  const TempFolder folder;
  put_tokenizer(folder, small_bpe({}));
  Json config = read_json(folder / "hf/tokenizer_config.json");
  config["chat_template"] = list;
  write_text(folder / "hf/tokenizer_config.json", config.dump());
  std::vector<std::string> notes;
  const fs::path file = vocabulary_file(folder, folder / "hf", 258, &notes);
  CHECK(notes.empty());
  const GgufFile gguf(file);
  CHECK(gguf.text("tokenizer.chat_template") == "D");
  CHECK(gguf.texts("tokenizer.chat_templates") == std::vector<std::string>{"tool_use"});
  CHECK(gguf.text("tokenizer.chat_template.tool_use") == "T");
  // And back into a folder.
  const Json back = parse_json(write_tokenizer_config_json(read_gguf_tokenizer(file)), "tokenizer_config.json");
  CHECK(back["chat_template"] == Json{{{"name", "default"}, {"template", "D"}}, {{"name", "tool_use"}, {"template", "T"}}});
}

TEST_CASE("a named token that is not in the vocabulary is none, and is noted") {
  const TempFolder folder;
  put_tokenizer(folder, small_bpe({}));
  for (const char* name : {"pad_token", "unk_token", "bos_token", "eos_token"})
    for (const Json& value : {Json("[NEW]"), Json(""), Json{{"content", "[NEW]"}}}) {
      CAPTURE(name, value.dump());
      const fs::path config = folder / "hf/tokenizer_config.json";
      write_text(config, write_tokenizer_config_json(small_bpe({})));
      Json json = read_json(config);
      json[name] = value;
      write_text(config, json.dump());
      const auto tokenizer = open_tokenizer(folder / "hf");
      const std::vector<std::string> said = read_tokenizer_json(folder / "hf/tokenizer.json").notes;
      REQUIRE(said.size() == 1);
      CHECK_THAT(said[0], Catch::Contains(name) && Catch::Contains("not in the vocabulary"));
      if (std::string_view(name) == "eos_token") CHECK(tokenizer->eos_id() == -1);
      std::vector<std::string> notes;
      vocabulary_file(folder, folder / "hf", 258, &notes);
      CHECK(notes == said);
    }
}

TEST_CASE("GLM's name is taken for GLM's vocabulary") {
  BpeDefinition definition = small_bpe({});
  const auto& all = gguf_pre_tokenizers();
  const auto glm = std::find_if(all.begin(), all.end(), [](const auto& known) { return known.name == "glm4"; });
  definition.pre_tokenizer = glm->steps;
  definition.ignore_merges = true;
  CHECK(find_gguf_pre_tokenizer(definition)->name == "llama-bpe");
  definition.tokens.emplace_back("[gMASK]");
  CHECK(find_gguf_pre_tokenizer(definition)->name == "glm4");
}

TEST_CASE("a vocabulary that llama.cpp cannot take is refused") {
  const TempFolder folder;
  BpeDefinition definition = small_bpe({});
  const auto count = int64_t(definition.tokens.size());
  put_tokenizer(folder, definition);
  CHECK_THROWS_WITH(vocabulary_file(folder, folder / "hf", count - 1),
                    Catch::Contains("258 tokens; the model's embedding has 257 rows"));
  definition.pre_tokenizer = {{"[a-z]+"}};
  put_tokenizer(folder, definition);
  CHECK_THROWS_AS(vocabulary_file(folder, folder / "hf", count), FormatError);
  CHECK_THROWS_WITH(vocabulary_file(folder, folder / "hf", count),
                    Catch::Contains("no pre-tokeniser that splits as this one does"));
  definition = small_bpe({});
  definition.added[1].lstrip = true;
  put_tokenizer(folder, definition);
  std::vector<std::string> notes;
  vocabulary_file(folder, folder / "hf", count, &notes);
  REQUIRE(notes.size() == 1);
  CHECK_THAT(notes[0], Catch::Contains("white space"));
  write_text(folder / "none/config.json", "{}");
  CHECK(GgufFile(vocabulary_file(folder, folder / "none", 7, &notes)).text("tokenizer.ggml.model") == "none");
  CHECK_THAT(notes.at(0), Catch::Contains("ids only"));
  CHECK_FALSE(has_gguf_tokenizer(vocabulary_file(folder, folder / "none", 7, &notes)));
}

TEST_CASE("a SentencePiece vocabulary goes into GGUF with scores and types") {
  const TempFolder folder;
  write_text(folder / "hf/tokenizer.model", model(true, 2));
  write_text(folder / "hf/added_tokens.json", R"({"<x>": 262})");
  write_text(folder / "hf/tokenizer_config.json",
             R"({"add_bos_token": false, "added_tokens_decoder": {"264": {"content": "<y>", "special": true}}})");
  const GgufFile gguf(vocabulary_file(folder, folder / "hf", 266));
  CHECK(gguf.text("tokenizer.ggml.model") == "llama");
  const std::vector<std::string> tokens = gguf.texts("tokenizer.ggml.tokens");
  const std::vector<int64_t> types = gguf.integers("tokenizer.ggml.token_type");
  const std::vector<double> scores = gguf.numbers("tokenizer.ggml.scores");
  REQUIRE(tokens.size() == 266);
  CHECK(std::vector<std::string>(tokens.begin() + 259, tokens.end()) ==
        std::vector<std::string>{"ab", "a", "b", "<x>", "[PAD263]", "<y>", "[PAD265]"});
  CHECK(std::vector<int64_t>(types.begin() + 259, types.end()) == std::vector<int64_t>{1, 1, 1, 4, 5, 3, 5});
  CHECK(std::vector<int64_t>(types.begin(), types.begin() + 4) == std::vector<int64_t>{2, 3, 3, 6});
  CHECK(scores[259] == -1.5);
  CHECK(scores[264] == -1000);
  CHECK(gguf.integer("tokenizer.ggml.eos_token_id") == 2);
  CHECK_FALSE(gguf.boolean("tokenizer.ggml.add_bos_token"));
  CHECK_FALSE(gguf.boolean("tokenizer.ggml.add_space_prefix"));

  const auto refused = [&](const std::string& bytes, const std::string& added, const std::string& cause) {
    write_text(folder / "bad/tokenizer.model", bytes);
    write_text(folder / "bad/added_tokens.json", added);
    CHECK_THROWS_WITH(vocabulary_file(folder, folder / "bad", 300), Catch::Contains(cause));
  };
  refused(model(true, 1), "{}", "only SentencePiece models of the kind BPE");
  refused(model(false, 2), "{}", "256 byte pieces");
  refused(model(true, 2), R"({"ab": 270})", "two ids have the token 'ab'");
  refused(model(true, 2), R"({"<x>": "1"})", "is no number");
  refused(model(true, 2), R"({"<x>": 100000000})", "has id 100000000");
  refused("\x0a", "{}", "bad/tokenizer.model");
}
