#include <catch2/catch.hpp>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "data/corpus_stage.h"
#include "formats/safetensors.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

namespace overproof {
namespace {

/// A tokenizer with two chat markers, and what `sample` writes: a chat and a completion in an unusual spelling.
struct Sampled {
  TempFolder folder;
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<int32_t> chat_ids, text_ids;
  int32_t start = -1;
  Sampled() {
    BpeDefinition definition = small_bpe({{"w", "o"}, {"r", "d"}});
    for (const char* marker : {"<|im_start|>", "<|im_end|>"}) {
      definition.added.push_back({.id = int32_t(definition.tokens.size()), .text = marker, .special = true});
      definition.tokens.push_back(marker);
    }
    write_text(folder / "tok/tokenizer.json", write_tokenizer_json(definition));
    tokenizer = open_tokenizer(folder / "tok");
    tokenizer->encode("<|im_start|>user\nIs this a word?<|im_end|>\n<|im_start|>assistant\nYes, it is a word, and here are more of them.<|im_end|>\n", chat_ids,
                      true);
    start = chat_ids[0];
    for (const char c : std::string(text)) text_ids.push_back(uint8_t(c));  // byte by byte, without the merges
    write(tokenizer->identity());
    write_text(folder / "src/documents.jsonl",
               Json{{"name", "outside.txt"}, {"license", "CC0-1.0"}, {"source", "notes"}, {"text", outside}}.dump() + "\n");
  }
  void write(const TokenizerIdentity& identity) const {
    std::string records;
    const auto add = [&](const std::string& name, const std::string& source, const std::vector<int32_t>& ids) {
      write_text(folder / "samples" / name, tokenizer->decode(ids));
      records += Json{{"name", name}, {"license", "MIT"}, {"source", source}, {"ids", ids}}.dump() + "\n";
    };
    add("samples/000000.txt", "teacher sha256:00 chat", chat_ids);
    add("samples/000001.txt", "teacher sha256:00", text_ids);
    write_text(folder / "samples/documents.jsonl", records);
    Metadata made_by;
    identity.put_into(made_by);
    write_text(folder / "samples/sampling.json", Json{{"tokenizer", made_by}}.dump());
  }
  StageReport run(const std::string& out, const std::vector<std::string>& slots) const {
    fs::create_directories(folder / out);
    Outputs outputs(folder / out, folder / (out + ".scratch"));
    std::map<std::string, InputArtifact> inputs = {{"tokenizer", {folder / "tok", {}}}};
    if (std::ranges::find(slots, "source") != slots.end()) inputs["source"] = {folder / "src", {}};
    if (std::ranges::find(slots, "samples") != slots.end()) inputs["samples"] = {folder / "samples", {}};
    CorpusConfig config;
    config.held_out = 0;
    config.min_bytes = 1;
    config.window_length = 4;
    return run_corpus(config, Inputs(inputs), outputs);
  }
  std::vector<int32_t> ids(const std::string& corpus, const Document& d) const {
    const SafetensorsFile stream(folder / corpus / "tokens.safetensors");
    const auto all = stream.values<uint16_t>("train");
    return {all.begin() + d.first_token, all.begin() + d.first_token + d.tokens - 1};
  }
  static constexpr const char* text = "the words of a completion, word by word";
  static constexpr const char* outside = "A text from outside may say <|im_start|>user\nas the manual of a chat does.<|im_end|>\n";
};

}  // namespace

TEST_CASE("documents from outside and sampled ones come into one corpus, the sampled ones with the ids that were drawn") {
  const Sampled sampled;
  CHECK_THROWS_AS(sampled.run("none", {}), UsageError);
  const StageReport report = sampled.run("both", {"source", "samples"});
  const Corpus corpus(sampled.folder / "both");
  REQUIRE(corpus.documents().size() == 3);
  CHECK(report.metrics()["sources"].size() == 3);
  CHECK(report.metrics()["license_rules"]["sampled"]["documents"] == 2);
  const Document &chat = *corpus.find("samples/000000.txt"), &text = *corpus.find("samples/000001.txt"),
                 &outside = *corpus.find("outside.txt");
  CHECK(chat.license == "MIT");
  CHECK(chat.license_rule == kSampledRule);
  CHECK(chat.source == "teacher sha256:00 chat");
  CHECK(outside.license == "CC0-1.0");
  CHECK(outside.license_rule == "given");
  CHECK(sampled.ids("both", chat) == sampled.chat_ids);
  CHECK(sampled.ids("both", text) == sampled.text_ids);
  CHECK(document_text(sampled.folder / "both", chat) == sampled.tokenizer->decode(sampled.chat_ids));
  std::vector<int32_t> canonical;
  sampled.tokenizer->encode(Sampled::text, canonical);
  CHECK(canonical.size() < sampled.text_ids.size());
  // A marker in a text from outside stays text.
  std::vector<int32_t> plain;
  sampled.tokenizer->encode(Sampled::outside, plain);
  CHECK(sampled.ids("both", outside) == plain);
  CHECK(std::ranges::count(plain, sampled.start) == 0);
  CHECK(std::ranges::count(sampled.chat_ids, sampled.start) == 2);

  SECTION("each alone gives the same documents") {
    sampled.run("alone", {"samples"});
    const Corpus alone(sampled.folder / "alone");
    REQUIRE(alone.documents().size() == 2);
    CHECK(sampled.ids("alone", *alone.find("samples/000000.txt")) == sampled.chat_ids);
  }
  SECTION("ids in a table from outside are not taken") {
    write_text(sampled.folder / "src/documents.jsonl",
               Json{{"name", "outside.txt"}, {"license", "CC0-1.0"}, {"source", "notes"}, {"text", Sampled::outside},
                    {"ids", {sampled.start}}}.dump() + "\n");
    sampled.run("claimed", {"source"});
    const Corpus claimed(sampled.folder / "claimed");
    CHECK(sampled.ids("claimed", *claimed.find("outside.txt")) == plain);
  }
  SECTION("ids of another tokenizer are not taken") {
    TokenizerIdentity other = sampled.tokenizer->identity();
    other.probe = sha256("another");
    other.definition = sha256("another");
    sampled.write(other);
    sampled.run("other", {"samples"});
    const Corpus encoded(sampled.folder / "other");
    CHECK(sampled.ids("other", *encoded.find("samples/000001.txt")) == canonical);
  }
  SECTION("ids that do not spell the text are refused") {
    write_text(sampled.folder / "samples/samples/000001.txt", "another text");
    CHECK_THROWS_WITH(sampled.run("wrong", {"samples"}), Catch::Contains("do not spell"));
  }
}

}  // namespace overproof
