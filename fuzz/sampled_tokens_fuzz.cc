// tokens.jsonl of sampled documents: any text is refused with a FormatError, or gives documents of ids within the vocabulary.

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "records/sampled_tokens.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  folder.put(kSampledTokensName, {reinterpret_cast<const char*>(data), size});
  try {
    const std::vector<SampledTokens> documents = read_sampled_tokens(folder.path(), 1000);
    fuzz::require(!documents.empty());
    for (const SampledTokens& document : documents)
      for (const auto* ids : {&document.before, &document.tokens})
        for (const int32_t id : *ids) fuzz::require(id >= 0 && id < 1000);
  } catch (const FormatError&) {
  }
  return 0;
}
