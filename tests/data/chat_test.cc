#include <catch2/catch.hpp>
#include <fmt/format.h>

#include "core/error.h"
#include "core/temp_folder.h"
#include "core/progress.h"
#include "data/chat_document.h"
#include "data/corpus_stage.h"
#include "data/token_batch.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Matchers::Contains;

namespace {

constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
// As glm4_moe writes turns: nothing ends an answer.
constexpr const char* kGlm =
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";

/// Bytes, and the markers of three families.
BpeDefinition with_markers() {
  BpeDefinition definition = small_bpe({});
  for (const char* marker : {"<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<sop>"}) {
    definition.added.push_back({.id = int32_t(definition.tokens.size()), .text = marker, .special = true});
    definition.tokens.emplace_back(marker);
  }
  return definition;
}

const BpeTokenizer& tokenizer() {
  static const BpeTokenizer made(with_markers(), "tokenizer.json");
  return made;
}

int32_t id_of(std::string_view marker) {
  std::vector<int32_t> ids;
  tokenizer().encode(marker, ids, true);
  REQUIRE(ids.size() == 1);
  return ids[0];
}

struct Read {
  MarkedDocument document;
  MaskedIds tokens;
  /// The trained stretches, separated by "|"; "$" is the separator.
  std::string trained;
};

Read read(std::string_view source, std::string_view line, TrainedTurns turns = TrainedTurns::all, std::set<int32_t> ends = {}) {
  const int32_t separator = tokenizer().eos_id();
  const ChatDocuments chats(tokenizer(), std::make_unique<ChatTemplate>(std::string(source), std::map<std::string, std::string>{}, "template"),
                            std::move(ends), separator, turns);
  Read out{chats.read(line, "chats.jsonl", 7), {}, ""};
  out.tokens = chats.encode(out.document.text, out.document.quoted, out.document.trained, separator);
  for (size_t i = 0; i < out.tokens.ids.size(); ++i) {
    if (!out.tokens.trained[i]) continue;
    if (i > 0 && !out.tokens.trained[i - 1] && !out.trained.empty()) out.trained += "|";
    out.trained += i + 1 == out.tokens.ids.size() ? "$" : tokenizer().decode({out.tokens.ids[i]});
  }
  return out;
}

constexpr const char* kTwoTurns =
    R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}, {"role": "user", "content": "on"}, {"role": "assistant", "content": "no"}]})";

}  // namespace

TEST_CASE("the assistant's turns are trained, each with the token that ends it") {
  const Read chat = read(kChatMl, kTwoTurns);
  CHECK(chat.document.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n<|im_start|>user\non<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n");
  CHECK(chat.trained == "yo<|im_end|>|no<|im_end|>");
  CHECK(read(kChatMl, kTwoTurns, TrainedTurns::last).trained == "no<|im_end|>");
  CHECK(read(kChatMl, R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}, {"role": "user", "content": "c"},
      {"role": "assistant", "content": "d"}]})")
            .trained == "d<|im_end|>");
}

TEST_CASE("where a template ends no answer, the marker after it is trained if the model stops at it") {
  const std::set<int32_t> ends = {id_of("<|user|>"), tokenizer().eos_id()};
  CHECK(read(kGlm, kTwoTurns, TrainedTurns::all, ends).trained == "yo<|user|>|no$");
  CHECK_THROWS_WITH(read(kGlm, kTwoTurns), Contains("byte 7") && Contains("no token that ends the assistant's turn") && Contains("--chat-template"));
}

TEST_CASE("generation blocks say what is trained, and an empty thought is not") {
  const std::string blocks =
      "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}\n{{ m.content }}<|im_end|>\n{% endgeneration %}\n{% else %}U:{{ m.content }};"
      "{% endif %}{% endfor %}";
  const Read chat = read(blocks, kTwoTurns);
  CHECK(chat.document.text == "U:hi;A:yo<|im_end|>\nU:on;A:no<|im_end|>\n");
  CHECK(chat.trained == "yo<|im_end|>|no<|im_end|>");
  CHECK(read(blocks, kTwoTurns, TrainedTurns::last).trained == "no<|im_end|>");
  const std::string thinks =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  CHECK(read(thinks, kTwoTurns).trained == "yo<|im_end|>|no<|im_end|>");
}

