// Recorded activations: any bytes are refused with a FormatError or give statistics whose sizes and values hold what they
// promise.

#include <cmath>

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "records/activation_statistics.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::FuzzFile input(data, size);
  try {
    const ActivationStatistics file(input.path());
    for (const auto& [weight, group] : file.groups()) {
      fuzz::require(file.group_of(weight) && *file.group_of(weight) == group);
      for (const auto parts : {ActivationStatistics::Parts::samples, ActivationStatistics::Parts::hessian}) {
        const LinearStatistics s = file.read(group, parts);
        fuzz::require(s.columns > 0 && int64_t(s.amax.size()) == s.columns && s.tokens >= s.forced_tokens &&
                      s.forced_tokens >= 0);
        fuzz::require(s.samples.empty() || int64_t(s.samples.size()) == s.sample_rows * s.columns);
        fuzz::require(s.hessian.empty() || int64_t(s.hessian.size()) == s.columns * s.columns);
        for (const float a : s.amax) fuzz::require(std::isfinite(a) && a >= 0);
        for (const float h : s.hessian) fuzz::require(std::isfinite(h));
      }
    }
  } catch (const FormatError&) {
  }
  return 0;
}
