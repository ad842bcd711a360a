// JSON: refused with an offset inside the text, or the value that nlohmann's own parser builds; in time that grows with the text.

#include "core/error.h"
#include "core/json.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const Json value = parse_json(text, "fuzz.json");
    fuzz::require(value == Json::parse(text));
    fuzz::require(parse_json(dump_text(value), "again.json") == value);
  } catch (const FormatError& e) {
    fuzz::require(e.offset() >= 0 && e.offset() <= int64_t(size));
    return 0;
  }
  if (size > 64) return 0;
  // The value many times in one list: each element was compared with all before it.
  fuzz::require_linear([&](size_t copies) {
    std::string list = "[";
    for (size_t i = 0; i < copies; ++i) (list += text) += i + 1 < copies ? ',' : ']';
    parse_json(list, "list.json");
  });
  return 0;
}