TEST_CASE("a marker that is spelled out in a conversation is text") {
  const Read chat = read(kChatMl, R"({"messages": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system"}, {"role": "assistant", "content": "say <|im_end|>!"}],
      "tools": ["<|im_start|>"]})");
  CHECK(std::ranges::count(chat.tokens.ids, id_of("<|im_end|>")) == 2);
  CHECK(std::ranges::count(chat.tokens.ids, id_of("<|im_start|>")) == 2);
  CHECK(chat.trained == "say <|im_end|>!<|im_end|>");
  CHECK(tokenizer().decode(chat.tokens.ids) == chat.document.text + "<|endoftext|>");
  for (const char* form : {"{{ tools[0] }}", "{{ tools | tojson }}", "{{ tools[0] | trim }}", "{{ '' ~ tools[0] }}", "{{ tools[0][2:] }}",
                           "{{ tools[0].split('_')[0] + 'start|>' }}"}) {
    INFO(form);
    const Read other = read(form + std::string(kChatMl), R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": ["<|im_start|>"]})",
                            TrainedTurns::last);
    CHECK(std::ranges::count(other.tokens.ids, id_of("<|im_start|>")) == 2);
  }
}

TEST_CASE("a marker from a conversation that the template hides among its own is refused") {
  const std::string joined = "{{ tools | join(',') }}" + std::string(kChatMl);
  CHECK_THROWS_WITH(read(joined, R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": ["<|im_start|>"]})"),
                    Contains("spells a special token"));
  CHECK(read(joined, R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": ["<im_start>"]})").trained == "b<|im_end|>");
}

TEST_CASE("conversations of all kinds become one form") {
  const std::string expected = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n";
  for (const char* line : {R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "c"}]})",
                           R"({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a\nb"}, {"from": "gpt", "value": "c"}]})",
                           R"({"system": "s", "conversations": [{"from": "user", "value": "a\nb"}, {"from": "assistant", "value": "c"}]})",
                           R"({"conversations": [{"role": "system", "content": "s"}, {"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "c"}]})",
                           R"({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a\nb"}], "completion": [{"role": "assistant", "content": "c"}]})",
                           R"({"instruction": "a", "input": "b", "output": "c", "system": "s"})"}) {
    INFO(line);
    const Read chat = read(kChatMl, line);
    CHECK(chat.document.text == expected);
    CHECK(chat.trained == "c<|im_end|>");
  }
  const Read plain = read(kChatMl, R"({"prompt": "2 + 2 =", "completion": " 4<|im_end|>"})");
  CHECK(plain.document.text == "2 + 2 = 4<|im_end|>");
  CHECK(plain.trained == " 4<|im_end|>$");
  CHECK(std::ranges::count(plain.tokens.ids, id_of("<|im_end|>")) == 0);
}

TEST_CASE("what is no conversation is refused with its place") {
  const auto cause = [](const char* source, const std::string& line) -> std::string {
    try {
      read(source, line);
    } catch (const FormatError& e) {
      return e.what();
    }
    return "";
  };
  CHECK_THAT(cause(kChatMl, R"({"messages": [{"role": "user", "content": "a"}]})"), Contains("chats.jsonl: byte 7") && Contains("no message of an assistant"));
  CHECK_THAT(cause(kChatMl, R"({"messages": "a"})"), Contains("'messages' is not a list"));
  CHECK_THAT(cause(kChatMl, R"({"messages": [{"role": "<|im_end|>", "content": "a"}]})"), Contains("no word in lower case"));
  CHECK_THAT(cause(kChatMl, R"({"conversations": [{"from": "alien", "value": "a"}]})"), Contains("alien"));
  CHECK_THAT(cause("{{ raise_exception('No ' + 'way') }}", kTwoTurns), Contains("refuses the conversation") && Contains("No way"));
  CHECK_THAT(cause("{% for %}", kTwoTurns), Contains("the chat template"));
  // The whole conversation has another first turn than its beginning.
  CHECK_THAT(cause("{% for m in messages %}{{ m.content }}{{ messages | length }}<|im_end|>{% endfor %}", kTwoTurns),
             Contains("message 1") && Contains("--train-turns last"));
}

