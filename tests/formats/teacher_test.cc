#include <catch2/catch.hpp>

#include <cstdlib>
#include <sstream>

#include "core/digest.h"
#include "core/json.h"
#include "formats/inspect.h"
#include "formats/tensor_source.h"
#include "tests/support.h"

using namespace overproof;

// Every weight of a real 4-bit GGUF, by name, shape and bits, against transformers' own import of the same file.
TEST_CASE("the real teacher reads as transformers reads it") {
  const char* teacher = std::getenv("OVERPROOF_TEACHER");
  const std::string python = OVERPROOF_TEST_PYTHON;
  if (!teacher) FAIL("set OVERPROOF_TEACHER to SmolLM2-135M-Instruct.Q4_1.gguf; tools/fetch_teacher.sh fetches it");
  if (python.empty()) FAIL("configure with -DOVERPROOF_TEST_PYTHON=<a Python with transformers and gguf>");
  const TempFolder t;
  const Checkpoint checkpoint = open_checkpoint(teacher);
  Json ours = {{"config", *checkpoint.config}};
  for (const TensorInfo& info : checkpoint.tensors->tensors()) {
    const std::vector<float> values = checkpoint.tensors->read_all_f32(info.name);
    const Digest digest = sha256({reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)});
    ours["tensors"][info.name] = {{"shape", info.shape}, {"sha256", digest.hex()}};
  }
  write_text(t.path() / "ours.json", ours.dump());
  const fs::path script = fs::path(OVERPROOF_SOURCE_DIR) / "tests/formats/compare_teacher.py";
  const std::string command =
      "'" + python + "' '" + script.string() + "' '" + teacher + "' '" + (t.path() / "ours.json").string() + "'";
  CHECK(std::system(command.c_str()) == 0);

  CHECK_THAT(inspect(teacher).text,
             Catch::Contains("272 tensors, 134515008 elements") && Catch::Contains("tokenizer.ggml.tokens = \"[49152 values]\""));
}
