// arena.json: any text is refused with a FormatError, or read; what was read, written and read again is the same.

#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "fuzz/fuzz_file.h"
#include "records/arena.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const Arena read = parse_arena({reinterpret_cast<const char*>(data), size}, "fuzz");
    for (const ArenaModel& model : read.models) fuzz::require(std::isfinite(model.rating) && model.wins >= 0);
    const Json json = to_json(read);
    fuzz::require(to_json(parse_arena(json.dump(), "fuzz")) == json);
  } catch (const FormatError&) {
  }
  return 0;
}
