// Passages of any text: each is within the text, ends in letters with one space before them, and comes after the one before.

#include <algorithm>

#include "data/cloze.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  size_t before = 0;
  for (const ClozePassage& passage : cloze_passages(text, 4 + data[0] % 64)) {
    fuzz::require(passage.begin >= before && passage.begin < passage.context_end);
    fuzz::require(passage.target == passage.context_end + 1 && text[passage.context_end] == ' ');
    fuzz::require(passage.length >= 4 && passage.target + passage.length <= text.size());
    before = passage.target + passage.length;
  }
  const auto targets = cloze_targets(text);
  for (const std::string& target : targets) fuzz::require(target.size() >= 4 && text.find(target) != std::string_view::npos);
  return 0;
}
