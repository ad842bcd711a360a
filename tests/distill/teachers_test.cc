#include "distill/teachers.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"
#include "distill/distillation.h"
#include "distill/training.h"
#include "teacher/teach_stage.h"
#include "tests/teacher/tiny_world.h"

namespace overproof {
namespace {

constexpr const char* kEveryField = "no teacher is responsible";

/// TinyWorld, whose two documents name the teachers "first" and "second", with two models and their soft targets.
struct TwoTeachers {
  TinyWorld world;
  std::shared_ptr<const Corpus> corpus;
  TwoTeachers() : corpus(std::make_shared<const Corpus>(world.path / "corpus")) {
    const ModelConfig config = tiny_config();
    Decoder other(config, RandomSource(config));
    {
      at::NoGradGuard no_grad;
      for (NamedTensor& t : other.parameters())
        if (t.tensor.dim() > 1) t.tensor.mul_(-0.7);
    }
    fs::create_directories(world.path / "other");
    OutputFolder folder(world.path / "other");
    save_decoder(other, folder, DType::f32);
    folder.write_file("tokenizer.json", byte_tokenizer("<|endoftext|>"));
    teach("targets", "teacher", 7);
  }

  void teach(const std::string& name, const std::string& teacher, int64_t windows, TeachConfig config = {}) const {
    config.tokens = 32 * windows;
    Outputs outputs = world.fresh(name);
    run_teach(config, Inputs({{"teacher", artifact(teacher)}, {"corpus", artifact("corpus")}}), outputs);
  }
  InputArtifact artifact(const std::string& name) const { return {world.path / name, sha256(std::string_view(name))}; }

