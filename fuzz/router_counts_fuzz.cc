// Router counts: any bytes are refused with a FormatError, or give counts whose sums and shares are what they promise.

#include "core/error.h"
#include "records/router_counts.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::FuzzFile file(data, size);
  try {
    const RouterCounts counts = read_router_counts_file(file.path());
    const auto sources = int64_t(counts.sources.size());
    fuzz::require(counts.all_tokens() >= 0);
    for (int64_t s = 0; s < sources; ++s) {
      fuzz::require(counts.find(counts.sources[size_t(s)]) == s);
      for (int64_t l = 0; l < counts.layers; ++l) {
        fuzz::require(counts.of_source(s, l) >= 0);
        for (int64_t e = 0; e < counts.experts; ++e) {
          const double mass = counts.mass(s, l, e);
          fuzz::require(counts.at(s, l, e) <= counts.of_expert(l, e) && mass >= 0 && mass <= 1);
        }
      }
    }
  } catch (const FormatError&) {
  }
  return 0;
}