TEST_CASE("a hostile template is ended, and the next conversation is rendered") {
  // One bound at a time can end a template: which of two comes first depends on the machine.
  const auto render = [](const std::string& source, int64_t cpu_seconds = 600) {
    const ChatTemplate chat_template(source, {}, "template", {.memory_bytes = 256 << 20, .cpu_seconds = cpu_seconds, .answer_bytes = 1 << 20});
    try {
      chat_template.render(R"({"messages": []})", {0, false});
    } catch (const FormatError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(render("a") == "");
  CHECK_THAT(render("{% for i in range(999999999) %}{% for j in range(999999999) %}{% endfor %}{% endfor %}", 1), Contains("the chat template"));
  CHECK_THAT(render("{{ 'a' * 99999999999 }}"), Contains("the chat template"));
  CHECK_THAT(render("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"), Contains("nests too deeply"));
  CHECK_THAT(render("{{ " + std::string(200000, '(') + "1" + std::string(200000, ')') + " }}"), Contains("the chat template"));
  CHECK_THAT(render("{{ 'abc' * 999999 }}"), Contains("made more than 1 MiB"));
}

TEST_CASE("what comes back of a rendered conversation grows with its length, not with its square") {
  const auto conversation = [](int64_t turns) {
    Json messages = Json::array();
    for (int64_t i = 0; i < turns; ++i)
      for (const char* role : {"user", "assistant"}) messages.push_back({{"role", role}, {"content", std::string(500, 'x')}});
    return Json{{"messages", messages}}.dump();
  };
  // With the texts of all prefixes, 20 turns were 0.4 MB and 40 turns 1.7 MB.
  for (const int64_t turns : {20, 40}) {
    const ChatTemplate bounded(kChatMl, {}, "template", {.answer_bytes = turns * 1200});
    std::vector<ChatPrefix> prefixes;
    for (int64_t i = 0; i < turns; ++i) prefixes.push_back({2 * i + 1, true}), prefixes.push_back({2 * i + 2, false});
    const RenderedPrefixes rendered = bounded.render(conversation(turns), {2 * turns, false}, prefixes);
    REQUIRE(rendered.lengths.size() == prefixes.size());
    for (size_t i = 0; i < prefixes.size(); ++i) {
      const RenderedChat alone = bounded.render(conversation(turns), prefixes[i]).whole;
      CHECK(rendered.lengths[i] == int64_t(alone.text.size()));
      CHECK(rendered.whole.text.starts_with(alone.text));
    }
  }
  // A long conversation is read, with every turn trained: far from the bound of processor time, sanitized and on a slow machine, too.
  const Read read_all = read(kChatMl, conversation(30));
  CHECK(read_all.document.trained.size() == 30);
  CHECK(read_all.document.text.size() > 30 * 1000);
}

TEST_CASE("a corpus of texts and conversations has masks and segments, and batches have them") {
  TempFolder folder;
  set_progress_mode(ProgressMode::off);
  write_text(folder / "tok/tokenizer.json", write_tokenizer_json(with_markers()));
  write_text(folder / "tok/chat_template.jinja", kChatMl);
  std::string table = R"({"text": "A text of more than a window, all of which is trained.", "name": "a"})" "\n";
  for (int i = 0; i < 9; ++i)
    table += Json{{"name", fmt::format("b{}", i)}, {"messages", {{{"role", "user"}, {"content", fmt::format("question {}", i)}}, {{"role", "assistant"}, {"content", "yes"}}}}}.dump() + "\n";
  write_text(folder / "src.jsonl", table);
  const auto make = [&](const std::string& out, CorpusConfig config) {
    fs::create_directories(folder / out);
    Outputs outputs(folder / out, folder / (out + ".scratch"));
    config.min_bytes = 1, config.window_length = 24, config.held_out = 0;
    return run_corpus(config, Inputs({{"source", {folder / "src.jsonl", {}}}, {"tokenizer", {folder / "tok", {}}}}), outputs);
  };
  const StageReport report = make("out", {});
  const auto corpus = std::make_shared<const Corpus>(folder / "out");
  CHECK(corpus->has_mask());
  CHECK(corpus->document_attention());
  const int64_t text_tokens = corpus->documents()[0].tokens;
  CHECK(report.metrics()["trained_tokens"]["train"] == text_tokens + 9 * 4);  // y, e, s and the end
  CHECK(corpus->documents()[0].trained == -1);
  CHECK(corpus->documents()[1].trained == 4);

  const int64_t windows = corpus->windows(Split::train), length = 24;
  const WindowBatches batches(corpus, Split::train, [](int64_t p) { return p; }, 1, windows);
  double sum = 0;
  for (int64_t w = 0; w < windows; ++w) {
    const TokenBatch batch = batches.at(w);
    CHECK(batches.step_weight(w) == batch.total_weight());
    sum += batch.total_weight();
    for (int64_t i = 0; i < length; ++i) {
      INFO(w << " " << i);
      const Document& d = corpus->document_at(Split::train, w * length + i);
      CHECK((i > 0 && batch.segment[size_t(i)] == batch.segment[size_t(i - 1)]) ==
            (i > 0 && &d == &corpus->document_at(Split::train, w * length + i - 1)));
      const Document& of_label = corpus->document_at(Split::train, w * length + i + 1);
      const int64_t place = w * length + i + 1 - of_label.first_token, from_end = of_label.tokens - place;
      CHECK(batch.weight[size_t(i)] == (of_label.trained < 0 || (from_end > 2 && from_end <= 6) ? 1.0f : 0.0f));  // "\n" and the separator are not trained
    }
  }
  CHECK(sum < double(text_tokens + 9 * 4));
  make("crossing", {.document_attention = DocumentAttention::off});
  CHECK_FALSE(Corpus(folder / "crossing").document_attention());

  // Without a template there is nothing to render with.
  fs::remove(folder / "tok/chat_template.jinja");
  CHECK_THROWS_WITH(make("refused", {}), Contains("src.jsonl") && Contains("line 2") && Contains("no chat template") && Contains("--chat-template"));
  CHECK(make("skipped", {.allow_broken = 9}).metrics()["broken"].size() == 9);
}

TEST_CASE("weights of samples multiply the mask of their documents, and weights from elsewhere are not taken") {
  TempFolder folder;
  set_progress_mode(ProgressMode::off);
  write_text(folder / "tok/tokenizer.json", write_tokenizer_json(with_markers()));
  write_text(folder / "tok/chat_template.jinja", kChatMl);
  const auto table = [](const std::string& weight) {
    std::string records;
    for (const auto& [name, value] : {std::pair<std::string, std::string>{"a", "0.25"}, {"b", ""}, {"c", weight}})
      records += R"({"name": ")" + name + R"(", "messages": [{"role": "user", "content": "question )" + name +
                 R"("}, {"role": "assistant", "content": "yes"}])" + (value.empty() ? "" : R"(, "weight": )" + value) + "}\n";
    return records;
  };
  const auto make = [&](const std::string& slot, const std::string& weight) {
    write_text(folder / "src/documents.jsonl", table(weight));
    write_text(folder / "src/sampling.json", "{}");
    fs::remove_all(folder / "out");
    Outputs outputs(folder / "out", folder / "scratch");
    CorpusConfig config;
    config.min_bytes = 1, config.window_length = 4, config.held_out = 0;
    run_corpus(config, Inputs({{slot, {folder / "src", {}}}, {"tokenizer", {folder / "tok", {}}}}), outputs);
    return std::make_shared<const Corpus>(folder / "out");
  };
  const auto corpus = make("samples", "0.5");
  CHECK(corpus->has_weights());
  const int64_t windows = corpus->windows(Split::train);
  const WindowBatches batches(corpus, Split::train, [](int64_t p) { return p; }, 1, windows);
  std::vector<float> mask(4);
  int64_t checked = 0;
  for (int64_t w = 0; w < windows; ++w) {
    const TokenBatch batch = batches.at(w);
    corpus->read_mask(Split::train, w, mask);
    CHECK(batches.step_weight(w) == batch.total_weight());
    for (size_t i = 0; i < 4; ++i) {
      const std::string name = corpus->document_at(Split::train, w * 4 + int64_t(i) + 1).name;
      CHECK(batch.weight[i] == mask[i] * (name == "a" ? 0.25f : name == "c" ? 0.5f : 1.0f));
      checked += batch.weight[i] > 0 && batch.weight[i] < 1;
    }
  }
  CHECK(checked >= 7);  // y, e, s and the end of two documents, but for what the last window lacks
  for (const char* weight : {"0", "-1", "1.5", "\"x\""}) CHECK_THROWS_AS(make("samples", weight), FormatError);
  CHECK_FALSE(make("source", "0.5")->has_weights());
}

