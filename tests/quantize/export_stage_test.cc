#include "quantize/export_stage.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"
#include "formats/gguf.h"
#include "formats/tensor_source.h"

using namespace overproof;

namespace {

const fs::path kModels = fs::path(OVERPROOF_SOURCE_DIR) / "tests" / "golden" / "decoder";

struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "overproof-export-XXXXXX").string();
    path = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { fs::remove_all(path); }
};

StageReport run(const ExportConfig& config, const fs::path& model, const fs::path& out) {
  fs::create_directories(out);
  Outputs outputs(out, out / "scratch");
  StageReport report = run_export(config, Inputs({{"model", {model, {}}}}), outputs);
  CHECK(outputs.folder().records().size() == 1);
  return report;
}

}  // namespace

TEST_CASE("models by transformers go into GGUF and come back whole") {
  const TemporaryFolder t;
  for (const char* name : {"llama", "smollm2", "mistral", "qwen2", "qwen3", "glm4_moe", "glm4_moe_qk_norm"}) {
    CAPTURE(name);
    const StageReport report = run({.type = "f32"}, kModels / name, t.path / name);
    CHECK(report.metrics()["type"] == "f32");
    const Checkpoint original = open_checkpoint(kModels / name), back = open_checkpoint(t.path / name);
    size_t skipped = report.metrics()["skipped"].get<size_t>();
    for (const TensorInfo& info : original.tensors->tensors()) {
      CAPTURE(info.name);
      if (!back.tensors->find(info.name)) {
        REQUIRE(skipped-- > 0);
        continue;
      }
      CHECK(back.tensors->find(info.name)->shape == info.shape);
      CHECK(back.tensors->read_all_f32(info.name) == original.tensors->read_all_f32(info.name));
    }
    CHECK(skipped == 0);
    for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
                            "intermediate_size", "tie_word_embeddings", "max_position_embeddings"}) {
      CAPTURE(key);
      if (original.config->contains(key)) CHECK((*back.config)[key] == (*original.config)[key]);
    }
    if (std::string_view(name).starts_with("glm4_moe")) {
      for (const char* key : {"n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts",
                              "routed_scaling_factor", "norm_topk_prob", "first_k_dense_replace"}) {
        CAPTURE(key);
        CHECK((*back.config)[key] == (*original.config)[key]);
      }
    }
  }
}

TEST_CASE("the type and the name are what was asked for") {
  const TemporaryFolder t;
  const StageReport report = run({.type = "bf16", .name = "tiny"}, kModels / "qwen3", t.path / "out");
  const GgufFile file(t.path / "out" / kGgufName);
  CHECK(file.text("general.name") == "tiny");
  CHECK(file.integer("general.file_type") == 32);
  CHECK(file.find("token_embd.weight")->type == GgmlType::bf16);
  CHECK(file.find("output_norm.weight")->type == GgmlType::f32);
  CHECK(report.metrics()["architecture"] == "qwen3");
  CHECK(report.metrics()["bytes_out"] == int64_t(file.bytes().size()));
  CHECK_THAT(report.summary.back(), Catch::Contains("ids only"));  // these folders have no tokenizer
}
