// A tokenizer to be written as GGUF: refused, or keys that read back with a token for every id. The first byte selects whether the
// rest is a tokenizer.json, its tokenizer_config.json or a SentencePiece model.

#include "core/error.h"
#include "data/gguf_vocabulary.h"
#include "formats/gguf.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

namespace {

constexpr int64_t kRows = 1000;
constexpr const char* kPlain = R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  if (size == 0) return 0;
  for (const fs::directory_entry& old : fs::directory_iterator(folder.path())) fs::remove(old);
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0]) {
    case 'm':
      folder.put("tokenizer.model", bytes);
      break;
    case 'c':
      folder.put("tokenizer.json", kPlain);
      folder.put("tokenizer_config.json", bytes);
      break;
    default:
      folder.put("tokenizer.json", bytes);
  }
  try {
    GgufMetadata keys;
    add_gguf_vocabulary(folder.path(), kRows, keys);
    OutputFolder out(folder.path());
    GgufWriter writer(out, "out.gguf", keys, {});
    writer.close();
    const GgufFile file(folder / "out.gguf");
    fuzz::require(file.metadata().size() == size_t(keys.count()));
    if (file.has("tokenizer.ggml.tokens")) {
      fuzz::require(file.texts("tokenizer.ggml.tokens").size() == kRows &&
                    file.integers("tokenizer.ggml.token_type").size() == kRows);
    }
  } catch (const FormatError&) {
  } catch (const MismatchError&) {
  }
  return 0;
}
