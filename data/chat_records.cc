#include "data/chat_records.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace overproof {
namespace {

using OrderedJson = nlohmann::ordered_json;

class ChatRecordReader {
 public:
  ChatRecordReader(std::string_view line, const fs::path& file, int64_t offset)
      : record_(OrderedJson::parse(line)), file_(file), offset_(offset) {}

  ChatRecord read() {
    if (record_.contains("messages")) add_messages("messages", "role", "content");
    else if (record_.contains("conversations")) add_conversations();
    else if (record_.contains("instruction")) add_alpaca();
    else if (record_.at("prompt").is_string() && record_.value("completion", OrderedJson()).is_string()) return plain();
    else add_messages("prompt", "role", "content"), add_messages("completion", "role", "content");
    return finish();
  }

 private:
  [[noreturn]] void fail(const std::string& cause) const { throw FormatError(file_, offset_, cause); }

  const OrderedJson* member(const char* name) const {
    const auto it = record_.find(name);
    return it == record_.end() || it->is_null() ? nullptr : &*it;
  }

  std::string text(const char* name) const {
    const OrderedJson* value = member(name);
    if (value && !value->is_string()) fail(fmt::format("'{}' is not text", name));
    return value ? value->get<std::string>() : std::string();
  }

  void add(const char* role, std::string content) { messages_.push_back({{"role", role}, {"content", std::move(content)}}); }

  void add_messages(const char* list, const char* role, const char* content) {
    const OrderedJson* messages = member(list);
    if (!messages || !messages->is_array()) fail(fmt::format("'{}' is not a list of messages", list));
    for (size_t i = 0; i < messages->size(); ++i) {
      OrderedJson message = (*messages)[i];
      const std::string where = fmt::format("'{}[{}]'", list, i);
      if (!message.is_object()) fail(where + " is not an object");
      const auto said_by = message.find(role);
      if (said_by == message.end() || !said_by->is_string()) fail(fmt::format("{} has no '{}'", where, role));
      const std::string name = said_by->get<std::string>();
      // Templates make markers of it.
      const bool plain = !name.empty() && name.size() <= 64 && std::ranges::all_of(name, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
      });
      if (!plain) fail(fmt::format("{} has the {} '{}', which is no word in lower case", where, role, name.substr(0, 64)));
      if (message.contains(content) && !message[content].is_string() && !message[content].is_null() && !message[content].is_array())
        fail(fmt::format("{} has a '{}' that is neither text nor a list", where, content));
      messages_.push_back(std::move(message));
    }
  }

  void add_conversations() {
    const OrderedJson* list = member("conversations");
    if (list && list->is_array() && !list->empty() && (*list)[0].is_object() && (*list)[0].contains("role")) {
      add_messages("conversations", "role", "content");
      return;
    }
    if (const std::string system = text("system"); !system.empty()) add("system", system);
    static const std::map<std::string, const char*> roles = {{"human", "user"},       {"user", "user"},           {"gpt", "assistant"},
                                                             {"assistant", "assistant"}, {"chatgpt", "assistant"}, {"model", "assistant"},
                                                             {"bot", "assistant"},    {"system", "system"},       {"tool", "tool"},
                                                             {"observation", "tool"}, {"function_response", "tool"}};
    if (!list || !list->is_array()) fail("'conversations' is not a list of messages");
    for (size_t i = 0; i < list->size(); ++i) {
      const OrderedJson& turn = (*list)[i];
      const auto is_text = [&](const char* name) { return turn.is_object() && turn.contains(name) && turn[name].is_string(); };
      if (!is_text("from") || !is_text("value")) fail(fmt::format("'conversations[{}]' has no 'from' and 'value'", i));
      const auto role = roles.find(turn["from"].get<std::string>());
      if (role == roles.end())
        fail(fmt::format("'conversations[{}]' is from '{}'; human, user, gpt, assistant, chatgpt, model, bot, system, tool, observation and "
                         "function_response are known",
                         i, turn["from"].get<std::string>().substr(0, 64)));
      add(role->second, turn["value"].get<std::string>());
      if (turn.contains("weight")) messages_.back()["weight"] = turn["weight"];
    }
  }

  void add_alpaca() {
    if (const std::string system = text("system"); !system.empty()) add("system", system);
    if (const OrderedJson* history = member("history")) {
      if (!history->is_array()) fail("'history' is not a list of pairs");
      for (const OrderedJson& pair : *history) {
        if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) fail("'history' is not a list of pairs of texts");
        add("user", pair[0].get<std::string>());
        add("assistant", pair[1].get<std::string>());
      }
    }
    const std::string more = text("input");
    add("user", more.empty() ? text("instruction") : text("instruction") + "\n" + more);
    add("assistant", text("output"));
  }

  ChatRecord plain() {
    ChatRecord out;
    out.prompt = text("prompt");
    out.completion = text("completion");
    if (out.completion.empty()) fail("'completion' is empty, so nothing would be trained");
    return out;
  }

  ChatRecord finish() {
    ChatRecord out;
    for (OrderedJson& message : messages_) {
      bool trained = message["role"] == "assistant";
      if (const auto weight = message.find("weight"); weight != message.end()) {
        if (*weight != 0 && *weight != 1) fail("a message has a 'weight' that is neither 0 nor 1");
        trained = trained && *weight == 1;
        message.erase("weight");
      }
      if (message["role"] == "assistant") out.assistants.push_back(out.messages);
      if (trained) out.answers.push_back(out.messages);
      ++out.messages;
    }
    if (out.answers.empty()) fail("no message of an assistant is trained");
    OrderedJson conversation = {{"messages", std::move(messages_)}};
    for (const char* name : {"tools", "functions"})
      if (const OrderedJson* tools = member(name)) {
        OrderedJson list = *tools;
        if (list.is_string()) {  // ShareGPT has a list written out
          list = OrderedJson::parse(list.get<std::string>(), nullptr, false);
          if (list.is_discarded()) fail(fmt::format("'{}' is text that is no JSON", name));
        }
        if (!list.is_array()) fail(fmt::format("'{}' is not a list", name));
        if (!list.empty()) conversation["tools"] = std::move(list);
      }
    if (const OrderedJson* documents = member("documents")) conversation["documents"] = *documents;
    if (const OrderedJson* options = member("chat_template_kwargs")) {
      if (!options->is_object()) fail("'chat_template_kwargs' is not an object");
      for (const auto& [name, value] : options->items())
        if (!conversation.contains(name)) conversation[name] = value;
    }
    out.conversation = conversation.dump();
    return out;
  }

  OrderedJson record_, messages_ = OrderedJson::array();
  const fs::path& file_;
  int64_t offset_;
};

}  // namespace

bool is_chat_record(const Json& record) {
  const auto has = [&](const char* name) { return record.contains(name) && !record[name].is_null(); };
  return record.is_object() && !has("text") &&
         (has("messages") || has("conversations") || (has("instruction") && has("output")) || (has("prompt") && has("completion")));
}

ChatRecord read_chat_record(std::string_view line, const fs::path& file, int64_t offset) {
  return ChatRecordReader(line, file, offset).read();
}

}  // namespace overproof
