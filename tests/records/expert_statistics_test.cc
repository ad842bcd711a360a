#include "records/expert_statistics.h"

#include <catch2/catch.hpp>
#include <functional>
#include <limits>

#include "core/error.h"
#include "tests/support.h"

using namespace overproof;

namespace {

const Digest kModel = sha256(std::string_view("model"));
const ExpertStatisticsShape kExperts{.model_root = kModel, .corpus_root = {}, .tokens = 4, .layers = 2, .experts = 3, .hidden_size = 2, .top_k = 2};

const std::vector<char> kBoth = {1, 1};

ExpertObservation layer_of(int64_t layer) {
  const auto x = float(layer);
  return {{1, -2, 3, 4, 5, x}, {4, 0, int32_t(layer)}, {0.5f, 0, x}, {2, 0, 9}};
}

void write(const fs::path& folder, const std::function<void(ExpertObservation&)>& change = [](ExpertObservation&) {}) {
  OutputFolder out(folder);
  write_expert_statistics(kExperts,
                          [&](int64_t l) {
                            ExpertObservation seen = layer_of(l);
                            change(seen);
                            return seen;
                          },
                          out);
}

}  // namespace

TEST_CASE("statistics of experts come back as they were written, and belong to one model") {
  const TempFolder t;
  write(t.path());
  for (const fs::path& path : {t.path(), t.path() / kExpertStatisticsFile}) {
    const ExpertStatistics s(path);
    CHECK(s.shape().model_root == kModel);
    CHECK(s.shape().top_k == 2);
    const ExpertObservation seen = s.read(1), expected = layer_of(1);
    CHECK(seen.mean_output == expected.mean_output);
    CHECK(seen.tokens == expected.tokens);
    CHECK(seen.reap == expected.reap);
    CHECK(seen.largest == expected.largest);
    CHECK_NOTHROW(s.require_model(kModel, kBoth, 3));
    CHECK_THROWS_AS(s.require_model(Digest{}, kBoth, 3), MismatchError);
    CHECK_THROWS_AS(s.require_model(kModel, kBoth, 4), MismatchError);
    CHECK_THROWS_AS(s.require_model(kModel, std::span(kBoth).first(1), 3), MismatchError);
  }
}

TEST_CASE("layers without experts have no statistics, and belong to the model") {
  const TempFolder t;
  ExpertStatisticsShape shape = kExperts;
  shape.layers = 4;
  shape.dense_layers = {0, 2};
  OutputFolder out(t.path());
  write_expert_statistics(shape, [&](int64_t l) { return shape.has_experts(l) ? layer_of(l) : ExpertObservation{}; }, out);
  const ExpertStatistics s(t.path());
  CHECK(s.shape().dense_layers == std::vector<int64_t>{0, 2});
  CHECK(s.read(3).mean_output == layer_of(3).mean_output);
  CHECK_NOTHROW(s.require_model(kModel, std::vector<char>{0, 1, 0, 1}, 3));
  CHECK_THROWS_WITH(s.require_model(kModel, std::vector<char>{0, 1, 1, 1}, 3), Catch::Contains("layer 2"));
  CHECK_THROWS_AS(s.require_model(kModel, std::vector<char>{0, 1, 0}, 3), MismatchError);
}

TEST_CASE("values that no expert has are refused where they are read") {
  const TempFolder t;
  const auto refused = [&](const std::function<void(ExpertObservation&)>& change) {
    write(t.path(), change);
    CHECK_THROWS_AS(ExpertStatistics(t.path()).read(0), FormatError);
  };
  refused([](ExpertObservation& seen) { seen.tokens[1] = -1; });
  refused([](ExpertObservation& seen) { seen.reap[0] = -0.5f; });
  refused([](ExpertObservation& seen) { seen.largest[2] = std::numeric_limits<float>::infinity(); });
  refused([](ExpertObservation& seen) { seen.mean_output[3] = std::numeric_limits<float>::quiet_NaN(); });
}

TEST_CASE("tensors of statistics of experts must have the shapes of the metadata") {
  const TempFolder t;
  const Metadata good = {{"format_version", "1"}, {"model_root", kModel.hex()}, {"corpus_root", kModel.hex()}, {"tokens", "2"}, {"layers", "1"},
                         {"experts", "2"},        {"hidden_size", "1"},         {"top_k", "1"}};
  const auto open = [&](const std::function<void(Metadata&, std::vector<TensorInfo>&)>& change) {
    Metadata metadata = good;
    std::vector<TensorInfo> infos = {{"layers.0.mean_output", DType::f32, {2, 1}}, {"layers.0.tokens", DType::i32, {2}}, {"layers.0.reap", DType::f32, {2}},
                                     {"layers.0.largest", DType::f32, {2}}};
    change(metadata, infos);
    OutputFolder out(t.path());
    SafetensorsWriter writer(out, kExpertStatisticsFile, infos, metadata);
    for (const TensorInfo& info : infos) {
      const std::string zeros(size_t(info.bytes()), '\0');
      writer.append(zeros.data(), zeros.size());
    }
    writer.close();
    ExpertStatistics(t.path());
  };
  CHECK_NOTHROW(open([](Metadata&, auto&) {}));
  for (const auto& [key, value] : std::vector<std::pair<std::string, std::string>>{
           {"format_version", "2"}, {"model_root", "x"}, {"layers", "2"}, {"layers", "2000000000"}, {"experts", "3"}, {"hidden_size", "2"}, {"top_k", "0"}, {"dense_layers", "0"}, {"dense_layers", "1"}, {"dense_layers", "x"}, {"dense_layers", "0,0"}, {"dense_layers", ""}})
    CHECK_THROWS_AS(open([&key = key, &value = value](Metadata& m, auto&) { m[key] = value; }), FormatError);
  for (const auto& [key, value] : good) CHECK_THROWS_AS(open([&key = key](Metadata& m, auto&) { m.erase(key); }), FormatError);
  CHECK_THROWS_AS(open([](Metadata&, auto& infos) { infos.pop_back(); }), FormatError);
}
