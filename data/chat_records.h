#pragma once
// Conversations as users have them in JSON Lines, in one form.
//
//   {"messages": [{"role": "user", "content": "..."}, ...], "tools": [...]}      also "functions" in place of "tools"
//   {"conversations": [{"from": "human", "value": "..."}, ...], "system": "..."}  ShareGPT; messages with role and content, too
//   {"prompt": [messages], "completion": [messages]}
//   {"instruction": "...", "input": "...", "output": "...", "system": "...", "history": [["...", "..."], ...]}   alpaca
//   {"prompt": "...", "completion": "..."}                                        plain text, without a template
// "chat_template_kwargs" of a record, an object, goes to the template, as TRL has it. "weight": 0 in a message: it is not trained.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/json.h"

namespace overproof {

struct ChatRecord {
  /// Not empty: a JSON object with `messages` and all else that a template reads, keys in their order.
  std::string conversation;
  int64_t messages = 0;
  std::vector<int64_t> assistants;  ///< which of the messages are an assistant's, ascending
  std::vector<int64_t> answers;     ///< which of these are trained
  std::string prompt, completion;  ///< where `conversation` is empty
};

/// Whether a record of a table is a conversation. One with "text" is a text.
bool is_chat_record(const Json& record);

/// `line`: the record, `offset` bytes into `file`, which parse_json() has accepted. Throws FormatError.
ChatRecord read_chat_record(std::string_view line, const fs::path& file, int64_t offset);

}  // namespace overproof
