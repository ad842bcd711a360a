// GGUF: any bytes are refused with a FormatError or accepted; what is accepted re-encodes to equal content, every tensor can be
// dequantised, and the view as a checkpoint works or refuses.

#include "core/error.h"
#include "core/json.h"
#include "formats/gguf_checkpoint.h"
#include "fuzz/fuzz_file.h"
#include "tests/formats/gguf_builder.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::FuzzFile input(data, size);
  try {
    const GgufFile file(input.path());
    const fuzz::FuzzFile again(test::re_encode(file).bytes());
    fuzz::require(test::same_content(file, GgufFile(again.path())));
    for (const GgufTensor& t : file.tensors()) {
      std::vector<float> values(size_t(t.elements()));
      ggml_to_f32(t.type, t.data.data(), values);
    }
    const GgufCheckpoint checkpoint(input.path());
    checkpoint.config().dump();
    for (const TensorInfo& t : checkpoint.tensors()) fuzz::require(int64_t(checkpoint.read_all_f32(t.name).size()) == t.elements());
  } catch (const FormatError&) {
  }
  return 0;
}
