#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/float_bits.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "formats/ggml_blocks.h"
#include "formats/quantization_config.h"
#include "formats/safetensors.h"
#include "quantize/kernels/fp8.h"
#include "quantize/kernels/int8.h"
#include "quantize/kernels/q8_0.h"
#include "quantize/schemes/scheme.h"
#include "records/activation_statistics.h"

using namespace overproof;

namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests" / "golden";

struct Weight {
  TensorInfo info;
  std::vector<float> values;
  std::vector<uint16_t> bf16;  ///< the same, when it was stored so
};

Weight weight_of(const SafetensorsFile& file, const TensorInfo& info) {
  Weight w{info, std::vector<float>(size_t(info.elements())), {}};
  const auto bytes = file.bytes(info.name);
  elements_to_f32(info.dtype, bytes.data(), w.values);
  if (info.dtype == DType::bf16) {
    w.bf16.resize(w.values.size());
    std::memcpy(w.bf16.data(), bytes.data(), bytes.size());
  }
  return w;
}

Weight random_weight(int64_t rows, int64_t columns, const std::string& stream, double spread = 0.03) {
  Weight w{{stream + ".weight", DType::bf16, {rows, columns}}, {}, {}};
  Rng rng(11, stream);
  for (int64_t i = 0; i < rows * columns; ++i) {
    w.bf16.push_back(f32_to_bf16(float(rng.normal() * spread)));
    w.values.push_back(bf16_to_f32(w.bf16.back()));
  }
  return w;
}

struct Made {
  std::vector<TensorInfo> infos;
  std::vector<std::vector<uint8_t>> outputs;
  RowError error;
  int64_t bad_row = -1;
  bool operator==(const Made& o) const { return infos == o.infos && outputs == o.outputs; }
};

/// What the stage does with one weight, in pieces of `units` row units, from f32 or from bf16.
Made run(const Scheme& scheme, const Weight& w, int64_t units, bool bf16 = false, const LinearStatistics* statistics = nullptr) {
  const int64_t rows = w.info.shape[0], columns = w.info.shape[1], row_bytes = scheme.row_bytes(columns);
  WeightFacts facts;
  facts.statistics = statistics;
  if (scheme.needs_amax())
    for (const float x : w.values) facts.amax = std::max(facts.amax, std::abs(x));
  const auto quantizer = scheme.prepare(w.info, facts);
  Made made{scheme.outputs(w.info), {std::vector<uint8_t>(size_t(rows * row_bytes))}, {}, -1};
  std::vector<float> scales(size_t(scheme.row_scales(rows, columns)), std::nanf(""));
  const int64_t piece = units * scheme.row_unit(), pieces = (rows + piece - 1) / piece;
  std::vector<RowsResult> results(pieces);
  parallel_for(pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * piece, count = std::min(piece, rows - first), at = scheme.row_scales(first, columns);
      const auto bytes = std::span(made.outputs[0]).subspan(size_t(first * row_bytes), size_t(count * row_bytes));
      const auto own = std::span(scales).subspan(size_t(at), size_t(scheme.row_scales(first + count, columns) - at));
      if (bf16) {
        results[p] = quantizer->quantize_bf16(
            first, count, std::span(w.bf16).subspan(size_t(first * columns), size_t(count * columns)), bytes, own);
      } else {
        std::vector<float> x(w.values.begin() + first * columns, w.values.begin() + (first + count) * columns);
        results[p] = quantizer->quantize(first, count, x, bytes, own);
      }
    }
  });
  for (const RowsResult& result : results) {
    made.error += result.error;
    if (made.bad_row < 0) made.bad_row = result.bad_row;
  }
  for (size_t which = 1; which < made.infos.size(); ++which) made.outputs.push_back(quantizer->side_output(int(which), scales));
  REQUIRE(made.outputs.size() == made.infos.size());
  for (size_t i = 0; i < made.infos.size(); ++i) REQUIRE(int64_t(made.outputs[i].size()) == made.infos[i].bytes());
  return made;
}

