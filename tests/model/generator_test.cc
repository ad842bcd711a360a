// Generation with weights as they are stored: the bits of the same weights in f32.

#include "model/generator.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "core/json.h"
#include "core/stage.h"
#include "formats/gguf.h"
#include "formats/integer_codes.h"
#include "model/decoder.h"
#include "quantize/export_stage.h"
#include "quantize/quantize_stage.h"
#include "student/tiny_teacher_stage.h"
#include "tests/model/random_model.h"
#include "tests/support.h"

namespace overproof {
namespace {

using at::Tensor;

/// Another source as numbers in f32: without codes and with no narrow type.
class Widened : public TensorSource {
 public:
  explicit Widened(const TensorSource& source) : source_(source), infos_(source.tensors()) {
    for (TensorInfo& info : infos_) info.dtype = DType::f32;
  }
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override {
    source_.read_f32(name, first_row, rows, out);
  }

 private:
  const TensorSource& source_;
  std::vector<TensorInfo> infos_;
};

/// Random matrices as codes with a layout, as 4-bit formats have them.
class CodedSource : public TensorSource, public IntegerCodes {
 public:
  CodedSource(const ModelConfig& config, CodeLayout layout) : source_(config), layout_(layout) {}
  const std::vector<TensorInfo>& tensors() const override { return source_.tensors(); }
  const TensorInfo* find(std::string_view name) const override { return source_.find(name); }
  std::optional<CodeLayout> code_layout(std::string_view name) const override {
    return find(name)->shape.size() == 2 && name.find("mlp.gate.weight") == std::string_view::npos ? std::optional(layout_) : std::nullopt;
  }
  void read_codes(std::string_view name, int64_t first_row, int64_t rows, const CodeRows& out) const override {
    const int64_t columns = find(name)->row_elements(), blocks = layout_.blocks(columns);
    std::vector<float> values(size_t(rows * columns));
    source_.read_f32(name, first_row, rows, values);
    for (size_t i = 0; i < values.size(); ++i) out.codes[i] = int8_t(std::lround(std::clamp(values[i] * 60, -128.0f, 127.0f)));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t b = 0; b < blocks; ++b) {
        out.scales[size_t(r * blocks + b)] = 0.01f + 0.001f * float((first_row + r + 3 * b) % 7);
        if (layout_.has_offsets) out.offsets[size_t(r * blocks + b)] = 0.02f * float((first_row + r + b) % 5 - 2);
      }
  }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override {
    if (!code_layout(name)) return source_.read_f32(name, first_row, rows, out);
    const int64_t columns = find(name)->row_elements(), blocks = layout_.blocks(columns);
    std::vector<int8_t> codes(out.size());
    std::vector<float> scales(size_t(rows * blocks)), offsets(layout_.has_offsets ? scales.size() : 0);
    read_codes(name, first_row, rows, {codes, scales, offsets});
    for (int64_t i = 0; i < int64_t(out.size()); ++i) {
      const auto factor = size_t(i / columns * blocks + i % columns / layout_.block);
      out[size_t(i)] = float(codes[size_t(i)]) * scales[factor];
      if (layout_.has_offsets) out[size_t(i)] += offsets[factor];
    }
  }

 private:
  RandomSource source_;
  CodeLayout layout_;
};

/// A prompt, one token, several tokens: the hidden states, and the logits of the last.
std::vector<Tensor> written(const Generator& generator) {
  const Tensor tokens = (at::arange(24) * 31 + 5).remainder(97).unsqueeze(0).to(at::kLong);
  KvCache cache;
  std::vector<Tensor> all;
  for (const auto& [first, count] : {std::pair{0, 9}, {9, 1}, {10, 1}, {11, 13}})
    all.push_back(generator.hidden_cached(tokens.narrow(1, first, count), cache));
  all.push_back(generator.next_logits(all.back()));
  return all;
}

void check_equal(const Generator& a, const Generator& b) {
  const std::vector<Tensor> left = written(a), right = written(b);
  for (size_t i = 0; i < left.size(); ++i) {
    CAPTURE(i);
    CHECK(left[i].isfinite().all().item<bool>());
    CHECK(at::equal(left[i], right[i]));
  }
}

fs::path made(const TempFolder& folder, const std::string& name, const std::function<void(Outputs&)>& stage) {
  fs::create_directories(folder.path() / name);
  Outputs outputs(folder.path() / name, folder.path() / (name + ".scratch"));
  stage(outputs);
  return folder.path() / name;
}

}  // namespace

