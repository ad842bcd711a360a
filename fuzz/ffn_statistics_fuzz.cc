// FFN statistics: any bytes are refused with a FormatError, or give values of the shapes in the metadata, finite and in range.

#include <cmath>

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "records/ffn_statistics.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::FuzzFile input(data, size);
  try {
    const FfnStatistics file(input.path());
    const FfnStatisticsShape& s = file.shape();
    for (int64_t l = 0; l < s.layers; ++l) {
      const std::vector<float> importance = file.importance(l), in = file.ffn_input(l);
      fuzz::require(int64_t(importance.size()) == s.intermediate_size && int64_t(in.size()) == s.tokens * s.hidden_size);
      for (const float x : importance) fuzz::require(std::isfinite(x) && x >= 0);
      if (s.moments) {
        fuzz::require(file.mean(l).size() == importance.size());
        for (const float x : file.variance(l)) fuzz::require(std::isfinite(x) && x >= 0);
      }
      if (s.taylor)
        for (const float x : file.taylor(l)) fuzz::require(std::isfinite(x) && x >= 0);
    }
    const std::vector<int64_t> ids = file.ids(3, 100);
    fuzz::require(int64_t(ids.size()) % s.window_length == 0 && int64_t(ids.size()) <= s.tokens);
    for (const int64_t id : ids) fuzz::require(id >= 0 && id < 100);
  } catch (const FormatError&) {
  }
  return 0;
}
