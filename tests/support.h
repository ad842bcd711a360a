#pragma once
// What tests of every folder share.

#include <algorithm>
#include <ctime>
#include <limits>
#include <string_view>

#include "core/temp_folder.h"

namespace overproof {

/// Makes the file and the folders above it; returns its path.
inline fs::path write_text(const fs::path& file, std::string_view text) {
  fs::create_directories(file.parent_path());
  write_file_atomically(file, text);
  return file;
}

/// How many times longer `parse` takes for make(large) than for make(small), in time of this thread's processor, so that other
/// processes count little; the fastest of five runs each. A bound far above large / small and far below its square separates linear
/// from quadratic work.
template <class Make, class Parse>
double growth_of_time(const Make& make, const Parse& parse, size_t small, size_t large) {
  const auto seconds = [&](size_t size) {
    const auto input = make(size);
    double least = std::numeric_limits<double>::max();
    for (int i = 0; i < 5; ++i) {
      timespec begin{}, end{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
      parse(input);
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
      least = std::min(least, double(end.tv_sec - begin.tv_sec) + 1e-9 * double(end.tv_nsec - begin.tv_nsec));
    }
    return least;
  };
  const double first = std::max(seconds(small), 1e-5);
  return seconds(large) / first;
}

}  // namespace overproof
