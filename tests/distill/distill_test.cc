#include <ATen/ATen.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"
#include "data/corpus_stage.h"
#include "distill/calibrate_stage.h"
#include "distill/checkpoint.h"
#include "distill/distill_stage.h"
#include "distill/trainer.h"
#include "student/carve_stage.h"
#include "student/observe_stage.h"
#include "student/tiny_stage.h"
#include "teacher/teach_stage.h"
#include "tests/student/temporary_folder.h"

extern char** environ;

namespace overproof {
namespace {

// Words of a small grammar: something to read, made by a seed.
std::string some_text(uint64_t document) {
  static const std::vector<std::string> words = {"the ", "router ", "sends ", "tokens ", "to ", "an ", "expert ", "which ", "adds ", "what ", "it ", "knows.\n"};
  Rng rng(11, "text", document);
  std::string text = fmt::format("Document {}\n", document);
  while (text.size() < 900) text += words[rng.below(words.size())];
  return text;
}

// teacher, corpus, targets, statistics, student under one folder; roots are digests of their names.
struct World {
  fs::path folder;
  InputArtifact artifact(const std::string& name) const { return {folder / name, sha256(std::string_view(name))}; }
  Outputs outputs(const std::string& name) const {
    fs::create_directories(folder / (name + ".scratch"));
    return Outputs(folder / name, folder / (name + ".scratch"));
  }
  Inputs distill_inputs() const {
    return Inputs({{"student", artifact("student")}, {"targets", artifact("targets")}, {"corpus", artifact("corpus")}});
  }
};

void make_world(const World& world) {
  {
    TinyTeacherConfig config;
    config.layers = 2;
    config.hidden_size = 32;
    config.intermediate_size = 64;
    Outputs out = world.outputs("teacher");
    run_tiny_teacher(config, Inputs({}), out);
  }
  std::string table;
  for (uint64_t d = 0; d < 24; ++d) {
    const std::string name = fmt::format("{}.txt", d);
    fs::create_directories(world.folder / "source");
    write_file_atomically(world.folder / "source" / name, some_text(d));
    table += Json{{"name", name}, {"license", "CC0-1.0"}, {"source", "tests"}}.dump() + "\n";
  }
  write_file_atomically(world.folder / "source" / "documents.jsonl", table);
  CorpusConfig corpus;
  corpus.window_length = 32;
  corpus.held_out = 0.2;
  Outputs corpus_out = world.outputs("corpus");
  run_corpus(corpus, Inputs({{"source", world.artifact("source")}, {"tokenizer", world.artifact("teacher")}}), corpus_out);

  const Inputs teaching({{"teacher", world.artifact("teacher")}, {"corpus", world.artifact("corpus")}});
  TeachConfig teach;
  teach.tokens = 40 * 32;
  Outputs targets_out = world.outputs("targets");
  run_teach(teach, teaching, targets_out);
  ObserveConfig observe;
  observe.tokens = 512;
  Outputs statistics_out = world.outputs("statistics");
  run_observe(observe, teaching, statistics_out);
  StudentConfig student;
  student.experts = 7;
  student.top_k = 2;
  student.certificate_tokens = 64;
  Outputs student_out = world.outputs("student");
  run_student(student, Inputs({{"teacher", world.artifact("teacher")}, {"statistics", world.artifact("statistics")}}), student_out);
}

DistillConfig short_run() {
  DistillConfig config;
  config.steps = 24;
  config.batch_size = 3;
  config.micro_batch = 2;
  config.warmup = 2;
  config.ce_weight = 0.1;
  config.balance_rate = 1e-3;
  config.checkpoint_every = 1;
  config.digest_every = 4;
  config.keep_every = 6;
  return config;
}

std::string weights_of(const World& world, const std::string& name) { return read_file(world.folder / name / "model.safetensors"); }

std::vector<Json> steps_of(const World& world, const std::string& name) {
  std::vector<Json> steps;
  const std::string text = read_file(world.folder / name / "steps.jsonl");
  for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) steps.push_back(Json::parse(text.substr(at, text.find('\n', at) - at)));
  return steps;
}

// Against the teacher's whole distribution: the training loss of sampled targets has a floor above zero.
double held_out_kl(const World& world, const std::string& name) {
  CalibrateConfig config;
  config.target_activation = 3.0 / 8;
  config.steps = 0;
  Outputs out = world.outputs(name + "-measured");
  const Inputs inputs({{"student", world.artifact(name)}, {"teacher", world.artifact("teacher")}, {"corpus", world.artifact("corpus")}});
  return run_calibrate(config, inputs, out).metrics().at("kl_before").get<double>();
}

}  // namespace

