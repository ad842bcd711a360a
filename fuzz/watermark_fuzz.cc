// A watermark key, and after a zero byte a list of sampled tokens: refused with a FormatError, or every part is in its range and
// the key decides green lists.

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "records/sampled_tokens.h"
#include "data/watermark.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const std::string_view key_text = fuzz::take_part(rest);
  std::vector<int32_t> context(16, 1);
  try {
    folder.put(kSampledTokensName, rest);
    for (const SampledTokens& document : read_sampled_tokens(folder.path(), 1000))
      for (const auto* ids : {&document.before, &document.tokens})
        for (const int32_t id : *ids) {
          fuzz::require(id >= 0 && id < 1000);
          context.push_back(id);
        }
  } catch (const FormatError&) {
  }
  try {
    const fuzz::FuzzFile file(key_text);
    const WatermarkKey key = WatermarkKey::read(file.path());
    fuzz::require(key.context() >= 1 && key.context() <= 16 && key.green_fraction() > 0 && key.green_fraction() < 1);
    fuzz::require(key.after(context).green(3) == key.after(context).green(3));
  } catch (const FormatError&) {
  }
  return 0;
}
