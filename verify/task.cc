#include "verify/task.h"

#include <fmt/format.h>

#include <map>

#include "core/error.h"
#include "core/json_object.h"
#include "core/named_lines.h"

namespace overproof {
namespace {

template <class E>
E choice_of(const JsonObject& object, const char* name, const std::map<std::string, E>& choices, E fallback) {
  if (!object.has(name)) return fallback;
  const std::string word = object.text(name);
  const auto found = choices.find(word);
  if (found != choices.end()) return found->second;
  std::string list;
  for (const auto& [choice, value] : choices) list += (list.empty() ? "" : ", ") + choice;
  object.fail(name, fmt::format("is '{}'; it can be: {}", word.substr(0, 40), list));
}

const std::map<std::string, VerifierType>& types() {
  static const std::map<std::string, VerifierType> table = {
      {"math", VerifierType::math}, {"regex", VerifierType::regex}, {"command", VerifierType::command}, {"program", VerifierType::program}};
  return table;
}

bool is_plain_file(const std::string& name) {
  return !name.empty() && name.size() < 100 && name[0] != '.' && name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
}

VerifierSpec read_spec(const JsonObject& object) {
  VerifierSpec spec;
  spec.type = choice_of(object, "type", types(), VerifierType::math);
  if (spec.type == VerifierType::math) {
    object.expect_only({"type", "extract", "tolerance"});
    spec.extract = choice_of<AnswerPlace>(
        object, "extract",
        {{"any", AnswerPlace::any}, {"boxed", AnswerPlace::boxed}, {"phrase", AnswerPlace::phrase}, {"last", AnswerPlace::last}}, AnswerPlace::any);
    spec.tolerance = object.number("tolerance", 0.0);
    if (spec.tolerance < 0 || spec.tolerance > 1) object.fail("tolerance", "is outside of 0 to 1");
  } else if (spec.type == VerifierType::regex) {
    object.expect_only({"type", "pattern"});
    spec.pattern = object.text("pattern");
  } else if (spec.type == VerifierType::command) {
    object.expect_only({"type"});
  } else {
    object.expect_only({"type", "command", "file", "tests", "cases"});
    if (object.has("command")) spec.command = object.texts("command");
    spec.file = object.text("file", "main.py");
    if (!is_plain_file(spec.file)) object.fail("file", "is not the plain name of a file");
    spec.tests = object.text("tests", "");
    for (const JsonObject& one : object.objects_or_empty("cases")) spec.cases.push_back({one.text("stdin", ""), one.text("stdout")});
    if (spec.tests.empty() && spec.cases.empty()) object.fail("has neither 'tests' nor 'cases', so every program would pass");
    if (!spec.tests.empty() && !spec.command.empty()) object.fail("tests", "need Python as it is called without 'command'; use 'cases' with another command");
    if (spec.command.empty()) spec.command = {"python3", "-I", spec.file};
  }
  return spec;
}

}  // namespace

Task read_task(std::string_view text, const fs::path& file, int64_t offset, int64_t line, TaskUse use) {
  Task task;
  task.digest = sha256(text);
  task.record = parse_json(text, file, offset);
  if (!task.record.is_object()) throw FormatError(file, offset, "a task is one JSON object a line");
  const JsonObject object(task.record, file, "", JsonNull::absent, offset);
  task.name = object.text("name", fmt::format("task-{}", line));
  if (task.name.empty() || task.name.size() > 500 || task.name.find_first_of(std::string_view("\n\r\0", 3)) != std::string::npos)
    object.fail("name", "is empty, longer than 500 bytes, or has a line break");
  if (object.has("messages") == object.has("prompt")) object.fail("has to have 'prompt' or 'messages', and not both");
  if (object.has("prompt")) {
    task.prompt = object.text("prompt");
    if (task.prompt.empty()) object.fail("prompt", "is empty");
  } else {
    task.messages = object.list("messages");
    if (task.messages.empty()) object.fail("messages", "is empty");
    for (const JsonObject& message : object.objects("messages")) message.text("role"), message.text("content");
    if (task.messages.back()["role"] == "assistant") object.fail("messages", "end with an assistant's, where the completion would be");
  }
  task.examples = object.list_or_empty("examples");
  for (const JsonObject& message : object.objects_or_empty("examples")) message.text("role"), message.text("content");
  if (const Json* answer = object.find("answer"); answer && !answer->is_null()) task.answer = answer->is_string() ? answer->get<std::string>() : answer->dump();
  const Json* verifier = object.find("verifier");
  if (verifier && verifier->is_string()) {
    const Json wrapped = {{"type", *verifier}};
    task.verifier = read_spec(JsonObject(wrapped, file, "verifier", JsonNull::absent, offset));
  } else if (const auto spec = object.find_object("verifier")) {
    task.verifier = read_spec(*spec);
  }
  if (use == TaskUse::verified && task.verifier.type == VerifierType::math && task.answer.empty()) object.fail("answer", "is missing or empty, and its verifier is 'math'");
  task.record["name"] = task.name;
  return task;
}

std::vector<Task> read_tasks(const fs::path& file, TaskUse use) {
  std::vector<Task> tasks;
  read_named_lines(file, "task", [&](std::string_view text, int64_t offset, int64_t line) {
    return tasks.emplace_back(read_task(text, file, offset, line, use)).name;
  });
  if (tasks.empty()) throw FormatError(file, -1, "has no task: one JSON object a line, with 'prompt' or 'messages', 'answer' and 'verifier'");
  return tasks;
}

}  // namespace overproof
