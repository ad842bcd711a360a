// evaluation.json: any text is refused with a FormatError, or read; what was read, written and read again is the same.

#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "fuzz/fuzz_file.h"
#include "records/evaluation.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const Evaluation read = parse_evaluation({reinterpret_cast<const char*>(data), size}, "fuzz");
    for (const EvaluationRow& row : read.rows)
      for (const auto& [name, value] : kEvaluationMetrics) fuzz::require(!(row.*value) || std::isfinite(*(row.*value)));
    const Json json = to_json(read);
    fuzz::require(to_json(parse_evaluation(json.dump(), "fuzz")) == json);
  } catch (const FormatError&) {
  }
  return 0;
}