std::vector<float> f32_of(const std::vector<uint8_t>& bytes) {
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

/// Dequantizes a scheme's output, by the definition of its format.
std::vector<float> dequantized(const Scheme& scheme, const Weight& w, const Made& made) {
  const int64_t rows = w.info.shape[0], columns = w.info.shape[1];
  std::vector<float> out(w.values.size());
  if (scheme.format() == "gguf") {
    ggml_to_f32(GgmlType::q8_0, made.outputs[0].data(), out);
    return out;
  }
  const bool mx = scheme.name() == "mxfp8", blocks = scheme.row_unit() > 1, packed = scheme.format() == "pack-quantized";
  const std::vector<int64_t>& shape = made.infos[1].shape;
  const int64_t height = blocks ? 128 : shape[0] == 1 && rows > 1 ? rows : 1;
  const int64_t across = shape.size() == 2 ? shape[1] : 1, width = blocks ? 128 : (columns + across - 1) / across;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const size_t at = size_t(r / height * across + c / width);
      const float scale = mx ? e8m0_value(made.outputs[1][at]) : f32_of(made.outputs[1])[at];
      const uint8_t code = made.outputs[0][size_t(r * scheme.row_bytes(columns) + c)];
      float value = 0;
      if (made.infos[0].dtype == DType::f8_e4m3) value = f8_e4m3_to_f32(code);
      else value = packed ? float(int(code) - 128) : float(int8_t(code));
      out[size_t(r * columns + c)] = value * scale;
    }
  return out;
}

RowError measured(const Weight& w, const std::vector<float>& back) {
  RowError error;
  for (size_t i = 0; i < back.size(); ++i) {
    const double x = w.values[i], difference = x - back[i];
    error += {x * x, difference * difference};
  }
  return error;
}

std::vector<std::unique_ptr<Scheme>> data_free_schemes() {
  std::vector<std::unique_ptr<Scheme>> list;
  for (const std::string& name : scheme_names())
    if (name != "w8a8-static") list.push_back(find_scheme(name, {}));
  list.push_back(find_scheme("fp8", {.per_tensor = true}));
  for (const char* name : {"int8", "int8-g128", "fp8", "fp8-block"})
    list.push_back(find_scheme(name, {.clipping = Clipping::mse}));
  return list;
}

Json without_nulls(Json value) {
  if (!value.is_structured()) return value;
  for (auto it = value.begin(); it != value.end();) {
    if (it->is_null()) {
      it = value.erase(it);
    } else {
      *it = without_nulls(*it);
      ++it;
    }
  }
  return value;
}

}  // namespace

TEST_CASE("codes and scales equal those of compressed-tensors byte for byte") {
  const SafetensorsFile weights(kGolden / "eight_bit" / "weights.safetensors");
  for (const char* name : {"int8-g128", "w8a8", "fp8", "fp8-block", "mxfp8"}) {
    const auto scheme = find_scheme(name, {});
    const SafetensorsFile golden(kGolden / "eight_bit" / (std::string(name) + ".safetensors"));
    std::set<std::string> seen;
    for (const TensorInfo& info : weights.tensors()) {
      CAPTURE(name, info.name);
      const std::string module = info.name.substr(0, info.name.size() - 6);
      if (!scheme->takes(info)) {
        CHECK_FALSE(golden.contains(module + "weight_scale"));
        continue;
      }
      const Weight w = weight_of(weights, info);
      const Made made = run(*scheme, w, 1);
      if (!w.bf16.empty()) CHECK(run(*scheme, w, 2, true) == made);
      for (size_t i = 0; i < made.infos.size(); ++i) {
        CAPTURE(made.infos[i].name);
        REQUIRE(golden.contains(made.infos[i].name));
        seen.insert(made.infos[i].name);
        const TensorInfo& expected = golden.info(made.infos[i].name);
        CHECK(expected.dtype == made.infos[i].dtype);
        CHECK(expected.shape == made.infos[i].shape);
        CHECK(std::ranges::equal(golden.bytes(expected.name), made.outputs[i]));
      }
    }
    CHECK(seen.size() == golden.tensors().size());
    CHECK(without_nulls(scheme->config_group()) ==
          without_nulls(read_json(kGolden / "eight_bit" / (std::string(name) + ".json"))));
  }
}

