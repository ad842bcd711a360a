// claims.jsonl: any bytes are refused with a FormatError or accepted; an accepted lineage writes and reads to the same statement.

#include "core/error.h"
#include "core/json.h"
#include "fuzz/fuzz_file.h"
#include "provenance/claims.h"
#include "provenance/statement.h"

using namespace overproof;

namespace {

void read_payload(std::string_view payload) {
  try {
    const Lineage lineage = read_statement(payload, "claims.jsonl");
    const std::string written = make_statement(lineage);
    fuzz::require(make_statement(read_statement(written, "claims.jsonl")) == written);
  } catch (const FormatError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  read_payload(text);  // a statement alone: base64 hides it from mutation
  const fuzz::FuzzFile file(text);
  try {
    for (const Envelope& claim : read_claims(file.path())) {
      fuzz::require(!claim.to_json().empty());
      read_payload(claim.payload);
    }
  } catch (const FormatError&) {
  }
  if (size > 512) return 0;
  fuzz::require_linear([&](size_t copies) {
    std::string many;
    for (size_t i = 0; i < copies; ++i) many += std::string(text) + "\n";
    const fuzz::FuzzFile claims(many);
    try {
      read_claims(claims.path());
    } catch (const FormatError&) {
    }
  });
  return 0;
}
