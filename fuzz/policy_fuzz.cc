// Policy files and licence names: any bytes are refused with a FormatError or accepted; what was accepted writes and reads to the
// same.

#include "audit/policy.h"
#include "core/error.h"
#include "core/json.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string license = parse_license(text).text();
  fuzz::require(parse_license(license).text() == license);

  const fuzz::FuzzFile file(text);
  try {
    const std::string written = to_json(read_policy(file.path())).dump();
    const fuzz::FuzzFile again(written);
    fuzz::require(to_json(read_policy(again.path())).dump() == written);
  } catch (const FormatError&) {
  }
  return 0;
}
