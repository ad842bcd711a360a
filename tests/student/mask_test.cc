#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>

#include "core/json.h"
#include "core/parallel.h"
#include "model/torch_setup.h"
#include "student/recover_stage.h"
#include "student/ridge.h"
#include "tests/teacher/tiny_world.h"

namespace overproof {
namespace {

/// Values in [-1, 1) by a stream, f32.
at::Tensor noise(at::IntArrayRef shape, const std::string& stream) {
  Rng rng(5, stream);
  const at::Tensor t = at::empty(shape);
  for (int64_t i = 0; i < t.numel(); ++i) t.view({-1})[i] = float(rng.normal());
  return t;
}

struct MaskedWorld : TinyWorld {
  at::NoGradGuard no_grad;
  Decoder teacher{open_checkpoint(path / "teacher")};

  /// The teacher with every `zero_each`-th weight of down_proj set to zero.
  void put_student(int64_t zero_each) const {
    Decoder student{open_checkpoint(path / "teacher")};
    for (const LayerWeights& w : student.layers()) {
      const at::Tensor flat = w.down.view({-1});
      for (int64_t i = 0; i < flat.numel(); i += zero_each) flat[i] = 0;
    }
    fs::create_directories(path / "student");
    OutputFolder out(path / "student");
    save_decoder(student, out, DType::f32);
    out.write_file("tokenizer.json", byte_tokenizer("<|endoftext|>"));
  }
  StageReport recover(const RecoverConfig& config, const std::string& name) const {
    Outputs outputs = fresh(name);
    return run_recover(config,
                       Inputs({{"student", {path / "student", sha256("student")}},
                               {"teacher", {path / "teacher", sha256("teacher")}},
                               {"corpus", {path / "corpus", sha256("corpus")}}}),
                       outputs);
  }
  Decoder open(const std::string& name) const { return Decoder(open_checkpoint(path / name)); }
};

RecoverConfig few_tokens() {
  RecoverConfig config;
  config.tokens = 512;
  config.min_tokens = 1;
  return config;
}

}  // namespace

TEST_CASE("a masked solve is the least-squares solution of each output over its free weights, for any number of threads") {
  const at::Tensor features = noise({300, 24}, "features"), residual = noise({300, 5}, "residual"), free = noise({24, 5}, "mask").gt(0);
  RidgeSystem system({16, 8}, 5);
  for (int64_t first = 0; first < 300; first += 100)
    system.add({{features.narrow(0, first, 100).narrow(1, 0, 16).contiguous(), {}}, {features.narrow(0, first, 100).narrow(1, 16, 8).contiguous(), {}}},
               residual.narrow(0, first, 100));
  const double ridge = 0.01;
  std::vector<at::Tensor> changes;
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    prepare_torch();
    const RidgeSystem::Solution solution = system.solve(ridge, 0, free);
    changes.push_back(solution.change);
    CHECK(solution.steps > 0);
    const at::Tensor left = residual.to(at::kDouble) - at::mm(features.to(at::kDouble), solution.change);
    CHECK(solution.square == Approx(left.square().sum().item<double>()).epsilon(1e-6));
  }
  set_thread_count(0);
  prepare_torch();
  CHECK(at::equal(changes[0], changes[1]));
  const at::Tensor x = features.to(at::kDouble), gram = at::mm(x.t(), x), right = at::mm(x.t(), residual.to(at::kDouble));
  const double penalty = ridge * gram.diagonal().mean().item<double>();
  for (int64_t o = 0; o < 5; ++o) {
    const at::Tensor in = free.select(1, o).nonzero().flatten(), out = free.select(1, o).logical_not().nonzero().flatten();
    at::Tensor part = gram.index_select(0, in).index_select(1, in).clone();
    part.diagonal().add_(penalty);
    const at::Tensor expected = at::linalg_solve(part, right.select(1, o).index_select(0, in).unsqueeze(1)).flatten();
    CHECK(at::allclose(changes[0].select(1, o).index_select(0, in), expected, 1e-3, 1e-5));
    CHECK(changes[0].select(1, o).index_select(0, out).abs().max().item<double>() == 0);
  }
}

TEST_CASE("recover keeps the zeros of a pruned model, unless it is told not to") {
  const MaskedWorld world;
  world.put_student(2);
  const StageReport report = world.recover(few_tokens(), "recovered");
  CHECK(report.metrics()["masked"] == world.teacher.config().layers);
  CHECK(report.metrics()["error"].get<double>() < 0.9 * report.metrics()["error_before"].get<double>());
  CHECK(report.metrics()["held_out_error"].get<double>() < report.metrics()["held_out_error_before"].get<double>());
  const Decoder student = world.open("student"), recovered = world.open("recovered");
  for (int64_t l = 0; l < student.config().layers; ++l) {
    const at::Tensor zero = student.layers()[size_t(l)].down.eq(0), now = recovered.layers()[size_t(l)].down;
    CHECK(zero.sum().item<int64_t>() == zero.numel() / 2);
    CHECK(now.masked_select(zero).abs().max().item<float>() == 0);
    CHECK_FALSE(at::equal(now, student.layers()[size_t(l)].down));
    CHECK(at::equal(recovered.layers()[size_t(l)].gate_up, student.layers()[size_t(l)].gate_up));
  }
  RecoverConfig config = few_tokens();
  config.zeros = RecoverConfig::Zeros::no;
  const StageReport dense = world.recover(config, "dense");
  CHECK(dense.metrics()["masked"] == 0);
  CHECK(dense.metrics()["error"].get<double>() < report.metrics()["error"].get<double>());
  CHECK(world.open("dense").layers()[0].down.eq(0).sum().item<int64_t>() < student.layers()[0].down.numel() / 4);
}

TEST_CASE("a few zeros are no mask, unless recover is told so") {
  const MaskedWorld world;
  world.put_student(50);
  CHECK(world.recover(few_tokens(), "automatic").metrics()["masked"] == 0);
  RecoverConfig config = few_tokens();
  config.zeros = RecoverConfig::Zeros::yes;
  CHECK(world.recover(config, "asked").metrics()["masked"] == world.teacher.config().layers);
  const at::Tensor zero = world.open("student").layers()[1].down.eq(0);
  CHECK(world.open("asked").layers()[1].down.masked_select(zero).abs().max().item<float>() == 0);
}

}  // namespace overproof
