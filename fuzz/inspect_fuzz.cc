// `inspect`: whatever stands in a .gguf or .safetensors file, it is refused with a FormatError or listed, and the list as JSON
// reads back.

#include <sstream>

#include "core/error.h"
#include "core/json.h"
#include "formats/inspect.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  for (const char* name : {"a.gguf", "a.safetensors"}) {
    folder.put(name, {reinterpret_cast<const char*>(data), size});
    try {
      std::ostringstream text, json;
      inspect(folder / name, false, text);
      inspect(folder / name, true, json);
      const Json list = parse_json(json.str(), "list");
      fuzz::require(list.at("tensors") == list.at("files").at(0).at("tensors").size() && list.at("elements") >= 0);
      for (const char c : text.str())
        fuzz::require(c == '\n' || c == '\t' || (c >= 0 ? c >= ' ' && c != 0x7f : true));  // no escape codes
    } catch (const FormatError&) {
    }
  }
  return 0;
}
