// Chat templates and conversations: refused with a FormatError, or rendered within the limits, with ranges that are in the text. The
// engine is other people's work: that it crashes is a fault of the template, and that this process continues is what is tested.

#include "core/error.h"
#include "core/utf8.h"
#include "data/chat_document.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

namespace {

void require_in_text(const std::vector<ByteRange>& ranges, int64_t bytes) {
  int64_t last = 0;
  for (const ByteRange& range : ranges) {
    fuzz::require(range.begin >= last && range.begin < range.end && range.end <= bytes);
    last = range.end;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const size_t cut = std::min(all.find('\0'), all.size());
  const std::string_view line = all.substr(std::min(cut + 1, all.size()));
  try {
    const Json json = parse_json(line, "chats.jsonl");
    if (!is_chat_record(json)) return 0;
    const ChatRecord record = read_chat_record(line, "chats.jsonl", 0);
    fuzz::require(!record.conversation.empty() || !record.completion.empty());
    if (record.conversation.empty() || record.messages > 16) return 0;
    const ChatTemplate chat_template(std::string(all.substr(0, cut)), {{"bos_token", "<s>"}}, "template",
                                     {.memory_bytes = 256 << 20, .cpu_seconds = 2, .answer_bytes = 1 << 20});
    std::vector<ChatPrefix> prefixes;
    for (const int64_t i : record.answers) prefixes.push_back({i, true});
    const RenderedPrefixes rendered = chat_template.render(record.conversation, {record.messages, false}, prefixes);
    const auto size = int64_t(rendered.whole.text.size());
    fuzz::require(invalid_utf8_at(rendered.whole.text) < 0);
    require_in_text(rendered.whole.quoted, size);
    require_in_text(rendered.whole.generated, size);
    fuzz::require(rendered.lengths.size() == (rendered.marks_generation ? 0 : prefixes.size()));
    for (const int64_t length : rendered.lengths) fuzz::require(length >= -1 && length <= size);
  } catch (const FormatError&) {
  }
  return 0;
}
