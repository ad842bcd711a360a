// 8-bit checkpoints: as peers decode them, bit for bit; modules in the config; and what is refused.
#include <catch2/catch.hpp>

#include <cstring>
#include <sstream>

#include "core/error.h"
#include "core/json.h"
#include "formats/inspect.h"
#include "formats/quantization_config.h"
#include "formats/quantized_checkpoint.h"
#include "formats/sharded.h"
#include "tests/formats/contract.h"
#include "tests/support.h"

using namespace overproof;
using namespace overproof::test;

namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden";

void expect_values(const fs::path& folder) {
  CAPTURE(folder);
  const Checkpoint checkpoint = open_checkpoint(folder);
  const SafetensorsFile expected(folder / "expected.safetensors");
  REQUIRE(checkpoint.tensors->tensors().size() == expected.tensors().size());
  for (const TensorInfo& t : expected.tensors()) {
    CAPTURE(t.name);
    REQUIRE(checkpoint.tensors->find(t.name));
    CHECK(checkpoint.tensors->find(t.name)->shape == t.shape);
    const std::vector<float> values = checkpoint.tensors->read_all_f32(t.name);
    const std::span<const uint8_t> wanted = expected.bytes(t.name);
    REQUIRE(values.size() * 4 == wanted.size());
    CHECK(std::memcmp(values.data(), wanted.data(), wanted.size()) == 0);
  }
  check_contract(*checkpoint.tensors);
}

/// A checkpoint of given tensors, all bytes zero but weight_shape {rows, columns}; and the config around its groups.
void write_stored(const fs::path& folder, const std::vector<TensorInfo>& tensors, int64_t rows, int64_t columns) {
  OutputFolder out(folder);
  SafetensorsWriter writer(out, "model.safetensors", tensors);
  for (const TensorInfo& info : tensors) {
    std::string data(size_t(info.bytes()), '\0');
    if (info.name == "m.weight_shape" && info.bytes() == 16) {
      std::memcpy(data.data(), &rows, 8);
      std::memcpy(data.data() + 8, &columns, 8);
    } else if (info.name == "m.weight_shape" && info.dtype == DType::i32) {
      const int32_t narrow[2] = {int32_t(rows), int32_t(columns)};
      std::memcpy(data.data(), narrow, 8);
    }
    writer.append(data.data(), data.size());
  }
  writer.close();
}

Json config_with(const std::string& format, const Json& weights) {
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}}};
}

void check_refused(const Json& quantization, const std::vector<TensorInfo>& tensors, const std::string& cause, int64_t rows = 2,
                   int64_t columns = 8) {
  const TempFolder t;
  write_stored(t.path(), tensors, rows, columns);
  write_text(t.path() / "config.json", Json{{"quantization_config", quantization}}.dump());
  CHECK_THROWS_AS(open_checkpoint(t.path()), FormatError);
  CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains(cause));
}

void expect_opens(const Json& quantization, const std::vector<TensorInfo>& tensors, const std::string& name, int64_t rows = 2,
                  int64_t columns = 8) {
  const TempFolder t;
  write_stored(t.path(), tensors, rows, columns);
  write_text(t.path() / "config.json", Json{{"quantization_config", quantization}}.dump());
  const Checkpoint checkpoint = open_checkpoint(t.path());
  CHECK(checkpoint.tensors->find(name));
  check_contract(*checkpoint.tensors);
}

}  // namespace

TEST_CASE("8-bit weights that peers wrote are read as they read them") {
  for (const std::string name : {"formats_packed_int8", "formats_8bit/int_quantized", "formats_8bit/pack_asymmetric",
                                 "formats_8bit/float_quantized", "formats_8bit/naive_quantized", "formats_8bit/mxfp8",
                                 "formats_8bit/mixed_precision", "formats_8bit/fp8_native", "formats_8bit/fp8_tensor"}) {
    expect_values(kGolden / name);
  }
}

TEST_CASE("integers with scales alone can be read as codes, which make the same values") {  // check_contract compares them
  const auto count = [](const std::string& name) { return tensors_with_codes(*open_checkpoint(kGolden / name).tensors); };
  for (const char* name : {"formats_packed_int8", "formats_8bit/int_quantized", "formats_8bit/naive_quantized"}) {
    CAPTURE(name);
    CHECK(count(name) > 0);
  }
  // Zero points, and numbers of 8 bits.
  for (const char* name : {"formats_8bit/pack_asymmetric", "formats_8bit/float_quantized", "formats_8bit/mxfp8", "formats_8bit/fp8_native"}) {
    CAPTURE(name);
    CHECK(count(name) == 0);
  }
}

