#include "core/processor.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace overproof {

bool has_avx512_of_another_maker() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return false;
  char maker[12];
  std::memcpy(maker, &b, 4), std::memcpy(maker + 4, &d, 4), std::memcpy(maker + 8, &c, 4);
  return std::memcmp(maker, "GenuineIntel", 12) != 0 && __builtin_cpu_supports("avx512bw");
#else
  return false;
#endif
}

}  // namespace overproof
