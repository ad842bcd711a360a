#include "remote/capture_samples_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "core/progress.h"
#include "core/utf8.h"
#include "data/corpus.h"
#include "data/order.h"
#include "data/tokenizer.h"
#include "records/answer_ledger.h"

namespace overproof {
namespace {

constexpr uint64_t kSamplesTweak = 0x63617074732d7478;  // another order than that of windows
constexpr int64_t kMessageTokens = 8;                    // that templates add to a message, for the estimate of what is paid
constexpr std::string_view kTextPlace = "{text}";

/// What is asked, and where it is from.
struct ChatPrompt {
  Json messages = Json::array();
  Json parent;
};

Json message_of(std::string_view role, std::string_view content) { return {{"role", role}, {"content", content}}; }

/// A message of a prompt file, without what is not for the server.
Json checked_message(const JsonObject& message) {
  const std::string role = message.text("role");
  if (role != "system" && role != "developer" && role != "user" && role != "assistant" && role != "tool")
    message.fail("role", fmt::format("is '{}'; system, developer, user, assistant and tool are known", role.substr(0, 40)));
  return message_of(role, message.text("content"));
}

ChatPrompt prompt_of_line(std::string_view line, const fs::path& file, int64_t offset, int64_t number) {
  const Json json = parse_json(line, file, offset);
  if (!json.is_object()) throw FormatError(file, offset, "is not one JSON object a line");
  const JsonObject record(json, file, "", JsonNull::absent, offset);
  ChatPrompt prompt;
  if (record.has("messages") == record.has("prompt")) throw FormatError(file, offset, "has not one of 'prompt' and 'messages'");
  if (record.has("prompt")) prompt.messages.push_back(message_of("user", record.text("prompt")));
  else
    for (const JsonObject& message : record.objects("messages")) prompt.messages.push_back(checked_message(message));
  if (prompt.messages.empty() || prompt.messages.back()["role"] == "assistant" || prompt.messages.back()["content"].get_ref<const std::string&>().empty())
    throw FormatError(file, offset, "does not end with a message that can be answered");
  prompt.parent = {{"slot", "prompt"},
                   {"name", record.text("name", fmt::format("{}:{}", file.filename().string(), number))},
                   {"digest", "sha256:" + sha256(dump_text(prompt.messages)).hex()}};
  return prompt;
}

std::string beginning_of(std::string_view text, int64_t most) {
  if (int64_t(text.size()) <= most) return std::string(text);
  size_t end = size_t(most);
  while (end > 0 && (uint8_t(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end));
}

std::vector<ChatPrompt> prompts_of_corpus(const CaptureSamplesConfig& config, const Inputs& inputs) {
  const size_t place = config.instruction.find(kTextPlace);
  if (place == std::string::npos) throw UsageError("option 'instruction': has no {text}, the place of a document's beginning");
  const Corpus corpus(inputs.path("corpus"));
  std::vector<const Document*> documents;
  for (const Document& d : corpus.documents())
    if (d.split == Split::train) documents.push_back(&d);
  const auto all = int64_t(documents.size());
  if (all == 0) throw MismatchError("the corpus has no training document");
  const Permutation order(order_key(inputs.root("corpus"), config.seed), kSamplesTweak, all);
  const int64_t wanted = config.count > 0 ? std::min(config.count, all) : all;
  std::map<std::string_view, int64_t> numbers;  // by document's name
  for (int64_t i = 0; i < wanted; ++i) numbers[documents[size_t(order.forward(i))]->name] = i;
  std::vector<ChatPrompt> prompts(static_cast<size_t>(wanted));
  for_each_text(inputs.path("corpus"), [&](const Document& d, std::string_view text) {
    const auto found = numbers.find(d.name);
    if (found == numbers.end()) return;
    std::string asked = config.instruction;
    asked.replace(place, kTextPlace.size(), beginning_of(text, config.prompt_bytes));
    prompts[size_t(found->second)] = {Json::array({message_of("user", asked)}),
                                      {{"slot", "prompt"}, {"name", d.name}, {"digest", "sha256:" + d.digest.hex()}}};
  });
  return prompts;
}

std::vector<ChatPrompt> prompts_of_file(const CaptureSamplesConfig& config, const fs::path& file) {
  const MappedFile table(file);
  std::vector<ChatPrompt> prompts;
  int64_t number = 0;
  for_each_line(table, [&](std::string_view line, int64_t offset) {
    throw_if_interrupted();
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
    if (config.count > 0 && int64_t(prompts.size()) == config.count) return;
    prompts.push_back(prompt_of_line(line, file, offset, number));
  });
  if (prompts.empty()) throw FormatError(file, -1, "has no prompt");
  return prompts;
}

/// What is asked of a teacher, opened and checked before anything is sent.
struct SamplesPlan {
  RemoteTeacher teacher;
  std::vector<ChatPrompt> prompts;
  std::vector<int64_t> prompt_tokens;  // estimated

  SamplesPlan(const CaptureSamplesConfig& config, const Inputs& inputs) : config_(config) {
    if (!is_remote_teacher(inputs.path("teacher")))
      throw MismatchError(fmt::format("{}: is no teacher behind a URL; make one with `overproof connect`, or run a local one with `overproof sample`",
                                      inputs.path("teacher").string()));
    teacher = RemoteTeacher::read(inputs.path("teacher"));
    if (teacher.url.empty()) throw MismatchError("the teacher was connected without a server; connect it with --url, or give its texts to `overproof import-samples`");
    if (inputs.has("prompts") == inputs.has("corpus")) throw UsageError("give one of --prompts and --corpus: what is to be asked");
    prompts = inputs.has("corpus") ? prompts_of_corpus(config, inputs) : prompts_of_file(config, inputs.path("prompts"));
    const auto tokenizer = open_tokenizer(inputs.path("teacher"));
    for (ChatPrompt& prompt : prompts) {
      const std::string first = prompt.messages[0]["role"];
      if (!config.system.empty() && first != "system" && first != "developer") prompt.messages.insert(prompt.messages.begin(), message_of("system", config.system));
      int64_t tokens = 0;
      for (const Json& message : prompt.messages) {
        std::vector<int32_t> ids;
        tokenizer->encode(message["content"].get_ref<const std::string&>(), ids);
        tokens += int64_t(ids.size()) + kMessageTokens;
      }
      prompt_tokens.push_back(tokens);
    }
  }

  int64_t answers() const { return int64_t(prompts.size()) * config_.per_prompt; }
  const ChatPrompt& prompt(int64_t answer) const { return prompts[size_t(answer / config_.per_prompt)]; }

  RemoteRequest request(int64_t answer, const std::string& key) const {
    Json body = {{"messages", prompt(answer).messages}, {"seed", config_.seed + answer % config_.per_prompt}};
    body[config_.length_field == LengthField::max_tokens ? "max_tokens" : "max_completion_tokens"] = config_.max_tokens;
    if (config_.temperature) body["temperature"] = *config_.temperature;
    if (config_.top_p) body["top_p"] = *config_.top_p;
    return chat_request(teacher, key, std::move(body), prompt_tokens[size_t(answer / config_.per_prompt)] + config_.max_tokens);
  }

  /// The answers whose requests differ; `state`: of the ledger.
  CaptureCount count(const LedgerState* state, std::vector<int64_t>* open) const {
    CaptureCount sum;
    std::set<Digest> seen;
    for (int64_t a = 0; a < answers(); ++a) {
      const RemoteRequest asked = request(a, "");
      if (!seen.insert(asked.digest).second) continue;
      ++sum.requests;
      sum.tokens += asked.tokens;
      if (state && state->answered.contains(asked.digest)) continue;
      ++sum.open_requests;
      sum.open_tokens += asked.tokens;
      if (open) open->push_back(a);
    }
    return sum;
  }

 private:
  const CaptureSamplesConfig& config_;
};

void ask_for_texts(const CaptureSamplesConfig& config, const SamplesPlan& plan, const std::vector<int64_t>& open, AnswerLedger& ledger) {
  const std::string key = server_key(config.call.key_variable);
  Caller caller(config.call, key, ledger.tokens() + ledger.maybe_paid());
  Progress progress("capture-samples", int64_t(open.size()), "answers");
  std::mutex mutex;
  int64_t done = 0;
  ask_all(caller, int64_t(open.size()), config.call.concurrency, [&](HttpSession& session, int64_t i) {
    ask_for_text(caller, session, plan.teacher, key, plan.request(open[size_t(i)], key), ledger);
    const std::lock_guard lock(mutex);
    progress.update(++done, fmt::format("{} requests, {} again", caller.sent(), caller.waited()));
  });
}

}  // namespace

CaptureCount count_capture_samples(const CaptureSamplesConfig& config, const Inputs& inputs, const fs::path& kept) {
  const SamplesPlan plan(config, inputs);
  const Digest root = inputs.root("teacher");
  const fs::path file = ledger_file(kept, root);
  std::error_code error;
  if (!fs::exists(file, error)) return plan.count(nullptr, nullptr);
  const MappedFile mapped(file);
  const LedgerState state = read_ledger(mapped.bytes(), root, file);
  return plan.count(&state, nullptr);
}

StageReport run_capture_samples(const CaptureSamplesConfig& config, const Inputs& inputs, Outputs& outputs) {
  const SamplesPlan plan(config, inputs);
  const RemoteTeacher& teacher = plan.teacher;
  const Digest root = inputs.root("teacher");
  const fs::path file = ledger_file(outputs.kept(), root);
  AnswerLedger ledger(file, root);
  std::vector<int64_t> open;
  CaptureCount count;
  {
    const MappedFile mapped(file);
    const LedgerState state = read_ledger(mapped.bytes(), root, file);
    count = plan.count(&state, &open);
  }
  ask_for_texts(config, plan, open, ledger);

  const std::string name = inputs.path("teacher").filename().string(), source = fmt::format("{} sha256:{}", name, root.hex());
  const Json of_teacher = {{"slot", "teacher"}, {"name", name}, {"digest", "sha256:" + root.hex()}};
  OutputFile out = outputs.folder().open("documents.jsonl");
  std::map<Digest, int64_t> paid;
  int64_t documents = 0, empty = 0, cut = 0;
  for (int64_t a = 0; a < plan.answers(); ++a) {
    throw_if_interrupted();
    const Digest digest = plan.request(a, "").digest;
    const LedgerText answer = ledger.text(digest);
    const bool again = !paid.emplace(digest, answer.tokens).second;
    cut += !answer.whole;
    empty += answer.whole && answer.text.empty();
    if (again || answer.text.empty() || (!answer.whole && !config.keep_cut)) continue;
    const ChatPrompt& prompt = plan.prompt(a);
    Json messages = prompt.messages;
    messages.push_back(message_of("assistant", answer.text));
    const Json record = {{"messages", messages},       {"name", fmt::format("samples/{:06}", a)},          {"license", config.license},
                         {"source", source + " chat"}, {"parents", Json::array({of_teacher, prompt.parent})}};
    out.write(dump_text(record) + "\n");
    ++documents;
  }
  if (documents == 0)
    throw MismatchError(fmt::format("no answer can be kept: {} of {} are empty, {} were cut by max-tokens or a filter (--keep-cut keeps them)", empty, plan.answers(), cut));
  outputs.folder().finish(std::move(out));
  int64_t tokens = 0;
  for (const auto& [digest, cost] : paid) tokens += cost;
  Json facts = {{"format", "overproof-samples-1"},
                {"teacher", {{"name", name}, {"digest", "sha256:" + root.hex()}}},
                {"documents", documents},
                {"chats", documents},
                {"empty", empty},
                {"cut", cut},
                {"seed", config.seed},
                {"max_tokens", config.max_tokens},
                {"evidence", "recorded"}};
  if (config.temperature) facts["temperature"] = *config.temperature;
  if (config.top_p) facts["top_p"] = *config.top_p;
  outputs.folder().write_file("sampling.json", dump_text(facts, 1) + "\n");
  StageReport report;
  report.metrics() = {{"documents", documents}, {"prompts", plan.prompts.size()}, {"empty", empty},        {"cut", cut},
                      {"requests", count.requests}, {"tokens_paid", tokens},      {"evidence", "recorded"}, {"endpoint", teacher.url},
                      {"model", teacher.model},     {"region", teacher.region}};
  report.summary = {fmt::format("{} documents of {} answers: {} were empty, {} cut{}", documents, plan.answers(), empty, cut, config.keep_cut ? " and kept" : ""),
                    fmt::format("{} requests, {} tokens paid to {}", count.requests, tokens, url_without_secrets(teacher.url)),
                    "evidence: recorded; that the server ran the model that it names cannot be shown"};
  if (const int64_t answered = count.requests - count.open_requests; answered > 0)
    report.summary.push_back(fmt::format("resumed: {} of {} requests were answered before, and were not sent again", answered, count.requests));
  if (const int64_t maybe = ledger.maybe_paid(); maybe > 0)
    report.summary.push_back(fmt::format("{} tokens were sent without an answer that could be kept, and may have been paid for", maybe));
  return report;
}

}  // namespace overproof