TEST_CASE("modules belong to the groups that the peers find for them") {
  const Json matching = read_json(kGolden / "formats_8bit/matching.json");
  Json q = {{"quant_method", "compressed-tensors"}, {"ignore", matching["ignore"]}};
  for (const auto& [name, targets] : matching["targets"].items()) q["config_groups"][name] = {{"targets", targets}};
  QuantizationConfig config("config.json", q);
  REQUIRE(matching["groups"].size() == 9);
  for (const auto& [module, group] : matching["groups"].items()) {
    CAPTURE(module);
    const QuantGroup* found = config.group_for(module);
    CHECK((found ? Json(found->name) : Json()) == group);
  }
  config.add_plain("model.embed_tokens");
  CHECK(config.group_for("model.embed_tokens") == nullptr);
  CHECK(config.is_ignored("model.embed_tokens"));

  const QuantizationConfig fp8("config.json",
                               {{"quant_method", "fp8"}, {"modules_to_not_convert", matching["modules_to_not_convert"]}});
  for (const auto& [module, converted] : matching["converted"].items()) {
    CAPTURE(module);
    CHECK(fp8.is_ignored(module) != converted.get<bool>());
  }
}

TEST_CASE("the config gives the rounding of activations") {
  const auto config_of = [](const std::string& name) { return open_checkpoint(kGolden / "formats_8bit" / name); };
  const Checkpoint ints = config_of("int_quantized");
  REQUIRE(ints.quantization);
  const QuantGroup* q = ints.quantization->group_for("model.layers.0.self_attn.q_proj");
  REQUIRE(q);
  CHECK(q->format == "int-quantized");
  CHECK(q->weights == QuantArgs{8, QuantType::integer, QuantStrategy::channel});
  CHECK(q->input_activations == QuantArgs{8, QuantType::integer, QuantStrategy::token, true, true});
  CHECK_FALSE(q->output_activations);
  const QuantGroup* down = ints.quantization->group_for("model.layers.1.mlp.down_proj");
  REQUIRE(down);
  CHECK(down->input_activations == QuantArgs{8, QuantType::integer, QuantStrategy::tensor, false, false});
  CHECK(ints.tensors->read_all_f32("model.layers.1.mlp.down_proj.input_zero_point") == std::vector<float>{-3});
  CHECK(is_activation_parameter("model.layers.1.mlp.down_proj.input_scale"));
  CHECK_FALSE(is_activation_parameter("model.layers.1.mlp.down_proj.weight_scale"));
  CHECK(ints.quantization->group_for("model.layers.0.mlp.up_proj")->weights->group_size == 4);
  CHECK(ints.quantization->group_for("model.layers.0.mlp.gate") == nullptr);
  CHECK(ints.quantization->group_for("lm_head") == nullptr);

  const Checkpoint blocks = config_of("float_quantized");
  const auto weights = blocks.quantization->group_for("model.layers.0.mlp.up_proj")->weights;
  CHECK((weights->strategy == QuantStrategy::block && weights->block == std::array<int64_t, 2>{128, 128}));
  CHECK(config_of("mxfp8").quantization->group_for("model.layers.0.mlp.up_proj")->weights->power_of_two_scale);
  const Checkpoint native = config_of("fp8_native"), tensor = config_of("fp8_tensor");
  CHECK(native.quantization->dialect() == QuantDialect::fp8);
  CHECK(native.quantization->groups()[0].input_activations ==
        QuantArgs{8, QuantType::floating, QuantStrategy::group, true, true, 128});
  CHECK(native.quantization->group_for("lm_head") == nullptr);
  CHECK(tensor.quantization->groups()[0].input_activations ==
        QuantArgs{8, QuantType::floating, QuantStrategy::tensor, true, false});
  CHECK(open_checkpoint(kGolden / "decoder/llama").quantization == nullptr);

  CHECK_THAT(inspect_model({false, true}, kGolden / "formats_8bit/fp8_tensor").text,
             Catch::Contains("linear         model.layers.0.mlp.up_proj.weight  [4, 6]  from 8 bits (fp8)  ") &&
                 Catch::Contains("quantization   model.layers.0.mlp.up_proj.activation_scale  []  ") &&
                 Catch::Contains("2 tensors"));
}