TEST_CASE("fp8-native holds the bytes of fp8-block under DeepSeek's names") {
  const auto block = find_scheme("fp8-block", {}), native = find_scheme("fp8-native", {});
  const Weight w = random_weight(300, 200, "native");
  const Made a = run(*block, w, 1), b = run(*native, w, 1);
  CHECK(a.outputs == b.outputs);
  CHECK(b.infos[0].name == "native.weight");
  CHECK(b.infos[1] == TensorInfo{"native.weight_scale_inv", DType::f32, {3, 2}});
  const Json config = native->quantization_config({"lm_head", "re:.*mlp.gate$"});
  CHECK(config == Json{{"quant_method", "fp8"},
                       {"fmt", "e4m3"},
                       {"activation_scheme", "dynamic"},
                       {"weight_block_size", {128, 128}},
                       {"modules_to_not_convert", {"lm_head", ".*mlp.gate$"}}});
  CHECK(block->quantization_config({"lm_head"})["ignore"] == Json({"lm_head"}));
  CHECK(block->quantization_config({})["config_groups"]["group_0"] == block->config_group());
}

TEST_CASE("Q8_0 rows equal llama.cpp's byte for byte") {
  const SafetensorsFile weights(kGolden / "q8_0" / "weights.safetensors"), golden(kGolden / "q8_0" / "blocks.safetensors");
  const auto scheme = find_scheme("q8_0", {});
  REQUIRE(weights.tensors().size() == golden.tensors().size());
  for (const TensorInfo& info : weights.tensors()) {
    CAPTURE(info.name);
    const Weight w = weight_of(weights, info);
    const Made made = run(*scheme, w, 3);
    CHECK(made.bad_row == -1);
    CHECK(made.infos == std::vector<TensorInfo>{golden.info(info.name)});
    CHECK(std::ranges::equal(golden.bytes(info.name), made.outputs[0]));
    if (!w.bf16.empty()) CHECK(run(*scheme, w, 1, true) == made);
  }
  CHECK(scheme->quantization_config({"lm_head"}).is_null());
  CHECK_FALSE(scheme->takes({"a.weight", DType::f32, {4, 48}}));
}

TEST_CASE("bytes do not depend on pieces, threads or input type, and error sums are those of the values") {
  for (const auto& scheme : data_free_schemes())
    for (const auto& [rows, columns] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 128}, {5, 1}, {130, 384}, {257, 300}, {129, 33}, {2, 4224}}) {
      const Weight w = random_weight(rows, columns, "pieces" + std::to_string(columns));
      CAPTURE(std::string(scheme->name()), rows, columns);
      if (!scheme->takes(w.info)) continue;
      const Made whole = run(*scheme, w, 1000);
      set_thread_count(4);
      CHECK(run(*scheme, w, 1) == whole);
      set_thread_count(1);
      CHECK(run(*scheme, w, 1, true) == whole);
      set_thread_count(0);
      for (const RowKernels* kernels : all_row_kernels()) {
        use_row_kernels(*kernels);
        CHECK(run(*scheme, w, 2, true) == whole);
      }
      const RowError expected = measured(w, dequantized(*scheme, w, whole));
      CHECK(whole.error.signal == Approx(expected.signal).epsilon(1e-5));
      CHECK(whole.error.noise == Approx(expected.noise).epsilon(1e-4).margin(1e-12 * expected.signal));
    }
}

TEST_CASE("the first row with an infinity or NaN is reported by every scheme") {
  for (const auto& scheme : data_free_schemes())
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      Weight w = random_weight(260, 256, "bad");
      for (const auto& [row, column] : std::vector<std::pair<int64_t, int64_t>>{{250, 0}, {140, 130}, {135, 255}}) {
        w.values[size_t(row * 256 + column)] = bad;
        w.bf16[size_t(row * 256 + column)] = f32_to_bf16(bad);
        CAPTURE(std::string(scheme->name()), row);
        CHECK(run(*scheme, w, 1).bad_row == row);
        CHECK(run(*scheme, w, 1000).bad_row == row);
        CHECK(run(*scheme, w, 1000, true).bad_row == row);
      }
    }
}

