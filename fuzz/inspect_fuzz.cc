// `inspect`: any content of a .gguf or .safetensors file is refused with a FormatError or listed, and the listing has no control
// characters.

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
      const Answer listing = inspect(folder / name);
      const Json list = parse_json(dump_text(listing.json), "list");
      fuzz::require(list.at("tensors") == list.at("files").at(0).at("tensors").size() && list.at("elements") >= 0);
      for (const char c : listing.text)
        fuzz::require(c == '\n' || c == '\t' || (c >= 0 ? c >= ' ' && c != 0x7f : true));  // no escape codes
    } catch (const FormatError&) {
    }
  }
  return 0;
}
