#include "provenance/signed_json.h"

#include "core/error.h"

namespace overproof {

std::string json_dump(const Json& value) {
  try {
    return value.dump();
  } catch (const Json::type_error&) {
    throw UsageError("a file name or a text is not UTF-8, so it cannot be recorded: rename the file");
  }
}

}  // namespace overproof
