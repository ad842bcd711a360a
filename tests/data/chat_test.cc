#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/temp_folder.h"
#include "data/chat_document.h"
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
  const auto render = [](const std::string& source) {
    const ChatTemplate chat_template(source, {}, "template", {.memory_bytes = 256 << 20, .cpu_seconds = 1, .answer_bytes = 1 << 20});
    try {
      chat_template.render(R"({"messages": []})", {{0, false}});
    } catch (const FormatError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(render("a") == "");
  CHECK_THAT(render("{% for i in range(999999999) %}{% for j in range(999999999) %}{% endfor %}{% endfor %}"), Contains("the chat template"));
  CHECK_THAT(render("{{ 'a' * 99999999999 }}"), Contains("the chat template"));
  CHECK_THAT(render("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"), Contains("nests too deeply"));
  CHECK_THAT(render("{{ " + std::string(200000, '(') + "1" + std::string(200000, ')') + " }}"), Contains("the chat template"));
  CHECK_THAT(render("{{ 'abc' * 999999 }}"), Contains("made more than 1 MiB"));
}
