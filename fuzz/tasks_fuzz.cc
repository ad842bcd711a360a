// Tasks as JSON Lines: refused with a FormatError, or every task has a prompt and a verifier that can be used.

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "verify/verifier.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const Task task = read_task(text, "tasks.jsonl", 0, 1);
    fuzz::require(!task.name.empty());
    fuzz::require(task.prompt.empty() != task.messages.is_null());
    fuzz::require(task.verifier.type != VerifierType::math || !task.answer.empty());
    if (task.verifier.type == VerifierType::math || task.verifier.type == VerifierType::regex) Verifier({}).judge(task, text);
  } catch (const FormatError&) {
  }
  return 0;
}