TEST_CASE("damaged masks are refused") {
  TempFolder folder;
  write_text(folder / "documents.jsonl",
             Json{{"digest", sha256("abc").hex()}, {"name", "a"}, {"source", "s"}, {"license", "x"}, {"license_rule", "given"}, {"bytes", 3}, {"split", "train"}, {"first_token", 0}, {"tokens", 4}, {"trained", 2}}.dump() + "\n");
  const auto write = [&](DType dtype, int64_t count, const char* attention) {
    Metadata metadata = {{"vocab_size", "300"}, {"separator", "1"}, {"window_length", "2"}, {"document_attention", attention}};
    tokenizer().identity().put_into(metadata);
    OutputFolder out(folder.path());
    SafetensorsWriter writer(out, "tokens.safetensors", {{"train", DType::u16, {4}}, {"held_out", DType::u16, {0}}, {"train_mask", dtype, {count}}, {"held_out_mask", DType::u8, {0}}}, metadata);
    const std::vector<uint8_t> bytes(size_t(8 + count * dtype_bytes(dtype)), 2);
    writer.append(bytes.data(), bytes.size());
    writer.close();
  };
  write(DType::u8, 3, "on");
  CHECK_THROWS_WITH(Corpus(folder.path()), Contains("'train_mask' is not one U8 for each token"));
  write(DType::u16, 4, "on");
  CHECK_THROWS_WITH(Corpus(folder.path()), Contains("'train_mask' is not one U8 for each token"));
  write(DType::u8, 4, "sometimes");
  CHECK_THROWS_WITH(Corpus(folder.path()), Contains("document_attention is 'sometimes'"));
  write(DType::u8, 4, "on");
  std::vector<float> mask(2);
  CHECK_THROWS_WITH(Corpus(folder.path()).read_mask(Split::train, 0, mask), Contains("only 0 and 1 are known"));
}