TEST_CASE("unsupported quantization_configs are refused with the cause") {
  const Json good = read_json(kGolden / "formats_packed_int8/config.json")["quantization_config"];
  const auto refused = [&](const std::string& pointer, const Json& value, const std::string& cause) {
    Json q = good;
    q[Json::json_pointer(pointer)] = value;
    CAPTURE(pointer, value.dump());
    const auto open = [&] {
      QuantizationConfig config("config.json", q);
      QuantizedCheckpoint(kGolden / "formats_packed_int8", config);
    };
    CHECK_THROWS_AS(open(), FormatError);
    CHECK_THROWS_WITH(open(), Catch::Contains(cause));
  };
  const std::string weights = "/config_groups/group_0/weights";
  refused("/quant_method", "gptq", "quant_method");
  refused("/format", "marlin-24", "'marlin-24' of group_0 cannot be read");
  refused("/config_groups", Json::object(), "config_groups");
  refused("/config_groups/group_0", Json::array({"Linear"}), "not a JSON object");
  refused("/config_groups/group_0/format", "marlin-24", "'marlin-24' of group_0 cannot be read");
  refused("/config_groups/group_0/format", "int-quantized", "not what format 'int-quantized' stores");
  refused("/config_groups/group_0/targets", Json::array({"re:("}), "not a valid regular expression");
  refused("/config_groups/group_0/targets", Json::array({1}), "targets[0]' is not a string");
  refused("/config_groups/group_0/weights", Json(), "targets its weight");
  refused("/ignore", Json::array({"re:.*down_proj"}), "ignores it");
  refused("/sparsity_config", {{"format", "sparse-bitmask"}}, "sparse");
  refused("/transform_config", {{"config_groups", {{"R1", 1}}}}, "rotated");
  refused(weights + "/num_bits", 4, "num_bits is 4");
  refused(weights + "/num_bits", -8, "num_bits' is -8; allowed: 1 to 32");
  refused(weights + "/num_bits", 1e9, "not a whole number");
  refused(weights + "/type", "float", "but float");
  refused(weights + "/type", "posit", "int and float are known");
  refused(weights + "/symmetric", false, "no weight_zero_point");
  refused(weights + "/symmetric", "yes", "not true or false");
  refused(weights + "/dynamic", true, "dynamically");
  refused(weights + "/strategy", "group", "group_size' is missing");
  refused(weights + "/strategy", "tensor", "scales of a weight [6, 11] quantised per tensor are [1, 1]; the file has [6, 1]");
  refused(weights + "/strategy", "token", "per token");
  refused(weights + "/strategy", "none", "not known");
  refused(weights + "/strategy", "block", "block_structure' is missing");
  refused(weights + "/group_size", 1.5, "not a whole number");
  const auto fp8 = [](const Json& extra, const std::string& cause) {
    Json q = {{"quant_method", "fp8"}};
    q.update(extra);
    CHECK_THROWS_WITH(QuantizationConfig("config.json", q), Catch::Contains(cause));
  };
  fp8({{"fmt", "e5m2"}}, "only e4m3");
  fp8({{"expert_dtype", "fp4"}}, "expert_dtype");
  fp8({{"weight_block_size", {128}}}, "not a pair");
  fp8({{"weight_block_size", {128, 0}}}, "positive whole numbers");
  fp8({{"activation_scheme", "sometimes"}}, "dynamic and static");
  fp8({{"modules_to_not_convert", {"("}}}, "not a valid regular expression");
  CHECK_THROWS_WITH(QuantizationConfig("config.json", "fp8"), Catch::Contains("quantization_config"));
  // A pattern made to take forever gives up instead, and matches nothing.
  const QuantizationConfig slow("config.json", {{"quant_method", "compressed-tensors"},
                                                {"config_groups", {{"g", {{"targets", {"re:(a*)*(a*)*(a*)*b"}}}}}}});
  CHECK(slow.group_for(std::string(200, 'a')) == nullptr);
}

