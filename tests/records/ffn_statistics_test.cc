#include "records/ffn_statistics.h"

#include <catch2/catch.hpp>
#include <functional>
#include <limits>

#include "core/error.h"
#include "tests/support.h"

using namespace overproof;

namespace {

const Digest kTeacher = sha256(std::string_view("teacher"));
const FfnStatisticsShape kShape{.teacher_root = kTeacher, .corpus_root = {}, .tokens = 4, .window_length = 2, .layers = 2, .hidden_size = 3,
                                .intermediate_size = 2};

struct Values {
  std::vector<int32_t> ids = {1, 2, 3, 0};
  std::vector<std::vector<uint16_t>> input = {std::vector<uint16_t>(12, 0x3c00), std::vector<uint16_t>(12, 0xc000)};  // 1 and -2
  std::vector<std::vector<float>> importance = {{0.5f, 0}, {1, 2}};
};

void write(const fs::path& folder, const Values& values) {
  OutputFolder out(folder);
  write_ffn_statistics(kShape, values.ids, [&](int64_t l) { return FfnObservation{values.input[size_t(l)], values.importance[size_t(l)]}; },
                       out);
}

}  // namespace

TEST_CASE("FFN statistics come back as they were written") {
  const TempFolder t;
  write(t.path(), {});
  for (const fs::path& path : {t.path(), t.path() / kFfnStatisticsFile}) {
    const FfnStatistics s(path);
    CHECK(s.shape().teacher_root == kTeacher);
    CHECK(s.shape().window_length == 2);
    CHECK(s.ffn_input(1) == std::vector<float>(12, -2.0f));
    CHECK(s.importance(0) == std::vector<float>{0.5f, 0});
    CHECK(s.ids(1, 4) == std::vector<int64_t>{1, 2});
    CHECK(s.ids(100, 4) == std::vector<int64_t>{1, 2, 3, 0});
  }
}

TEST_CASE("FFN statistics belong to one teacher") {
  const TempFolder t;
  write(t.path(), {});
  const FfnStatistics s(t.path());
  CHECK_NOTHROW(s.require_teacher(kTeacher, 2, 3, 2));
  CHECK_THROWS_AS(s.require_teacher(Digest{}, 2, 3, 2), MismatchError);
  CHECK_THROWS_AS(s.require_teacher(kTeacher, 3, 3, 2), MismatchError);
  CHECK_THROWS_AS(s.require_teacher(kTeacher, 2, 4, 2), MismatchError);
  CHECK_THROWS_AS(s.require_teacher(kTeacher, 2, 3, 1), MismatchError);
}

TEST_CASE("values that no observation has are refused where they are read") {
  const TempFolder t;
  Values values;
  values.importance[0][1] = -1;
  write(t.path(), values);
  CHECK_THROWS_AS(FfnStatistics(t.path()).importance(0), FormatError);
  values.importance[0][1] = std::numeric_limits<float>::quiet_NaN();
  values.input[1][5] = 0x7c00;  // infinity
  values.ids[3] = 4;
  write(t.path(), values);
  const FfnStatistics s(t.path());
  CHECK_THROWS_AS(s.importance(0), FormatError);
  CHECK_NOTHROW(s.ffn_input(0));
  CHECK_THROWS_AS(s.ffn_input(1), FormatError);
  CHECK_THROWS_AS(s.ids(2, 4), FormatError);
  CHECK_NOTHROW(s.ids(1, 4));
}

TEST_CASE("tensors of FFN statistics must have the shapes of the metadata") {
  const TempFolder t;
  const Metadata good = {{"format_version", "1"}, {"teacher_root", kTeacher.hex()}, {"corpus_root", kTeacher.hex()}, {"tokens", "2"},
                         {"window_length", "2"}, {"layers", "1"}, {"hidden_size", "1"}, {"intermediate_size", "1"}};
  const auto open = [&](const std::function<void(Metadata&, std::vector<TensorInfo>&)>& change) {
    Metadata metadata = good;
    std::vector<TensorInfo> infos = {{"tokens", DType::i32, {2}}, {"layers.0.importance", DType::f32, {1}}, {"layers.0.ffn_input", DType::f16, {2, 1}}};
    change(metadata, infos);
    OutputFolder out(t.path());
    SafetensorsWriter writer(out, kFfnStatisticsFile, infos, metadata);
    for (const TensorInfo& info : infos) {
      const std::string zeros(size_t(info.bytes()), '\0');
      writer.append(zeros.data(), zeros.size());
    }
    writer.close();
    FfnStatistics(t.path());
  };
  CHECK_NOTHROW(open([](Metadata&, auto&) {}));
  for (const auto& [key, value] : std::vector<std::pair<std::string, std::string>>{
           {"format_version", "2"}, {"teacher_root", "x"}, {"tokens", "3"}, {"tokens", "4"}, {"tokens", "-2"}, {"window_length", "0"},
           {"layers", "2"}, {"layers", "99999999999"}, {"hidden_size", "2"}, {"intermediate_size", "2"}})
    CHECK_THROWS_AS(open([&key = key, &value = value](Metadata& m, auto&) { m[key] = value; }), FormatError);
  for (const auto& [key, value] : good) CHECK_THROWS_AS(open([&key = key](Metadata& m, auto&) { m.erase(key); }), FormatError);
  CHECK_THROWS_AS(open([](Metadata&, auto& infos) { infos.pop_back(); }), FormatError);
  CHECK_THROWS_AS(open([](Metadata&, auto& infos) { infos[2].dtype = DType::bf16; }), FormatError);
}

TEST_CASE("moments and gradients come back where a file has them, and the others name the way to them") {
  const TempFolder t;
  const Values values;
  write(t.path(), values);
  const FfnStatistics without(t.path());
  CHECK_FALSE(without.shape().moments);
  CHECK_THROWS_WITH(without.mean(0), Catch::Contains("observe again"));
  CHECK_THROWS_AS(without.variance(0), MismatchError);
  CHECK_THROWS_WITH(without.taylor(0), Catch::Contains("--gradients"));

  FfnStatisticsShape shape = kShape;
  shape.moments = shape.taylor = true;
  std::vector<float> mean = {-1, 2}, variance = {0, 3};
  const auto put = [&](float first_order) {
    OutputFolder out(t.path());
    write_ffn_statistics(
        shape, values.ids, [&](int64_t l) { return FfnObservation{values.input[size_t(l)], values.importance[size_t(l)], mean, variance}; }, out,
        [&](int64_t l) { return std::vector<float>{float(l), first_order}; });
  };
  put(5);
  const FfnStatistics s(t.path());
  CHECK(s.mean(1) == mean);
  CHECK(s.variance(0) == variance);
  CHECK(s.taylor(1) == std::vector<float>{1, 5});
  CHECK(s.importance(1) == values.importance[1]);
  put(-1);
  CHECK_THROWS_AS(FfnStatistics(t.path()).taylor(0), FormatError);
  variance[1] = -3;
  put(1);
  CHECK_THROWS_AS(FfnStatistics(t.path()).variance(0), FormatError);
  CHECK_NOTHROW(FfnStatistics(t.path()).mean(0));
}
