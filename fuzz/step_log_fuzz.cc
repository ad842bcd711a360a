// steps.jsonl: any text is refused with a FormatError, or gives series that have one value a line.

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "records/step_log.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const StepCurves curves = parse_step_log({reinterpret_cast<const char*>(data), size}, "fuzz");
    fuzz::require(!curves.losses.empty() && curves.losses.size() <= 1 + kMostLossTerms);
    for (const StepSeries& s : curves.losses) fuzz::require(s.values.size() == curves.balance.values.size());
  } catch (const FormatError&) {
  }
  return 0;
}