  Inputs inputs(const std::map<std::string, std::string>& teachers) const {
    std::map<std::string, InputArtifact> slots = {
        {"student", artifact("other")}, {"corpus", artifact("corpus")}, {"targets", artifact("targets")}};
    for (const auto& [name, folder] : teachers) slots[name] = artifact(folder);
    return Inputs(slots);
  }
  Teachers open(const DistillConfig& config, const std::map<std::string, std::string>& teachers) const {
    const Inputs bound = inputs(teachers);
    return open_teachers(config, bound, corpus, open_targets(*corpus, bound));
  }
  TokenBatch batch() const {
    TokenBatch all = WindowBatches(corpus, Split::train, [](int64_t p) { return p; }, 6, 1).at(0);
    for (size_t i = 0; i < all.weight.size(); ++i) all.weight[i] = float(1 + i % 3) / 2;
    return all;
  }
  /// The number of the document of each label.
  std::vector<int> documents_of(const TokenBatch& batch) const {
    std::vector<int> list;
    for (int64_t b = 0; b < batch.batch; ++b)
      for (int64_t r = 0; r < batch.length; ++r)
        list.push_back(int(corpus->document_at(Split::train, batch.numbers[size_t(b)] * batch.length + r + 1).name == "1.txt"));
    return list;
  }
};

DistillConfig routed_by_teacher() {
  DistillConfig config;
  config.teachers.route_by = RouteField::teacher;
  return config;
}

struct Losses {
  LossSums sums;
  at::Tensor d_hidden, d_head;
};

Losses losses_of(const TokenBatch& batch, const TeacherSignal& signal, const at::Tensor& hidden, const at::Tensor& head) {
  Losses out;
  out.d_head = at::zeros_like(head);
  LossOptions options;
  options.terms = {{&kForwardKl, 0.8}, {&kCrossEntropy, 0.2}};
  out.sums = batch_loss(batch, signal, 0, batch.batch, hidden, head, options, &out.d_hidden, &out.d_head);
  return out;
}

double apart(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace

TEST_CASE("a routed batch is, in value and gradient, that of each teacher on its documents") {
  const TwoTeachers two;
  two.teach("others", "other", 7);
  at::manual_seed(3);
  TokenBatch batch = two.batch();
  TrainingOrder order(SoftTargets(two.world.path / "targets").order_key(), two.corpus->windows(Split::train), 7);
  for (int64_t b = 0; b < 6; ++b) batch.numbers[size_t(b)] = order.window_of_block(b);  // windows that are taught
  const std::vector<int> document = two.documents_of(batch);
  REQUIRE(std::ranges::count(document, 0) > 20);
  REQUIRE(std::ranges::count(document, 1) > 20);
  const at::Tensor hidden = at::randn({6 * 32, 24}), head = at::randn({257, 24});
  const std::map<std::string, std::string> cases[] = {{{"first", "teacher"}, {"second", "other"}},
                                                      {{"first", "targets"}, {"second", "others"}},
                                                      {{"first", "targets"}, {"second", "other"}}};
  for (const auto& teachers : cases) {
    const Teachers routed = two.open(routed_by_teacher(), teachers);
    const Losses together = losses_of(batch, *routed.signal, hidden, head);
    LossSums sums;
    at::Tensor d_hidden = at::zeros_like(hidden), d_head = at::zeros_like(head);
    std::vector<Digest> digests[2];
    for (int one = 0; one < 2; ++one) {
      TokenBatch of_one = batch;
      for (size_t i = 0; i < document.size(); ++i) of_one.weight[i] *= float(document[i] == one);
      DistillConfig config;
      const std::string name = one == 0 ? "first" : "second";
      config.teachers.mix = {{name, "1"}};
      const Teachers alone = two.open(config, {{name, teachers.at(name)}});
      const Losses losses = losses_of(of_one, *alone.signal, hidden, head);
      sums += losses.sums;
      d_hidden += losses.d_hidden;
      d_head += losses.d_head;
      digests[one] = alone.signal->digests(batch);
    }
    CHECK(together.sums.weight == Approx(sums.weight).epsilon(1e-12));
    for (size_t t = 0; t < 2; ++t) CHECK(together.sums.values[t] == Approx(sums.values[t]).epsilon(1e-6));
    CHECK(apart(together.d_hidden, d_hidden) < 1e-5);
    CHECK(apart(together.d_head, d_head) < 1e-5);

    // Bound to the rows of the teachers that have a label in the sequence, and of no other.
    const std::vector<Digest> bound = routed.signal->digests(batch);
    for (size_t b = 0; b < 6; ++b) {
      std::vector<Digest> expected;
      for (int one = 0; one < 2; ++one)
        if (std::find(document.begin() + ptrdiff_t(b) * 32, document.begin() + ptrdiff_t(b + 1) * 32, one) !=
            document.begin() + ptrdiff_t(b + 1) * 32)
          expected.push_back(digests[one][b]);
      CHECK(bound[b] == joined_digest(expected));
    }
    CHECK(routed.alongside == (teachers.at("first") == "teacher"));
    REQUIRE(routed.facts->size() == 2);
    CHECK(routed.facts->at(1).at("documents") == 1);
  }
  const Teachers both = two.open(routed_by_teacher(), cases[2]);
  CHECK(both.signal->kind() == TargetKind::sampled);  // so that only losses that take all kinds are left
  CHECK_THROWS_AS(require_targets({{&kReverseKl, 1.0}}, both.signal->kind()), UsageError);
}

TEST_CASE("routes by the same teacher change nothing, whatever a micro-batch is") {
  const TwoTeachers two;
  at::manual_seed(4);
  const TokenBatch batch = two.batch();
  const at::Tensor hidden = at::randn({6 * 32, 24}), head = at::randn({257, 24});
  const Teachers routed = two.open(routed_by_teacher(), {{"first", "teacher"}, {"second", "teacher"}});
  DistillConfig config;
  config.teachers.mix = {{"first", "3"}};
  const Teachers alone = two.open(config, {{"first", "teacher"}});
  const Losses a = losses_of(batch, *routed.signal, hidden, head), b = losses_of(batch, *alone.signal, hidden, head);
  CHECK(a.sums.values[0] == Approx(b.sums.values[0]).epsilon(1e-7));
  CHECK(apart(a.d_hidden, b.d_hidden) < 1e-6);
  LossOptions options;
  LossSums parts;
  options.gradient = false;
  for (int64_t first = 0; first < 6; first += 2)
    parts += batch_loss(batch, *routed.signal, first, 2, hidden.narrow(0, first * 32, 64), head, options, nullptr, nullptr);
  CHECK(parts.values[0] == Approx(a.sums.values[0]).epsilon(1e-7));
}

TEST_CASE("several teachers that cannot be right are refused, with the remedy") {
  const TwoTeachers two;
  TeachConfig top_k;
  top_k.mode = RowEncoding::Kind::top_k;
  two.teach("top-k", "other", 7, top_k);
  two.teach("fewer", "other", 5);
  TeachConfig warm;
  warm.temperature = 2;
  two.teach("warm", "other", 7, warm);
  const auto fails = [&](const DistillConfig& config, const std::map<std::string, std::string>& teachers, const std::string& words) {
    INFO(words);
    CHECK_THROWS_WITH(two.open(config, teachers), Catch::Contains(words));
  };
  const auto mix = [](StringMap shares) {
    DistillConfig config;
    config.teachers.mix = std::move(shares);
    return config;
  };
  const auto route = [](StringMap routes, RouteField field = RouteField::source) {
    DistillConfig config;
    config.teachers.route_by = field;
    config.teachers.routes = std::move(routes);
    return config;
  };
  fails({}, {{"a", "other"}}, "give --mix or --route-by");
  fails(mix({{"a", "1"}, {"b", "1"}}), {{"a", "other"}}, "there is no teacher 'b'; there are a, targets");
  fails(mix({{"targets", "1"}}), {{"a", "other"}}, "'a' has no share");
  fails(mix({{"targets", "1"}, {"a", "-1"}}), {{"a", "other"}}, "the share of 'a' is '-1'");
  fails(mix({{"targets", "0"}}), {}, "teaches nothing");
  fails(mix({{"targets", "1"}, {"a", "1"}}), {{"a", "top-k"}}, "top-k targets cannot be mixed");
  fails(mix({{"targets", "1"}, {"a", "1"}}), {{"a", "fewer"}}, "cover other windows");
  fails(mix({{"targets", "1"}, {"a", "1"}}), {{"a", "warm"}}, "teach again with one --temperature");
  fails(route({{"first", "targets"}, {"second", "a"}}, RouteField::teacher), {{"a", "warm"}}, "temperatures of the teachers differ");
  fails(mix({{"targets", "1"}}), {{"statistics", "other"}}, "cannot be called 'statistics'");
  fails(route({{"other", "a"}, {"*", "targets"}}), {{"a", "other"}}, "no document has the source 'other'");
  fails(route({{"other", "a"}}), {{"a", "other"}}, kEveryField);
  fails(route({{"*", "b"}}), {{"a", "other"}}, "names no teacher");
  fails(route({{"*", "targets"}}), {{"a", "other"}}, "no document has a route to the teacher 'a'");
  fails(route({}, RouteField::teacher), {{"first", "other"}}, "of which the teacher is 'second'");
  DistillConfig both = mix({{"a", "1"}});
  both.teachers.route_by = RouteField::source;
  fails(both, {{"a", "other"}}, "give one of them");
  DistillConfig shared = mix({{"a", "1"}});
  shared.teacher_share = 0.25;
  fails(shared, {{"a", "other"}}, "give one of them");
  DistillConfig lost;
  lost.teachers.routes = {{"test", "targets"}};
  fails(lost, {}, "needs 'route-by'");

  DistillConfig on_policy = routed_by_teacher();
  on_policy.on_policy.share = 0.5;
  CHECK_THROWS_WITH(make_distillation(on_policy, two.inputs({{"first", "teacher"}, {"second", "other"}})), Catch::Contains("belongs to no document"));
  DistillConfig stored = mix({{"targets", "1"}, {"a", "1"}});
  stored.on_policy.share = 0.5;
  CHECK_THROWS_WITH(make_distillation(stored, two.inputs({{"a", "other"}})), Catch::Contains("nothing is stored"));
  DistillConfig layers = mix({{"a", "1"}, {"b", "1"}});
  layers.loss = {{"hidden-mse", "1"}};
  CHECK_THROWS_WITH(make_distillation(layers, two.inputs({{"a", "other"}, {"b", "teacher"}})), Catch::Contains("several teachers"));
}

TEST_CASE("without soft targets the order of all windows follows from a seed") {
  const TwoTeachers two;
  const Inputs inputs({{"student", two.artifact("other")}, {"corpus", two.artifact("corpus")}, {"teacher", two.artifact("teacher")}});
  DistillConfig config;
  config.order_seed = 5;
  config.training.batch_size = 2;
  const Distillation distillation = make_distillation(config, inputs);
  const int64_t windows = two.corpus->windows(Split::train);
  CHECK(distillation.taught_windows == windows);
  CHECK(distillation.training.steps() == (windows + 1) / 2);
  CHECK(distillation.training.signal().kind() == TargetKind::whole);
  const Inputs nothing({{"student", two.artifact("other")}, {"corpus", two.artifact("corpus")}});
  CHECK_THROWS_WITH(make_distillation(config, nothing), Catch::Contains("nothing to learn from"));
  DistillConfig stored;
  stored.teachers.mix = {{"a", "1"}};
  const Inputs unordered({{"student", two.artifact("other")}, {"corpus", two.artifact("corpus")}, {"a", two.artifact("targets")}});
  CHECK_THROWS_WITH(make_distillation(stored, unordered), Catch::Contains("give those that fix it with --targets"));
}

TEST_CASE("held-out windows are compared with all teachers where none is stored") {
  const TwoTeachers two;
  DistillConfig config = routed_by_teacher();
  config.evaluate_every = 1;
  CHECK(two.open(config, {{"first", "teacher"}, {"second", "other"}}).held_out != nullptr);
  CHECK(two.open(config, {{"first", "targets"}, {"second", "other"}}).held_out == nullptr);
  DistillConfig mix;
  mix.evaluate_every = 1;
  mix.teachers.mix = {{"a", "1"}, {"b", "2"}};
  const Teachers mixed = two.open(mix, {{"a", "teacher"}, {"b", "other"}});
  REQUIRE(mixed.held_out != nullptr);
  CHECK(mixed.facts->at(0).at("share").get<double>() == Approx(1.0 / 3));
  CHECK(mixed.held_out->rows(two.batch(), 0, 1).at(0).states.size() == 2);
}

}  // namespace overproof
