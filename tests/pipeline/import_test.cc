#include "pipeline/import_stage.h"

#include <catch2/catch.hpp>
#include <limits>

#include "core/error.h"
#include "core/json.h"
#include "core/regex.h"
#include "formats/safetensors.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

struct Import {
  TempFolder folder;
  Import() { write_text(folder / "model/config.json", R"({"model_type": "llama"})"); }
  void weights(const std::vector<float>& values, DType dtype = DType::f32) const {
    OutputFolder out(folder / "model");
    const TensorInfo info{"w", dtype, {int64_t(values.size()) / 2, 2}};
    SafetensorsWriter writer(out, "model.safetensors", {info}, {});
    std::vector<uint8_t> bytes(size_t(info.bytes()));
    f32_to_elements(dtype, values, bytes.data());
    writer.append(bytes.data(), bytes.size());
    writer.close();
  }
  void tokenizer(const std::string& pattern) const {
    const Json split = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
    const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
    write_text(folder / "model/tokenizer.json",
               Json{{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}},
                    {"decoder", bytes},
                    {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}}}, {"merges", Json::array()}}}}
                   .dump());
  }
  StageReport run() const {
    fs::remove_all(folder / "out");
    fs::create_directories(folder / "out");
    fs::create_directories(folder / "scratch");
    Outputs outputs(folder / "out", folder / "scratch", folder / "kept", Digest{});
    return run_import({}, Inputs({{"path", {folder / "model", Digest{}}}}), outputs);
  }
};

}  // namespace

TEST_CASE("weights that are not finite are refused at import, with the tensor and the element") {
  const Import import;
  import.weights({1, 2, 3, 4});
  CHECK_NOTHROW(import.run());
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      import.weights({1, 2, bad, 4}, dtype);
      CHECK_THROWS_AS(import.run(), FormatError);
      CHECK_THROWS_WITH(import.run(), Contains("'w'") && Contains("as element 2"));
      CHECK_FALSE(fs::exists(import.folder / "out/model.safetensors"));
    }
}

TEST_CASE("a tokenizer whose pattern takes characters apart is refused at import") {
  const Import import;
  import.weights({1, 2, 3, 4});
  for (const char* pattern : {"\\C", "a\\Cb", "(unclosed"}) {
    import.tokenizer(pattern);
    CHECK_THROWS_AS(import.run(), PatternError);
  }
  import.tokenizer("[ab]+");
  CHECK(import.run().summary.size() == 1);
  // One that is only unknown here can still be quantised or exported.
  import.tokenizer("\\w+");
  const StageReport report = import.run();
  CHECK_THAT(report.summary.back(), Contains("its tokenizer cannot be used here"));
}

TEST_CASE("half a model is not imported, and what files say in two ways is noted") {
  const Import import;
  import.weights({1, 2, 3, 4});
  write_text(import.folder / "model/config.json", R"({"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 2, "vocab_size": 2})");
  CHECK_THROWS_WITH(import.run(), Contains("lacks") && Contains("model.embed_tokens.weight"));
  CHECK_FALSE(fs::exists(import.folder / "out/model.safetensors"));
  write_text(import.folder / "model/config.json", R"({"model_type": "llama"})");
  write_text(import.folder / "model/model.safetensors.index.json", R"({"weight_map": {"w": "model-00001-of-00001.safetensors"}})");
  import.tokenizer("[ab]+");
  write_text(import.folder / "model/tokenizer_config.json", R"({"pad_token": "[PAD]"})");
  const StageReport report = import.run();
  REQUIRE(report.summary.size() == 3);
  CHECK_THAT(report.summary[1], Contains("the single file counts"));
  CHECK_THAT(report.summary[2], Contains("'[PAD]'"));
}
