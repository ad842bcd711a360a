// Statistics of experts: any bytes are refused with a FormatError, or give values of the shapes in the metadata, finite and in range.

#include <cmath>

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "records/expert_statistics.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::FuzzFile input(data, size);
  try {
    const ExpertStatistics file(input.path());
    const ExpertStatisticsShape& s = file.shape();
    for (int64_t l = 0; l < s.layers; ++l) {
      const ExpertObservation seen = file.read(l);
      fuzz::require(int64_t(seen.tokens.size()) == s.experts && seen.reap.size() == seen.tokens.size() &&
                    seen.largest.size() == seen.tokens.size() && int64_t(seen.mean_output.size()) == s.experts * s.hidden_size);
      for (size_t e = 0; e < seen.tokens.size(); ++e)
        fuzz::require(seen.tokens[e] >= 0 && seen.reap[e] >= 0 && seen.largest[e] >= 0 && std::isfinite(seen.reap[e]));
    }
  } catch (const FormatError&) {
  }
  return 0;
}