TEST_CASE("weights in the forms of checkpoints give the bits of the same weights in f32") {
  const ModelConfig config = GENERATE(false, true) ? random_moe_config() : random_dense_config();
  const TempFolder folder;
  const RandomSource source(config);
  const DType dtype = GENERATE(DType::f32, DType::bf16, DType::f16);
  CAPTURE(dtype_name(dtype), config.is_moe());
  OutputFolder out(folder.path());
  save_decoder(Decoder(config, source), out, dtype);
  const Checkpoint checkpoint = open_checkpoint(folder.path());
  const Generator generator(checkpoint), wide(config, Widened(*checkpoint.tensors));
  check_equal(generator, wide);
  CHECK(wide.forms() == "f32");
  CHECK(generator.forms().starts_with(dtype == DType::f32 ? "f32" : dtype == DType::bf16 ? "bf16" : "f16"));
  if (dtype != DType::f32) CHECK(generator.bytes_per_token() < 0.6 * double(wide.bytes_per_token()));
}

TEST_CASE("integer codes give the bits of their values") {
  const ModelConfig config = GENERATE(false, true) ? random_moe_config() : random_dense_config();
  const CodeLayout layout = GENERATE(CodeLayout{1 << 20, false}, CodeLayout{16, false}, CodeLayout{32, true}, CodeLayout{128, false});
  CAPTURE(layout.block, layout.has_offsets, config.is_moe());
  const CodedSource source(config, layout);
  const Generator generator(config, source), wide(config, Widened(source));
  check_equal(generator, wide);
  CHECK(generator.forms().starts_with("int8"));
  CHECK(generator.bytes_per_token() < 0.6 * double(wide.bytes_per_token()));
  // A block that vectors cannot take is read as numbers.
  const CodedSource odd(config, {24, true});
  CHECK(Generator(config, odd).forms().starts_with("f32"));
  check_equal(Generator(config, odd), Generator(config, Widened(odd)));
}

TEST_CASE("bytes of a token leave out experts that it does not choose, and all but a row of an untied embedding") {
  const ModelConfig config = random_moe_config();
  const RandomSource source(config);
  double bytes = 0;
  for (const TensorInfo& t : source.tensors()) {
    if (t.name.find(".experts.") != std::string::npos) bytes += 4.0 * double(t.elements() * config.top_k) / double(config.n_routed_experts);
    else if (t.name == "model.embed_tokens.weight") bytes += 4.0 * double(config.hidden_size);
    else bytes += 4.0 * double(t.elements());
  }
  CHECK(std::abs(double(Generator(config, source).bytes_per_token()) - bytes) <= 1);
}

TEST_CASE("8-bit and GGUF checkpoints are written from as they are stored, with the same tokens") {
  const TempFolder folder;
  const fs::path model = made(folder, "model", [](Outputs& outputs) {
    run_tiny_teacher({.layers = 2, .hidden_size = 128, .intermediate_size = 256}, Inputs({}), outputs);
  });
  const Inputs inputs({{"model", {model, {}}}});
  const auto quantized = [&](const std::string& scheme, const std::string& form) {
    CAPTURE(scheme);
    const fs::path path = made(folder, scheme, [&](Outputs& outputs) { run_quantize({.scheme = scheme}, inputs, outputs); });
    const Checkpoint checkpoint = open_checkpoint(path), same = open_checkpoint(path);
    const Generator generator(checkpoint);
    CHECK(generator.forms().find(form) != std::string::npos);
    CHECK((generator.forms().find("int8") != std::string::npos) == (form != "f32"));
    Checkpoint wide = open_checkpoint(path);
    wide.tensors = std::make_unique<Widened>(*same.tensors);
    check_equal(generator, Generator(wide));
  };
  quantized("int8", "int8");
  quantized("int8-g128", "int8");
  quantized("w8a8", "int8");
  quantized("fp8", "f32");  // has no integers
  quantized("q8_0", "int8 in blocks of 32");
  const fs::path gguf = made(folder, "gguf", [&](Outputs& outputs) { run_export({.type = GgmlType::bf16}, inputs, outputs); });
  CHECK(Generator(open_checkpoint(gguf)).forms().starts_with("bf16"));
}

}  // namespace overproof
