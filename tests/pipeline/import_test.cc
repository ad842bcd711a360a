#include "pipeline/import_stage.h"

#include <algorithm>
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
  const StageReport usable = import.run();
  CHECK(std::ranges::none_of(usable.summary, [](const std::string& s) { return s.find("its tokenizer") != std::string::npos; }));
  // One that is only unknown here can still be quantised or exported.
  import.tokenizer("\\w+");
  const StageReport report = import.run();
  CHECK_THAT(report.summary.back(), Contains("its tokenizer cannot be used here"));
}

TEST_CASE("the licence that a model states is recorded where none is given") {
  const Import import;
  import.weights({1, 2, 3, 4});
  const auto stated = [&](const std::string& readme) {
    write_text(import.folder / "model/README.md", readme);
    const StageReport report = import.run();
    return report.metrics().value("stated_license", "");
  };
  CHECK(stated("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\n") == "apache-2.0");
  CHECK(stated("---\r\nlicense: 'mit'\r\n---\r\n") == "mit");
  CHECK(stated("---\nlicense: other\nlicense_name: gemma\n---\n") == "gemma");
  CHECK(stated("# Model\nlicense: mit\n").empty());
  CHECK(stated("---\ntitle: x\n---\nlicense: mit\n").empty());
  CHECK(stated("").empty());
}

TEST_CASE("an import keeps the names of links, leaves bookkeeping out and gives a GGUF without an ending one") {
  const Import import;
  import.weights({1, 2, 3, 4});
  fs::create_directories(import.folder / "blobs");
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::rename(import.folder / "model" / name, import.folder / "blobs" / sha256(std::string_view(name)).hex());
    fs::create_symlink(import.folder / "blobs" / sha256(std::string_view(name)).hex(), import.folder / "model" / name);
  }
  write_text(import.folder / "model/.cache/huggingface/x.metadata", "when");
  CHECK(import.run().metrics()["files"] == 2);
  CHECK(fs::is_regular_file(fs::symlink_status(import.folder / "out/model.safetensors")));
  CHECK_FALSE(fs::exists(import.folder / "out/.cache"));
  write_text(import.folder / "model/caf\xe9.txt", "x");
  CHECK_THROWS_WITH(import.run(), Contains("UTF-8") && Contains("rename"));
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
  const auto noted = [&](const std::string& cause) {
    return std::ranges::count_if(report.summary, [&](const std::string& line) {
      return line.starts_with("note: ") && line.find(cause) != std::string::npos;
    });
  };
  CHECK(noted("the single file counts") == 1);
  CHECK(noted("'[PAD]'") == 1);
}
