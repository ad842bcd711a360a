#include "data/tokenizer_tools.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/file.h"
#include "core/json_object.h"
#include "core/real_path.h"
#include "data/chat_template.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "formats/safetensors.h"

namespace overproof {

int64_t run_tokenizer_encode(const TokenizerEncodeConfig& config) {
  for (const auto& [name, value] : {std::pair{"tokenizer", &config.tokenizer}, {"text", &config.text}, {"out", &config.out}}) {
    if (value->empty()) throw UsageError(fmt::format("tokenizer encode needs --{}", name));
  }
  require_apart(config.out, {{"tokenizer", config.tokenizer}, {"text", config.text}});
  const auto tokenizer = open_tokenizer(config.tokenizer);
  const std::string text = read_file(config.text);
  std::vector<int32_t> ids;
  tokenizer->encode(text, ids, config.parse_special);

  const fs::path out = real_path(config.out), partial = out.parent_path() / ("." + out.filename().string() + ".partial");
  OutputFolder folder(out.parent_path());
  Metadata metadata = {{"vocab_size", std::to_string(tokenizer->vocab_size())}, {"text_sha256", sha256(text).hex()}};
  tokenizer->identity().put_into(metadata);
  SafetensorsWriter writer(folder, partial.filename().string(), {{"ids", DType::i32, {int64_t(ids.size())}}}, metadata);
  writer.append(ids.data(), ids.size() * sizeof(int32_t));
  writer.close();
  fs::rename(partial, out);  // at once: another process may have the old file mapped
  return int64_t(ids.size());
}

int64_t run_tokenizer_render(const TokenizerRenderConfig& config) {
  if (config.conversations.empty() || config.out.empty() || (config.tokenizer.empty() && config.chat_template.empty()))
    throw UsageError("tokenizer render: give --conversations, --out, and --tokenizer or --chat-template");
  require_apart(config.out, {{"tokenizer", config.tokenizer}, {"chat-template", config.chat_template}, {"conversations", config.conversations}});
  std::unique_ptr<Tokenizer> tokenizer;
  if (!config.tokenizer.empty()) tokenizer = open_tokenizer(config.tokenizer);
  std::unique_ptr<ChatTemplate> chat_template;
  if (!config.chat_template.empty()) chat_template = read_chat_template(config.chat_template, tokenizer.get());
  else chat_template = open_chat_template(config.tokenizer, *tokenizer);
  if (!chat_template) throw MismatchError(fmt::format("{} has no chat template; give one with --chat-template", config.tokenizer));
  const MappedFile file(config.conversations);
  std::string out;
  int64_t count = 0;
  for_each_line(file, [&](std::string_view line, int64_t offset) {
    if (line.find_first_not_of(" \t\r") == line.npos) return;
    const Json variables = parse_json(line, file.path(), offset);
    const JsonObject record(variables, file.path(), "", JsonNull::absent, offset);
    const ChatPrefix all{int64_t(record.list("messages").size()), record.flag("add_generation_prompt", false)};
    Json answer;
    try {
      const RenderedChat chat = chat_template->render(line, all).whole;
      answer = {{"text", chat.text}, {"quoted", Json::array()}, {"generated", Json::array()}};
      for (const ByteRange& range : chat.quoted) answer["quoted"].push_back({range.begin, range.end});
      for (const ByteRange& range : chat.generated) answer["generated"].push_back({range.begin, range.end});
    } catch (const FormatError& e) {
      answer = {{"error", e.what()}};
    }
    out += answer.dump() + "\n";
    ++count;
  });
  write_file_atomically(config.out, out);
  return count;
}

}  // namespace overproof