TEST_CASE("zero rows, tiny rows and the largest numbers come back finite, zeros as zeros") {
  for (const auto& scheme : data_free_schemes()) {
    CAPTURE(std::string(scheme->name()));
    Weight w{{"edges.weight", DType::f32, {6, 128}}, std::vector<float>(6 * 128), {}};
    for (size_t c = 0; c < 128; ++c) {
      w.values[128 + c] = 1e-42f;
      w.values[2 * 128 + c] = -0.0f;
      w.values[3 * 128 + c] = c == 5 ? 448.0f : -448.0f;
      w.values[4 * 128 + c] = 1e-37f * float(c);
      w.values[5 * 128 + c] = (scheme->format() == "gguf" ? 8e6f : 3.1e38f) * (c % 2 ? 1.0f : -1.0f);
    }
    const bool shared =
        scheme->row_unit() > 1 || scheme->needs_amax();  // with the largest number in the same scale all others round to zero
    const std::vector<float> back = dequantized(*scheme, w, run(*scheme, w, 1));
    for (size_t i = 0; i < back.size(); ++i) {
      if (!std::isfinite(back[i])) FAIL("element " << i);
      if (i / 128 != 5 && i / 128 != 3 && std::abs(back[i]) > 1e-34f) FAIL("element " << i << " is " << back[i]);
      if (i / 128 == 5 && std::abs(back[i] / w.values[i] - 1) > 0.14f) FAIL("element " << i << " is " << back[i]);
      if (i / 128 == 3 && !shared && std::abs(back[i] / w.values[i] - 1) > 0.01f) FAIL("element " << i << " is " << back[i]);
    }
  }
}

TEST_CASE("MSE clipping never does worse, and does better where one outlier sets the scale") {
  Weight w = random_weight(128, 1024, "outliers");
  for (size_t r = 0; r < 128; ++r) w.values[r * 1024 + r] = 0.21f;
  for (const char* name : {"int8", "int8-g128", "w8a8", "fp8", "fp8-block", "fp8-native"}) {
    CAPTURE(name);
    const double absmax = run(*find_scheme(name, {}), w, 1).error.noise,
                 mse = run(*find_scheme(name, {.clipping = Clipping::mse}), w, 1).error.noise;
    CHECK(mse < absmax);
  }
}

TEST_CASE("w8a8-static uses the recorded range as compressed-tensors does, and refuses to run without one") {
  const Weight w = random_weight(4, 8, "model.layers.0.mlp.up_proj");
  for (const Json& item : read_json(kGolden / "eight_bit" / "activations.json")) {
    LinearStatistics statistics;
    statistics.least = item["least"].get<float>();
    statistics.largest = item["largest"].get<float>();
    const bool symmetric = item["symmetric"].get<bool>();
    const auto scheme = find_scheme("w8a8-static", {.asymmetric = !symmetric});
    const Made made = run(*scheme, w, 1, false, &statistics);
    CAPTURE(statistics.least, statistics.largest, symmetric);
    REQUIRE(made.infos.size() == (symmetric ? 3 : 4));
    CHECK(made.infos[2] == TensorInfo{"model.layers.0.mlp.up_proj.input_scale", DType::f32, {1}});
    CHECK(f32_bits(f32_of(made.outputs[2])[0]) == item["scale_bits"].get<uint32_t>());
    if (!symmetric) {
      CHECK(made.infos[3] == TensorInfo{"model.layers.0.mlp.up_proj.input_zero_point", DType::i8, {1}});
      CHECK(int(int8_t(made.outputs[3][0])) == item["zero_point"].get<int>());
    }
    CHECK(scheme->config_group()["input_activations"]["symmetric"] == symmetric);
    CHECK(scheme->config_group()["input_activations"]["dynamic"] == false);
    CHECK(made.outputs[0] == run(*find_scheme("w8a8", {}), w, 1).outputs[0]);
  }
  CHECK_THROWS_WITH(find_scheme("w8a8-static", {})->prepare(w.info, {}), Catch::Contains("up_proj") && Catch::Contains("w8a8"));
  LinearStatistics broken;
  broken.largest = std::numeric_limits<float>::infinity();
  WeightFacts facts;
  facts.statistics = &broken;
  CHECK_THROWS_AS(find_scheme("w8a8-static", {})->prepare(w.info, facts), DivergenceError);
}