TEST_CASE("quantised tensors that do not go together are refused") {
  const Json pack = config_with("pack-quantized", {{"num_bits", 8}, {"type", "int"}, {"strategy", "channel"}});
  const TensorInfo packed{"m.weight_packed", DType::i32, {2, 2}}, scale{"m.weight_scale", DType::f32, {2, 1}},
      shape{"m.weight_shape", DType::i64, {2}};
  expect_opens(pack, {packed, scale, shape}, "m.weight");
  expect_opens(pack, {packed, {"m.weight_scale", DType::f32, {2}}, shape}, "m.weight");
  check_refused(pack, {packed, scale}, "needs weight_shape");
  check_refused(pack, {packed, shape}, "no weight_scale");
  check_refused(pack, {scale, shape}, "without");
  check_refused(pack, {packed, scale, shape}, "does not go with", 2, 9);
  check_refused(pack, {packed, scale, shape}, "does not go with", 2, 4);
  check_refused(pack, {packed, scale, shape}, "does not go with", 3, 8);
  check_refused(pack, {packed, scale, shape}, "does not go with", 2, -8);
  check_refused(pack, {packed, scale, shape}, "does not go with", INT64_MIN, INT64_MIN);
  check_refused(pack, {{"m.weight_packed", DType::i32, {0, int64_t{1} << 60}}, scale, shape}, "a matrix with elements", 0, 0);
  check_refused(pack, {{"m.weight_packed", DType::i32, {2, 2, 1}}, scale, shape}, "a matrix with elements");
  check_refused(pack, {{"m.weight_packed", DType::u8, {2, 8}}, scale, shape}, "not I32");
  check_refused(pack, {packed, {"m.weight_scale", DType::f32, {2, 3}}, shape}, "the file has [2, 3]");
  check_refused(pack, {packed, {"m.weight_scale", DType::f32, {0, 1}}, shape}, "the file has [0, 1]");
  check_refused(pack, {packed, {"m.weight_scale", DType::i32, {2, 1}}, shape}, "weight_scale is I32");
  // Some writers store the shape in 32 bits; compressed-tensors takes either.
  expect_opens(pack, {packed, scale, {"m.weight_shape", DType::i32, {2}}}, "m.weight");
  check_refused(pack, {packed, scale, {"m.weight_shape", DType::i32, {2}}}, "does not go with", 2, -8);
  check_refused(pack, {packed, scale, {"m.weight_shape", DType::f32, {2}}}, "I64 or I32");
  check_refused(pack, {packed, scale, {"m.weight_shape", DType::i32, {3}}}, "two elements");
  check_refused(pack, {packed, scale, shape, {"m.weight", DType::f32, {1}}}, "both packed and plain");
  check_refused(pack, {packed, scale, shape, {"m.weight_g_idx", DType::i32, {8}}}, "activation order");
  check_refused(pack, {packed, scale, shape, {"m.weight_zero_point", DType::i32, {1, 2}}}, "belongs to scales");
  expect_opens(pack, {packed, scale, shape, {"m.weight_zero_point", DType::i32, {1, 1}}}, "m.weight");

  const Json ints = config_with("int-quantized", {{"num_bits", 8}, {"type", "int"}, {"strategy", "channel"}});
  const TensorInfo codes{"m.weight", DType::i8, {2, 8}};
  expect_opens(ints, {scale, codes}, "m.weight");
  expect_opens(
      ints, {{"something.else", DType::f32, {3}}, scale, codes, {"m.weight_shape", DType::i8, {2}}, {"m.bias", DType::i8, {2}}},
      "something.else");
  check_refused(ints, {codes}, "no scales");
  check_refused(ints, {scale}, "without");
  check_refused(ints, {scale, {"m.weight", DType::bf16, {2, 8}}}, "weight is BF16");
  check_refused(ints, {scale, {"m.weight", DType::f8_e4m3, {2, 8}}}, "not what format");
  check_refused(ints, {scale, {"m.weight", DType::i8, {2, 2, 4}}}, "a matrix with elements");
  check_refused(ints, {{"m.experts.w", DType::i8, {2, 2, 4}}, {"m.experts.w_scale", DType::f32, {2}}}, "stacked in one tensor");
  check_refused(ints, {scale, codes, {"m.weight_zero_point", DType::f64, {2, 1}}}, "is F64");
  check_refused(ints, {scale, codes, {"m.weight_zero_point", DType::i8, {1, 1}}}, "belongs to scales");
  check_refused(ints, {scale, codes, {"n.weight_zero_point", DType::i8, {2, 1}}}, "without");

  const Json fp8 = {{"quant_method", "fp8"}, {"weight_block_size", {4, 4}}};
  const TensorInfo f8{"m.weight", DType::f8_e4m3, {6, 9}}, inverse{"m.weight_scale_inv", DType::f32, {2, 3}};
  expect_opens(fp8, {inverse, f8}, "m.weight");
  expect_opens(fp8, {{"m.weight_scale_inv", DType::f32, {3, 9}}, f8}, "m.weight");  // a block of [2, 1], as the scales show
  expect_opens(fp8, {{"m.weight_scale", DType::f32, {}}, f8}, "m.weight");
  check_refused(fp8, {{"m.weight_scale_inv", DType::f32, {4, 3}}, f8}, "the file has [4, 3]");
  check_refused(fp8, {inverse, {"m.weight_scale", DType::f32, {2, 3}}, f8}, "both weight_scale and weight_scale_inv");
  check_refused(fp8, {inverse, {"m.weight", DType::i8, {6, 9}}}, "but float");
  check_refused(fp8, {f8}, "no scales");
  check_refused(config_with("float-quantized", {{"type", "float"}}), {inverse, f8}, "without");

  const TempFolder t;  // no quantization_config at all
  write_stored(t.path(), {inverse, f8}, 0, 0);
  write_text(t.path() / "config.json", "{}");
  CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains("no quantization_config") && !Catch::Contains("read neither here"));
  for (const std::string key : {"compression_config", "quantization"}) {  // what other programs call it
    write_text(t.path() / "config.json", Json{{key, fp8}}.dump());
    CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains("'" + key + "' is read neither here nor by transformers"));
  }
}
