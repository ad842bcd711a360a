// GGUF: any bytes are refused with a FormatError or accepted; what is accepted re-encodes to equal content, every tensor can be
// dequantised, the view as a checkpoint works or refuses, and so does the plan to write that checkpoint as GGUF again.

#include "core/error.h"
#include "core/json.h"
#include "formats/generation_config.h"
#include "formats/gguf_checkpoint.h"
#include "formats/gguf_parts.h"
#include "formats/gguf_plan.h"
#include "fuzz/fuzz_file.h"
#include "tests/formats/gguf_builder.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::FuzzFile input(data, size);
  try {
    const GgufFile file(input.path());
    const fuzz::FuzzFile again(test::re_encode(file).bytes());
    fuzz::require(test::same_content(file, GgufFile(again.path())));
    gguf_sampling(file).dump();
    for (const GgufTensor& t : file.tensors()) {
      std::vector<float> values(size_t(t.elements()));
      ggml_to_f32(t.type, t.data.data(), values);
    }
    const GgufCheckpoint checkpoint(input.path());
    checkpoint.config().dump();
    for (const TensorInfo& t : checkpoint.tensors())
      fuzz::require(int64_t(checkpoint.read_all_f32(t.name).size()) == t.elements());
    Checkpoint whole;
    whole.path = input.path();
    *whole.config = checkpoint.config();
    whole.tensors = std::make_unique<GgufCheckpoint>(input.path());
    const GgufPlan plan = plan_gguf(whole, [](const std::string&, const GgufTensorInfo&) { return GgmlType::q8_0; });
    for (const GgufOutput& output : plan.outputs) {
      int64_t values = int64_t(output.values.size());
      for (const GgufPart& part : output.parts) {
        const GgufPartReader reader(*whole.tensors, part);
        std::vector<float> rows(size_t(reader.rows() * reader.columns()));
        reader.read(0, reader.rows(), rows);
        fuzz::require(reader.columns() == output.info.shape.back());
        values += int64_t(rows.size());
      }
      fuzz::require(values == output.info.elements());
    }
  } catch (const FormatError&) {
  } catch (const MismatchError&) {
  }
  return 0;
}