TEST_CASE("distillation lowers the KL, and refuses what does not belong together") {
  const TemporaryFolder folder;
  const World world{folder.path()};
  make_world(world);
  DistillConfig config = short_run();
  config.steps = 60;
  config.checkpoint_every = 0;
  Outputs out = world.outputs("trained");
  const StageReport report = run_distill(config, world.distill_inputs(), out);
  const std::vector<Json> steps = steps_of(world, "trained");
  REQUIRE(steps.size() == 60);
  CHECK(held_out_kl(world, "trained") < 0.8 * held_out_kl(world, "student"));
  CHECK(report.metrics().at("expert_load").size() == 2);
  CHECK(report.metrics().at("ffn_activation").get<double>() == Approx(3.0 / 8));

  Inputs other({{"student", world.artifact("student")}, {"targets", world.artifact("targets")}, {"corpus", {folder.path() / "corpus", Digest{}}}});
  Outputs refused = world.outputs("refused");
  CHECK_THROWS_AS(run_distill(config, other, refused), UsageError);
  config.keep_every = 5;
  config.digest_every = 0;
  CHECK_THROWS_WITH(run_distill(config, world.distill_inputs(), refused), Catch::Contains("found by its digest"));
  config.train = "experts,ruoter";
  CHECK_THROWS_WITH(run_distill(config, world.distill_inputs(), refused), Catch::Contains("did you mean 'router'"));

  SECTION("calibration takes top-k from the activation and never leaves the router worse") {
    CalibrateConfig calibrate;
    calibrate.target_activation = 0.5;
    calibrate.steps = 10;
    calibrate.learning_rate = 1e-3;
    calibrate.held_out_windows = 4;
    const Inputs inputs({{"student", world.artifact("trained")}, {"teacher", world.artifact("teacher")}, {"corpus", world.artifact("corpus")}});
    Outputs calibrated = world.outputs("calibrated");
    const StageReport done = run_calibrate(calibrate, inputs, calibrated);
    CHECK(done.metrics().at("top_k") == 3);
    CHECK(done.metrics().at("ffn_activation").get<double>() == 0.5);
    CHECK(Decoder(open_checkpoint(folder.path() / "calibrated")).config().top_k == 3);
    const double overlap = done.metrics().at("routing_overlap");
    CHECK((overlap > 0.0 && overlap <= 1.0));
    CHECK(done.metrics().at("tuning_kept").get<bool>() == (done.metrics().at("kl_after").get<double>() <= done.metrics().at("kl_before").get<double>()));

    // Tuning that ruins the router is undone: only top_k differs from the model that came in.
    calibrate.learning_rate = 10;
    calibrate.clip = 0;
    calibrate.router_lr_scale = 100;
    Outputs ruined = world.outputs("ruined");
    const StageReport undone = run_calibrate(calibrate, inputs, ruined);
    CHECK_FALSE(undone.metrics().at("tuning_kept").get<bool>());
    CHECK(weights_of(world, "ruined") == weights_of(world, "trained"));
  }
}

