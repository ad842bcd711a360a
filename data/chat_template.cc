#include "data/chat_template.h"

#include <fmt/format.h>

#include <cstring>
#include <exception>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_object.h"
#include "core/python_json.h"
#include "core/utf8.h"
#include "data/bpe.h"
#include "data/chat_templates.h"

namespace overproof {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kMostTemplateBytes = int64_t{1} << 20;
constexpr size_t kMostMessageBytes = 2000;

// Between the two processes: numbers as 8 bytes, texts and lists after their length.
class MessageWriter {
 public:
  void number(int64_t value) { out_.append(reinterpret_cast<const char*>(&value), sizeof value); }
  void text(std::string_view value) { number(int64_t(value.size())), out_ += value; }
  void ranges(const std::vector<ByteRange>& list) {
    number(int64_t(list.size()));
    for (const ByteRange& range : list) number(range.begin), number(range.end);
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

/// Reads what a process wrote that a template may have taken over: every length is checked.
class MessageReader {
 public:
  explicit MessageReader(std::string_view message) : rest_(message) {}
  int64_t number() {
    int64_t value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view text() { return take(uint64_t(number())); }
  std::vector<ByteRange> ranges(int64_t text_bytes) {
    const auto count = uint64_t(number());
    if (count > rest_.size() / 16) throw std::runtime_error("damaged answer");
    std::vector<ByteRange> list(count);
    int64_t last = 0;
    for (ByteRange& range : list) {
      range.begin = number(), range.end = number();
      if (range.begin < last || range.end <= range.begin || range.end > text_bytes) throw std::runtime_error("damaged answer");
      last = range.end;
    }
    return list;
  }

 private:
  std::string_view take(uint64_t bytes) {
    if (bytes > rest_.size()) throw std::runtime_error("damaged answer");
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }
  std::string_view rest_;
};

/// In the bounded process.
std::string answer(const std::string& source, std::string_view question) {
  MessageWriter out;
  try {
    MessageReader in(question);
    const std::string_view variables = in.text();
    std::vector<ChatPrefix> prefixes;
    for (int64_t i = 0, count = in.number(); i < count; ++i) {
      const int64_t messages = in.number();
      prefixes.push_back({messages, in.number() != 0});
    }
    const RenderedPrefixes rendered = render_jinja(source, variables, prefixes.at(0), {prefixes.begin() + 1, prefixes.end()});
    out.number(1);
    out.number(rendered.marks_generation);
    out.text(rendered.whole.text);
    out.ranges(rendered.whole.quoted);
    out.ranges(rendered.whole.generated);
    for (const int64_t length : rendered.lengths) out.number(length);
  } catch (const std::exception& e) {
    out = MessageWriter();
    out.number(0);
    out.text(e.what());
  }
  return out.take();
}

/// As transformers does: a message's reasoning, by whichever of three names it has, is there by the names that templates read.
void name_reasoning(OrderedJson& messages) {
  for (OrderedJson& message : messages) {
    if (!message.is_object()) continue;
    for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
      const auto given = message.find(name);
      if (given == message.end() || given->is_null()) continue;
      OrderedJson reasoning = *given, named = OrderedJson::object();
      named["thinking"] = reasoning;
      for (const auto& [key, value] : message.items()) named[key] = value;
      named["reasoning_content"] = std::move(reasoning);
      message = std::move(named);
      break;
    }
  }
}

/// The engine's message on one line: "Jinja Exception: Conversation roles must alternate".
std::string short_message(std::string_view message) {
  std::string text(message);
  if (const size_t at = text.rfind("Error: "); at != std::string::npos) text.erase(0, at + 7);
  for (char& c : text)
    if (c == '\n') c = ' ';
  return to_valid_utf8(text.substr(0, kMostMessageBytes));
}

std::map<std::string, std::string> token_texts(const Tokenizer& tokenizer) {
  std::map<std::string, std::string> texts;
  const auto add = [&](const char* name, int32_t id) {
    if (id >= 0) texts[name] = tokenizer.token_text(id);
  };
  add("bos_token", tokenizer.bos_id());
  add("eos_token", tokenizer.eos_id());
  if (const auto* bpe = dynamic_cast<const BpeTokenizer*>(&tokenizer)) {
    add("unk_token", bpe->definition().unknown);
    add("pad_token", bpe->definition().padding);
  }
  return texts;
}

}  // namespace

ChatTemplate::ChatTemplate(std::string source, std::map<std::string, std::string> tokens, fs::path origin, IsolationLimits limits)
    : source_(std::make_shared<const std::string>(std::move(source))),
      tokens_(std::move(tokens)),
      origin_(std::move(origin)),
      renderer_([text = source_](std::string_view question) { return answer(*text, question); }, limits) {
  if (int64_t(source_->size()) > kMostTemplateBytes)
    throw FormatError(origin_, -1, fmt::format("a chat template of {} bytes; at most {} are read", source_->size(), kMostTemplateBytes));
}

RenderedPrefixes ChatTemplate::render(std::string_view conversation, const ChatPrefix& whole, const std::vector<ChatPrefix>& prefixes) const {
  OrderedJson variables = OrderedJson::parse(conversation);
  OVERPROOF_CHECK(variables.is_object() && variables.contains("messages") && variables["messages"].is_array());
  name_reasoning(variables["messages"]);
  for (const auto& [name, text] : tokens_) variables[name] = text;
  MessageWriter question;
  question.text(variables.dump());
  question.number(int64_t(prefixes.size()) + 1);
  const auto ask = [&](const ChatPrefix& prefix) {
    OVERPROOF_CHECK(prefix.messages >= 0 && prefix.messages <= int64_t(variables["messages"].size()));
    question.number(prefix.messages);
    question.number(prefix.add_generation_prompt);
  };
  ask(whole);
  for (const ChatPrefix& prefix : prefixes) ask(prefix);
  const auto fail = [&](const std::string& cause) { throw FormatError(origin_, -1, "the chat template " + cause); };
  try {
    const std::string reply = renderer_.ask(question.take());
    MessageReader in(reply);
    if (in.number() != 1) fail("refuses the conversation: " + short_message(in.text()));
    RenderedPrefixes rendered;
    rendered.marks_generation = in.number() != 0;
    rendered.whole.text = in.text();
    const auto size = int64_t(rendered.whole.text.size());
    rendered.whole.quoted = in.ranges(size);
    rendered.whole.generated = in.ranges(size);
    if (invalid_utf8_at(rendered.whole.text) >= 0) fail("makes text that is not UTF-8");
    for (size_t i = 0; !rendered.marks_generation && i < prefixes.size(); ++i) {
      rendered.lengths.push_back(in.number());
      if (rendered.lengths.back() < -1 || rendered.lengths.back() > size) throw std::runtime_error("damaged answer");
    }
    return rendered;
  } catch (const IsolatedFault& fault) {
    throw FormatError(origin_, -1, "the chat template " + fault.text());
  } catch (const FormatError&) {
    throw;
  } catch (const std::runtime_error& e) {
    if (dynamic_cast<const Error*>(&e)) throw;
    throw FormatError(origin_, -1, fmt::format("the chat template broke its renderer: {}", e.what()));
  }
}

std::unique_ptr<ChatTemplate> open_chat_template(const fs::path& model, const Tokenizer& tokenizer) {
  std::string source;
  if (const auto* bpe = dynamic_cast<const BpeTokenizer*>(&tokenizer)) {
    source = bpe->definition().chat_template;
  } else {
    const fs::path folder = fs::is_directory(model) ? model : model.parent_path(), config = folder / "tokenizer_config.json";
    source = read_chat_templates(folder, fs::exists(config) ? read_python_json(config) : Json()).text();
  }
  if (source.empty()) return nullptr;
  return std::make_unique<ChatTemplate>(std::move(source), token_texts(tokenizer), model);
}

std::unique_ptr<ChatTemplate> read_chat_template(const fs::path& file, const Tokenizer* tokenizer) {
  return std::make_unique<ChatTemplate>(read_file(file, kMostTemplateBytes),
                                        tokenizer ? token_texts(*tokenizer) : std::map<std::string, std::string>(), file);
}

}  // namespace overproof
