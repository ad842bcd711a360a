// Losses of what is inside the models.

#include "distill/losses/inner.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <catch2/catch.hpp>
#include <map>

#include "core/error.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

at::Tensor f32(const SafetensorsFile& file, const std::string& name) {
  return at::from_blob(const_cast<float*>(file.values<float>(name).data()), file.info(name).shape, at::kFloat).clone();
}

/// The inputs of the golden file; what is differentiable by name.
struct Inside2 {
  std::vector<RouterRecord> routing;
  std::vector<LayerStates> student, teacher;
  std::vector<at::Tensor> projections;
  std::map<std::string, at::Tensor> inputs;
  at::Tensor weight;

  explicit Inside2(const SafetensorsFile& golden) : weight(f32(golden, "weight")) {
    const auto input = [&](const std::string& name) {
      at::Tensor t = f32(golden, name);
      t.set_requires_grad(true);
      return inputs[name] = t;
    };
    for (int l = 0; l < 2; ++l) {
      const std::string selected = fmt::format("selected.{}", l);
      RouterRecord record{.scores = input(fmt::format("scores.{}", l))};
      record.selected =
          at::from_blob(const_cast<int32_t*>(golden.values<int32_t>(selected).data()), golden.info(selected).shape, at::kInt)
              .clone();
      routing.push_back(record);
      student.push_back({input(fmt::format("student.attended.{}", l)), input(fmt::format("student.out.{}", l))});
      projections.push_back(input(fmt::format("projection.{}", l)));
    }
    for (int l = 0; l < 3; ++l)
      teacher.push_back({f32(golden, fmt::format("teacher.attended.{}", l)), f32(golden, fmt::format("teacher.out.{}", l))});
  }
  InnerRows rows() const { return {routing, student, teacher, projections, weight, 8}; }
};

std::vector<const Loss*> inner_only() {
  std::vector<const Loss*> list;
  for (const Loss* loss : all_losses())
    if (loss->inner) list.push_back(loss);
  return list;
}

double value_of(const InnerRows& rows, const Loss& loss) {
  LossSums sums{.values = {0.0}};
  inner_losses(rows, {{&loss, 1.0}}, sums);
  return sums.values[0];
}

}  // namespace

TEST_CASE("losses of routers and layers are PyTorch autograd's, values and gradients") {
  const SafetensorsFile golden(fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/loss/inner.safetensors");
  REQUIRE(inner_only().size() == 5);
  for (const Loss* loss : inner_only()) {
    INFO(loss->name);
    const Inside2 inside(golden);
    LossSums sums{.values = {0.0, 0.0}};
    const at::Tensor total = inner_losses(inside.rows(), {{&kForwardKl, 1.0}, {loss, 0.5}}, sums);
    CHECK(sums.values[0] == 0);
    CHECK(sums.values[1] == Approx(golden.values<double>(fmt::format("{}.value", loss->name))[0]).epsilon(2e-6));
    CHECK(total.item<double>() == Approx(0.5 * sums.values[1]));
    torch::autograd::backward({total}, {});
    for (const auto& [name, tensor] : inside.inputs) {
      INFO(name);
      const std::string expected = fmt::format("{}.d.{}", loss->name, name);
      const bool reached = golden.contains(expected);
      REQUIRE(tensor.grad().defined() == reached);
      if (reached) CHECK((tensor.grad() - 0.5 * f32(golden, expected)).abs().max().item<double>() < 2e-5);
    }
  }
}

TEST_CASE("a layer that equals the teacher's costs nothing, and sequences add up") {
  at::manual_seed(9);
  std::vector<LayerStates> same, teacher, other;
  std::vector<RouterRecord> routing;
  for (int l = 0; l < 2; ++l) {
    const at::Tensor attended = at::randn({24, 6}), out = at::randn({24, 6});
    teacher.push_back({attended, out});
    same.push_back({attended.clone(), out.clone()});
    other.push_back({at::randn({24, 6}), at::randn({24, 6})});
    const at::Tensor scores = at::randn({24, 5});
    routing.push_back({.selected = std::get<1>(scores.topk(2, 1)).to(at::kInt), .scores = scores});
  }
  const at::Tensor weight = at::rand({24}), none;
  for (const Loss* loss : inner_only()) {
    INFO(loss->name);
    if (loss->inside == Inside::layers) CHECK(std::abs(value_of({routing, same, teacher, {}, weight, 8}, *loss)) < 1e-5);
    const double whole = value_of({routing, other, teacher, {}, weight, 8}, *loss);
    CHECK(whole > 0);
    double sum = 0;
    for (int64_t s = 0; s < 3; ++s) {
      std::vector<LayerStates> a, b;
      std::vector<RouterRecord> r;
      for (size_t l = 0; l < 2; ++l) {
        a.push_back({other[l].attended.narrow(0, 8 * s, 8), other[l].out.narrow(0, 8 * s, 8)});
        b.push_back({teacher[l].attended.narrow(0, 8 * s, 8), teacher[l].out.narrow(0, 8 * s, 8)});
        r.push_back({.selected = routing[l].selected.narrow(0, 8 * s, 8), .scores = routing[l].scores.narrow(0, 8 * s, 8)});
      }
      sum += value_of({r, a, b, {}, weight.narrow(0, 8 * s, 8), 8}, *loss);
    }
    CHECK(sum == Approx(whole).epsilon(1e-6));
    // Rows of weight zero, whatever is in them.
    at::Tensor masked = weight.clone();
    masked.narrow(0, 4, 4).zero_();
    const double before = value_of({routing, other, teacher, {}, masked, 8}, *loss);
    for (size_t l = 0; l < 2; ++l) {
      other[l].out.narrow(0, 4, 4).add_(3.0);
      routing[l].scores.narrow(0, 4, 4).mul_(5.0);
    }
    CHECK(value_of({routing, other, teacher, {}, masked, 8}, *loss) == Approx(before).epsilon(1e-6));
  }
}

TEST_CASE("balance is 1 where loads are even, and larger where they follow the scores") {
  const at::Tensor weight = at::ones({8});
  const auto balance = [&](const at::Tensor& scores, const at::Tensor& selected) {
    const std::vector<RouterRecord> routing = {{.selected = selected.to(at::kInt), .scores = scores}};
    return value_of({routing, {}, {}, {}, weight, 8}, kBalance) / 8;
  };
  const at::Tensor even = at::arange(8).remainder(4).view({8, 1});
  CHECK(balance(at::zeros({8, 4}), even) == Approx(1.0));
  CHECK(balance(at::zeros({8, 4}), at::zeros({8, 1}, at::kLong)) == Approx(1.0));  // even scores: nothing to lower
  at::Tensor one = at::full({8, 4}, -20.0);
  one.select(1, 0).fill_(20.0);
  CHECK(balance(one, at::zeros({8, 1}, at::kLong)) == Approx(4.0).epsilon(1e-6));  // all on one of four
}

TEST_CASE("layers are compared with those at the same relative depth") {
  for (int64_t l = 0; l < 6; ++l) CHECK(teacher_layer(l, 6, 6) == l);
  CHECK(teacher_layer(0, 2, 6) == 2);
  CHECK(teacher_layer(1, 2, 6) == 5);
  CHECK(teacher_layer(0, 6, 2) == 0);
  CHECK(teacher_layer(5, 6, 2) == 1);
}

}  // namespace overproof