TEST_CASE("a run that stops in the middle goes on bitwise the same") {
  const TemporaryFolder folder;
  const World world{folder.path()};
  make_world(world);
  const DistillConfig config = short_run();
  Outputs whole = world.outputs("whole");
  const StageReport expected = run_distill(config, world.distill_inputs(), whole);

  SECTION("killed with SIGKILL at several moments") {
    ::setenv("OVERPROOF_TEST_WORLD", folder.path().c_str(), 1);
    const std::string self = fs::read_symlink("/proc/self/exe").string();
    const fs::path checkpoint = folder.path() / "killed.scratch" / "checkpoint.safetensors";
    int kills = 0;
    for (int round = 0; round < 4; ++round) {
      std::string program = self, child = "[killed-child]";
      char* arguments[] = {program.data(), child.data(), nullptr};
      pid_t process = 0;
      REQUIRE(::posix_spawn(&process, program.c_str(), nullptr, nullptr, arguments, environ) == 0);
      const auto before = fs::exists(checkpoint) ? fs::last_write_time(checkpoint) : fs::file_time_type::min();
      int status = 0;
      bool ended = false;
      // Wait for a checkpoint of this round, then a moment of another length each time: mid-step, or while writing the next.
      while (!(ended = ::waitpid(process, &status, WNOHANG) == process) && (!fs::exists(checkpoint) || fs::last_write_time(checkpoint) == before))
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      std::this_thread::sleep_for(std::chrono::milliseconds(7 * round));
      if (!ended) {
        ::kill(process, SIGKILL);
        ::waitpid(process, &status, 0);
      }
      if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ++kills;
      fs::remove_all(folder.path() / "killed");  // what pipeline/run_stage does with an unfinished folder
    }
    CHECK(kills >= 2);
    CHECK(fs::exists(checkpoint));
    Outputs out = world.outputs("killed");
    const StageReport report = run_distill(config, world.distill_inputs(), out);
    CHECK(weights_of(world, "killed") == weights_of(world, "whole"));
    for (const char* file : {"steps.jsonl", kStepRecordsFile})
      CHECK(read_file(folder.path() / "killed" / file) == read_file(folder.path() / "whole" / file));
    CHECK(report.metrics() == expected.metrics());
    const auto kept = [&] {
      int64_t states = 0;
      for (const auto& entry : fs::directory_iterator(folder.path() / kKeptFolder)) states += entry.path().extension() == ".safetensors";
      return states;
    };
    CHECK(kept() == 3);  // one each 6 steps, at the end of its segment of 4: after 8, 12, 20; the end is the artifact itself
  }

  SECTION("a checkpoint of another configuration is not taken up") {
    DistillConfig other = config;
    other.learning_rate = 5e-4;
    fs::rename(folder.path() / "whole.scratch", folder.path() / "other.scratch");
    Outputs out = world.outputs("other");
    run_distill(other, world.distill_inputs(), out);
    CHECK(steps_of(world, "other").at(5).at("lr") != steps_of(world, "whole").at(5).at("lr"));
  }
}

// Not a test of its own: the process that the one above kills.
TEST_CASE("distils the world it is given", "[.][killed-child]") {
  const char* folder = std::getenv("OVERPROOF_TEST_WORLD");
  REQUIRE(folder != nullptr);
  const World world{folder};
  Outputs out = world.outputs("killed");
  run_distill(short_run(), world.distill_inputs(), out);
}

TEST_CASE("top-k is the one nearest to the wanted activation") {
  CHECK(top_k_for_activation(0.25, 15, 1) == 3);
  CHECK(top_k_for_activation(0.5, 15, 1) == 7);
  CHECK(top_k_for_activation(0.01, 15, 1) == 1);
  CHECK(top_k_for_activation(1.0, 15, 1) == 15);
}

TEST_CASE("routing overlap is the mean Jaccard index") {
  const at::Tensor a = at::tensor({0, 1, 2, 3}, at::kInt).view({2, 2}), b = at::tensor({1, 2, 2, 3}, at::kInt).view({2, 2});
  CHECK(routing_overlap(a, b) == Approx((1.0 / 3 + 1.0) / 2));
  CHECK(routing_overlap(a, a) == 1.0);
}

TEST_CASE("learning rates warm up and fall") {
  TrainOptions options;
  options.steps = 110;
  options.warmup = 10;
  options.learning_rate = 1.0;
  CHECK(learning_rate_at(options, 0) == Approx(0.1));
  CHECK(learning_rate_at(options, 9) == Approx(1.0));
  CHECK(learning_rate_at(options, 60) == Approx(0.5));
  options.schedule = "linear";
  CHECK(learning_rate_at(options, 85) == Approx(0.25));
  options.schedule = "constant";
  CHECK(learning_rate_at(options, 109) == 1.0);
}

}  // namespace overproof
