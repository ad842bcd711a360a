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
  if (size > 512) return 0;
  fuzz::require_linear([&](size_t copies) {
    std::string log;
    for (size_t i = 0; i < copies; ++i) log += std::string(reinterpret_cast<const char*>(data), size) + "\n";
    try {
      parse_step_log(log, "fuzz");
    } catch (const FormatError&) {
    }
  });
  return 0;
}
