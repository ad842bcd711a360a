#include "teacher/task_prompts.h"

#include <fmt/format.h>

#include "core/error.h"
#include "data/chat_document.h"
#include "data/chat_template.h"
#include "data/marked_text.h"

namespace overproof {
namespace {

Json messages_of(const Task& task) {
  if (!task.messages.is_null()) return task.messages;
  return Json::array({{{"role", "user"}, {"content", task.prompt}}});
}

}  // namespace

TaskPrompts::TaskPrompts(const fs::path& file, int64_t per_task, bool plain, const fs::path& model, const Tokenizer& tokenizer, bool examples, TaskUse use)
    : tasks_(read_tasks(file, use)), per_task_(per_task), plain_(plain) {
  const auto chat_template = plain ? nullptr : open_chat_template(model, tokenizer);
  plain_ = !chat_template;
  if (chat_template) ends_ = turn_end_ids(model, tokenizer);
  const MarkedEncoder encoder(tokenizer);
  for (const Task& task : tasks_) {
    Opening& opening = openings_.emplace_back();
    if (plain_) {
      if (!task.messages.is_null() || (examples && !task.examples.empty()))
        throw MismatchError(fmt::format("task '{}' has messages or examples, and {}", task.name,
                                        plain ? "option plain-prompts is set" : fmt::format("{} has no chat template", model.string())));
      tokenizer.encode(task.prompt, opening.ids);
    } else {
      Json messages = examples ? task.examples : Json::array();
      for (const Json& message : messages_of(task)) messages.push_back(message);
      const RenderedChat chat = chat_template->render(Json{{"messages", messages}}.dump(), {int64_t(messages.size()), true}).whole;
      opening.ids = encoder.encode(chat.text, chat.quoted, {}).ids;
    }
    if (opening.ids.empty()) throw MismatchError(fmt::format("the prompt of task '{}' has no token", task.name));
  }
}

Json TaskPrompts::record(int64_t i, const std::string& completion) const {
  const Task& asked = task(i);
  if (plain_) return {{"prompt", asked.prompt}, {"completion", completion}};
  Json messages = messages_of(asked);
  for (Json& message : messages)
    if (message["role"] == "assistant") message["weight"] = 0;  // an example in the prompt
  messages.push_back({{"role", "assistant"}, {"content", completion}});
  return {{"messages", std::move(messages)}};
}

}  // namespace overproof
