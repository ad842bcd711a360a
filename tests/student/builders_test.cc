// Published builders against numpy, scipy and transformers (tests/golden/builders has the script), and upcycling.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/rng.h"
#include "formats/safetensors.h"
#include "student/carve.h"
#include "student/carve_methods.h"
#include "student/certificate.h"
#include "student/ffn.h"
#include "student/router_fit.h"
#include "student/shrink.h"
#include "student/upcycle.h"

namespace overproof {
namespace {

const fs::path kBuilders = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/builders";

/// A tensor of a golden file, copied.
template <class T>
at::Tensor golden_tensor(const SafetensorsFile& file, const std::string& name, at::ScalarType type) {
  return at::from_blob(const_cast<T*>(file.values<T>(name).data()), file.info(name).shape, type).clone();
}
at::Tensor golden_floats(const SafetensorsFile& file, const std::string& name) { return golden_tensor<float>(file, name, at::kFloat); }
at::Tensor golden_doubles(const SafetensorsFile& file, const std::string& name) { return golden_tensor<double>(file, name, at::kDouble); }
at::Tensor golden_ids(const SafetensorsFile& file, const std::string& name) { return golden_tensor<int64_t>(file, name, at::kLong); }

std::set<std::set<int64_t>> groups_of(const at::Tensor& rows) {
  std::set<std::set<int64_t>> groups;
  for (int64_t g = 0; g < rows.size(0); ++g) {
    std::set<int64_t> group;
    for (int64_t i = 0; i < rows.size(1); ++i) group.insert(rows[g][i].item<int64_t>());
    groups.insert(std::move(group));
  }
  return groups;
}

struct GoldenLayer {
  SafetensorsFile file{kBuilders / "carve.safetensors"};
  at::Tensor gate_up = golden_floats(file, "gate_up"), down = golden_floats(file, "down"), input = golden_floats(file, "input");
  at::Tensor activations = neuron_activations(gate_up, input);
  SplitOptions options{.experts = 5, .shared = 1, .iterations = 50, .active = 4, .window = 8};
};

}  // namespace

TEST_CASE("CMoE's split, rates and representative neurons are those of numpy and scipy") {
  const GoldenLayer layer;
  CHECK(at::allclose(activation_markers(layer.activations, 4).mean(0), golden_floats(layer.file, "cmoe_rates"), 0, 1e-6));
  const NeuronSplit split = split_neurons(CarveMethod::cmoe, layer.gate_up, layer.input, layer.activations, layer.options);
  CHECK(at::equal(split.neurons.narrow(0, 0, 4), golden_ids(layer.file, "cmoe_shared")));
  CHECK(groups_of(split.neurons.narrow(0, 4, 20).view({5, 4})) == groups_of(golden_ids(layer.file, "cmoe_groups")));
  CHECK(std::get<0>(split.representatives.sort()).equal(std::get<0>(golden_ids(layer.file, "cmoe_representatives").sort())));
  for (int64_t e = 0; e < 5; ++e)  // each of its own expert
    CHECK((split.neurons.narrow(0, 4 + 4 * e, 4) == split.representatives[e]).any().item<bool>());
}

TEST_CASE("ExpertWeaver's profiles, variation, split and gates are those of numpy and scipy") {
  const GoldenLayer layer;
  const at::Tensor profiles = gate_profiles(layer.gate_up, layer.input, 8);
  CHECK(at::allclose(profiles, golden_floats(layer.file, "weaver_profiles"), 1e-4, 1e-6));
  CHECK(at::allclose(coefficient_of_variation(profiles), golden_floats(layer.file, "weaver_variation"), 1e-4, 1e-6));
  const NeuronSplit split = split_neurons(CarveMethod::expertweaver, layer.gate_up, layer.input, layer.activations, layer.options);
  CHECK(split.specialised == Approx(golden_doubles(layer.file, "weaver_specialised")[0].item<double>()));
  CHECK(at::equal(split.neurons.narrow(0, 0, 4), golden_ids(layer.file, "weaver_shared")));
  const at::Tensor routed = split.neurons.narrow(0, 4, 20).view({5, 4}), groups = golden_ids(layer.file, "weaver_groups"),
                   gates = golden_floats(layer.file, "weaver_gates");
  CHECK(groups_of(routed) == groups_of(groups));
  for (int64_t e = 0; e < 5; ++e)
    for (int64_t g = 0; g < 5; ++g)
      if (routed[e].equal(groups[g])) CHECK(at::allclose(split.gate[e], gates[g], 1e-5, 1e-6));
}

TEST_CASE("every method uses every neuron once and carves a layer") {
  const GoldenLayer layer;
  at::NoGradGuard no_grad;
  for (const CarveMethod method : {CarveMethod::random, CarveMethod::order, CarveMethod::cmoe, CarveMethod::expertweaver}) {
    INFO(method_name(method));
    for (const bool fitted : {false, true}) {
      CarveOptions options{.experts = 5, .shared = 1, .top_k = 2};
      options.method = method;
      options.fitted_router = fitted || !has_own_router(method);
      options.active = 4;
      options.window = 8;
      const LayerCarving carving = carve_layer(layer.gate_up, layer.down, layer.input, options, 0);
      CHECK(at::equal(std::get<0>(carving.neurons.sort()), at::arange(24, at::kLong)));
      REQUIRE(carving.attempts.size() == 1);
      CHECK(carving.attempts[0].split == method_name(method));
      CHECK(carving.quality.oracle_error <= carving.quality.router_error + 1e-9);
      CHECK((carving.quality.analytic_error >= 0) == (method == CarveMethod::cmoe && !fitted));
      CHECK((carving.specialised >= 0) == (method == CarveMethod::expertweaver));
      CHECK(carving.gate.sizes() == at::IntArrayRef({5, 12}));
    }
  }
  const auto neurons = [&](uint64_t seed, uint64_t number) {
    SplitOptions options = layer.options;
    options.seed = seed;
    options.layer = number;
    return split_neurons(CarveMethod::random, layer.gate_up, layer.input, layer.activations, options).neurons;
  };
  CHECK(neurons(1, 0).equal(neurons(1, 0)));
  CHECK_FALSE(neurons(1, 0).equal(neurons(2, 0)));
  CHECK_FALSE(neurons(1, 0).equal(neurons(1, 1)));
  CHECK(split_neurons(CarveMethod::order, layer.gate_up, layer.input, layer.activations, layer.options).neurons.equal(at::arange(24, at::kLong)));
}

TEST_CASE("importance and the model that is left are those of transformers") {
  at::NoGradGuard no_grad;
  const Checkpoint checkpoint = open_checkpoint(kBuilders / "shrink");
  const Decoder parent(checkpoint);
  const SafetensorsFile file(kBuilders / "shrink.safetensors");
  const at::Tensor ids = golden_ids(file, "ids");
  ImportanceMeter meter(parent);
  meter.add(ids.narrow(0, 0, 3));
  meter.add(ids.narrow(0, 3, 1));
  const PartImportance found = meter.result();
  const at::Tensor influence = golden_doubles(file, "influence"), neurons = golden_doubles(file, "neurons"), groups = golden_doubles(file, "groups");
  for (int64_t l = 0; l < 3; ++l) {
    INFO("layer " << l);
    CHECK(found.layers[size_t(l)] == Approx(influence[l].item<double>()).epsilon(1e-4));
    CHECK(at::allclose(found.neurons[size_t(l)], neurons[l], 1e-4, 1e-6));
    CHECK(at::allclose(found.kv_heads[size_t(l)], groups[l], 1e-4, 1e-6));
  }
  CHECK(at::allclose(found.dimensions, golden_doubles(file, "dimensions"), 1e-4, 1e-6));

  const PartCounts counts{2, 12, 1, 10};
  const KeptParts kept = most_important(found, counts);
  const ModelConfig shape = shrunk_config(parent.config(), counts);
  const Decoder student(shape, ShrunkTensors(*checkpoint.tensors, parent.config(), shape, kept, parent.head()));
  CHECK(at::allclose(student.logits(student.hidden(ids)), golden_floats(file, "logits").view({48, 40}), 1e-4, 1e-4));

  const PartCounts everything{3, 20, 2, 16};
  const ModelConfig same = shrunk_config(parent.config(), everything);
  const KeptParts all = most_important(found, everything);
  const Decoder copy(same, ShrunkTensors(*checkpoint.tensors, parent.config(), same, all, parent.head()));
  CHECK(at::equal(copy.logits(copy.hidden(ids)), parent.logits(parent.hidden(ids))));
  CHECK_THROWS_AS(most_important(found, {4, 12, 1, 10}), UsageError);
  CHECK_THROWS_AS(most_important(found, {2, 12, 0, 10}), UsageError);
}

TEST_CASE("an upcycled model has its parent's logits, whole copies or parts, one or several copies active") {
  at::NoGradGuard no_grad;
  const Checkpoint checkpoint = open_checkpoint(kBuilders / "shrink");
  const Decoder parent(checkpoint);
  const at::Tensor ids = golden_ids(SafetensorsFile(kBuilders / "shrink.safetensors"), "ids");
  for (const UpcycleOptions options : {UpcycleOptions{.copies = 4, .split = 1, .top_k = 1}, UpcycleOptions{.copies = 4, .split = 1, .top_k = 3},
                                       UpcycleOptions{.copies = 3, .split = 5, .top_k = 5}, UpcycleOptions{.copies = 3, .split = 5, .top_k = 10},
                                       UpcycleOptions{.copies = 2, .split = 2, .top_k = 2, .router_deviation = 0.5}}) {
    INFO(options.copies << " copies in " << options.split << " parts, " << options.top_k << " active");
    const ModelConfig shape = upcycled_config(parent.config(), options);
    CHECK(upcycles_exactly(options));
    CHECK(shape.n_routed_experts == options.copies * options.split);
    const Decoder student(shape, UpcycledTensors(*checkpoint.tensors, parent, shape, options));
    const Certificate certificate = certify_same_logits(parent, student, ids);
    CHECK(certificate.holds());
    CHECK(certificate.tokens == 48);
    student.layers()[1].expert_down[0][0][0] += 100;  // of a copy that some token uses: the certificate sees it
    if (options.top_k == options.copies * options.split || options.copies == 2) CHECK_FALSE(certify_same_logits(parent, student, ids).holds());
  }
  // Parts of a copy are not the dense FFN.
  const UpcycleOptions part{.copies = 3, .split = 5, .top_k = 2};
  CHECK_FALSE(upcycles_exactly(part));
  const ModelConfig shape = upcycled_config(parent.config(), part);
  CHECK_FALSE(certify_same_logits(parent, Decoder(shape, UpcycledTensors(*checkpoint.tensors, parent, shape, part)), ids).holds());

  CHECK_THROWS_AS(upcycled_config(parent.config(), {.copies = 2, .split = 3, .top_k = 3}), UsageError);
  CHECK_THROWS_AS(upcycled_config(parent.config(), {.copies = 1, .split = 1, .top_k = 1}), UsageError);
  CHECK_THROWS_AS(upcycled_config(parent.config(), {.copies = 2, .split = 1, .top_k = 3}), UsageError);
}

TEST_CASE("Drop-Upcycling draws the same neurons of all three matrices anew, with the mean and deviation of what they replace") {
  at::NoGradGuard no_grad;
  Rng rng(3, "test/drop");
  const auto matrix = [&](int64_t rows, int64_t columns, double mean, double deviation) {
    at::Tensor t = at::empty({rows, columns});
    for (int64_t i = 0; i < t.numel(); ++i) t.view({-1})[i] = mean + deviation * rng.normal();
    return t;
  };
  constexpr int64_t kWidth = 60, kHidden = 48;
  const ExpertWeights dense{matrix(kWidth, kHidden, 0.3, 0.5), matrix(kWidth, kHidden, -0.2, 2.0), matrix(kHidden, kWidth, 0.1, 0.05)};
  const ExpertWeights made = with_redrawn(dense, 0.5, 9, 4), again = with_redrawn(dense, 0.5, 9, 4), other = with_redrawn(dense, 0.5, 9, 5);
  const auto changed = [](const at::Tensor& a, const at::Tensor& b) { return (a != b).any(1); };
  const at::Tensor neurons = changed(made.gate, dense.gate);
  CHECK(neurons.sum().item<int64_t>() == kWidth / 2);
  CHECK(neurons.equal(changed(made.up, dense.up)));
  CHECK(neurons.equal(changed(made.down.t(), dense.down.t())));
  CHECK_FALSE(neurons.equal(changed(other.gate, dense.gate)));
  CHECK(made.gate.equal(again.gate));
  const at::Tensor picked = neurons.nonzero().flatten();
  const auto alike = [&](const at::Tensor& now, const at::Tensor& before) {
    const at::Tensor a = now.index_select(0, picked), b = before.index_select(0, picked);
    const double deviation = b.std().item<double>(), error = deviation / std::sqrt(double(b.numel()));
    CHECK(a.mean().item<double>() == Approx(b.mean().item<double>()).margin(5 * error));
    CHECK(a.std().item<double>() == Approx(deviation).epsilon(5 / std::sqrt(2.0 * double(b.numel()))));
    CHECK((a != b).all().item<bool>());
  };
  alike(made.gate, dense.gate);
  alike(made.up, dense.up);
  alike(made.down.t(), dense.down.t());
  const ExpertWeights same = with_redrawn(dense, 0.0, 9, 4);
  CHECK(same.gate.equal(dense.gate));
  CHECK(same.down.equal(dense.down));
}

}  // namespace overproof