TEST_CASE("fp8 per tensor has one scale, and needs the largest magnitude") {
  const auto scheme = find_scheme("fp8", {.per_tensor = true});
  CHECK(scheme->needs_amax());
  CHECK(scheme->row_scales(10, 10) == 0);
  Weight w = random_weight(6, 50, "tensor");
  w.values[77] = -1.75f;
  const Made made = run(*scheme, w, 1);
  CHECK(made.infos[1].shape == std::vector<int64_t>{1});
  CHECK(f32_of(made.outputs[1]) == std::vector<float>{1.75f / 448});
  CHECK(int(made.outputs[0][77]) == 0xfe);
  CHECK(scheme->config_group()["weights"]["strategy"] == "tensor");
}

TEST_CASE("shapes that a format cannot hold are not taken, and options that a scheme lacks are refused by name") {
  CHECK_FALSE(find_scheme("int8-g128", {})->takes({"a.weight", DType::f32, {4, 200}}));
  CHECK(find_scheme("int8-g128", {})->takes({"a.weight", DType::f32, {4, 256}}));
  CHECK_FALSE(find_scheme("mxfp8", {})->takes({"a.weight", DType::f32, {4, 33}}));
  CHECK_FALSE(find_scheme("fp8-block", {})->takes({"a.weight", DType::f32, {4, 4, 4}}));
  CHECK(find_scheme("fp8-block", {})->takes({"a.weight", DType::f32, {3, 5}}));
  CHECK_THROWS_WITH(find_scheme("q8_0", {.clipping = Clipping::mse}), Catch::Contains("llama.cpp"));
  CHECK_THROWS_WITH(find_scheme("mxfp8", {.clipping = Clipping::mse}), Catch::Contains("powers of two"));
  CHECK_THROWS_WITH(find_scheme("int8", {.per_tensor = true}), Catch::Contains("'fp8'"));
  CHECK_THROWS_WITH(find_scheme("fp8", {.asymmetric = true}), Catch::Contains("asymmetric"));
  CHECK_THROWS_AS(find_scheme("fp8", {.clipping = Clipping::mse, .per_tensor = true}), UsageError);
  CHECK_THROWS_WITH(find_scheme("int4", {}), Catch::Contains("int8-g128"));
}

TEST_CASE("typed members of a scheme agree with its quantization_config") {
  for (const std::string& name : scheme_names())
    for (const bool asymmetric : {false, true}) {
      if (asymmetric && !name.starts_with("w8a8")) continue;
      CAPTURE(name, asymmetric);
      const auto scheme = find_scheme(name, {.asymmetric = asymmetric});
      const Json json = scheme->quantization_config({});
      CHECK(json.is_null() == (scheme->container() == Container::gguf));
      if (json.is_null()) continue;
      const QuantizationConfig config("config.json", json);
      CHECK((config.dialect() == QuantDialect::fp8) == (scheme->container() == Container::deepseek_fp8));
      const QuantGroup& group = config.groups().at(0);
      CHECK((group.weights->strategy == QuantStrategy::group ? group.weights->group_size : 0) == scheme->weight_group());
      CHECK(scheme->int8_layout().has_value() == (group.weights->type == QuantType::integer));
      const auto rounding = scheme->input_rounding();
      REQUIRE(rounding.has_value() == group.input_activations.has_value());
      if (!rounding) continue;
      const QuantArgs& inputs = *group.input_activations;
      CHECK((rounding->type == ActivationRounding::Type::fp8) == (inputs.type == QuantType::floating));
      CHECK(rounding->symmetric == inputs.symmetric);
      CHECK(rounding->is_static == !inputs.dynamic);
      CHECK(rounding->power_of_two == inputs.power_of_two_scale);
      CHECK(rounding->group == (inputs.strategy == QuantStrategy::group ? inputs.group_size : 0));
    }
}
