#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <set>

#include "core/direct_file.h"
#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"
#include "data/corpus_stage.h"
#include "data/order.h"
#include "distill/calibrate_stage.h"
#include "distill/calibration.h"
#include "distill/checkpoint.h"
#include "distill/distillation.h"
#include "distill/distill_stage.h"
#include "distill/trainer.h"
#include "student/carve_stage.h"
#include "student/observe_stage.h"
#include "student/tiny_teacher_stage.h"
#include "records/resume.h"
#include "records/soft_targets.h"
#include "records/step_records.h"
#include "teacher/teach_stage.h"
#include "tests/model/random_model.h"
#include "tests/support.h"

extern char** environ;

namespace overproof {
namespace {

// A small grammar, by a seed.
std::string some_text(uint64_t document) {
  static const std::vector<std::string> words = {"the ",    "router ", "sends ", "tokens ", "to ", "an ",
                                                 "expert ", "which ",  "adds ",  "what ",   "it ", "knows.\n"};
  Rng rng(11, "text", document);
  std::string text = fmt::format("Document {}\n", document);
  while (text.size() < 900) text += words[rng.below(words.size())];
  return text;
}

// teacher, corpus, targets, statistics, student under one folder; roots are digests of their names.
struct World {
  fs::path folder;
  InputArtifact artifact(const std::string& name) const { return {folder / name, sha256(std::string_view(name))}; }
  Outputs outputs(const std::string& name, std::string_view stage_key = "stage key") const {
    fs::create_directories(folder / (name + ".scratch"));
    return Outputs(folder / name, folder / (name + ".scratch"), {}, sha256(stage_key));
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
    table += Json{{"name", name}, {"license", "CC0-1.0"}, {"source", fmt::format("source-{}", d % 3)}}.dump() + "\n";
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
  CarveConfig student;
  student.experts = 7;
  student.top_k = 2;
  student.certificate_tokens = 64;
  Outputs student_out = world.outputs("student");
  run_carve(student, Inputs({{"teacher", world.artifact("teacher")}, {"statistics", world.artifact("statistics")}}),
              student_out);
}

DistillConfig short_run() {
  DistillConfig config;
  config.training.steps = 24;
  config.training.batch_size = 3;
  config.training.micro_batch = 2;
  config.training.warmup = 2;
  config.ce_weight = 0.1;
  config.training.balance_rate = 1e-3;
  config.checkpoint_every = 1;
  config.training.digest_every = 4;
  config.training.keep_every = 6;
  config.training.dtype = WeightDType::bf16;
  return config;
}

/// The same with every state that a training may have in addition to weights and moments.
DistillConfig averaged_run() {
  DistillConfig config = short_run();
  config.training.ema = 0.9;
  config.training.schedule = Schedule::wsd;
  config.evaluate_every = 5;
  config.evaluate_windows = 2;
  config.patience = 100;
  return config;
}

std::string weights_of(const World& world, const std::string& name) {
  return read_file(world.folder / name / "model.safetensors");
}

std::vector<Json> steps_of(const World& world, const std::string& name) {
  std::vector<Json> steps;
  const std::string text = read_file(world.folder / name / "steps.jsonl");
  for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1)
    steps.push_back(Json::parse(text.substr(at, text.find('\n', at) - at)));
  return steps;
}

// Against the teacher's whole distribution: the training loss of sampled targets has a floor above zero.
double held_out_kl(const World& world, const std::string& name) {
  CalibrateConfig config;
  config.target_activation = 3.0 / 8;
  config.training.steps = 0;
  Outputs out = world.outputs(name + "-measured");
  const Inputs inputs(
      {{"student", world.artifact(name)}, {"teacher", world.artifact("teacher")}, {"corpus", world.artifact("corpus")}});
  return run_calibrate(config, inputs, out).metrics().at("kl_before").get<double>();
}

}  // namespace

TEST_CASE("a teacher that overflows is refused by observe, with the layer") {
  const TempFolder folder;
  const World world{folder.path()};
  make_world(world);
  Decoder huge(open_checkpoint(world.folder / "teacher"));
  {
    at::NoGradGuard no_grad;
    huge.weights().layers[1].post_norm.fill_(1e30);
  }
  fs::create_directories(world.folder / "huge");
  OutputFolder out(world.folder / "huge");
  save_decoder(huge, out, DType::f32);
  out.write_file("tokenizer.json", read_file(world.folder / "teacher/tokenizer.json"));
  ObserveConfig observe;
  observe.tokens = 64;
  Outputs statistics = world.outputs("huge-statistics");
  const Inputs inputs({{"teacher", world.artifact("huge")}, {"corpus", world.artifact("corpus")}});
  CHECK_THROWS_AS(run_observe(observe, inputs, statistics), DivergenceError);
  Outputs again = world.outputs("huge-again");
  CHECK_THROWS_WITH(run_observe(observe, inputs, again), Catch::Contains("layer 1, window 0"));
}

TEST_CASE("distillation lowers the KL, and refuses what does not belong together") {
  const TempFolder folder;
  const World world{folder.path()};
  make_world(world);
  DistillConfig config = short_run();
  config.training.steps = 60;
  config.checkpoint_every = 0;
  Outputs out = world.outputs("trained");
  const StageReport report = run_distill(config, world.distill_inputs(), out);
  const std::vector<Json> steps = steps_of(world, "trained");
  REQUIRE(steps.size() == 60);
  CHECK(held_out_kl(world, "trained") < 0.8 * held_out_kl(world, "student"));
  CHECK(report.metrics().at("expert_load").size() == 2);
  CHECK(report.metrics().at("ffn_activation").get<double>() == Approx(3.0 / 8));

  Inputs other({{"student", world.artifact("student")},
                {"targets", world.artifact("targets")},
                {"corpus", {folder.path() / "corpus", Digest{}}}});
  Outputs refused = world.outputs("refused");
  CHECK_THROWS_AS(run_distill(config, other, refused), MismatchError);
  config.training.keep_every = 5;
  config.training.digest_every = 0;
  CHECK_THROWS_WITH(run_distill(config, world.distill_inputs(), refused), Catch::Contains("found by its digest"));
  Options options = options_of(config);
  CHECK_THROWS_WITH(find_option(options, "train", "").assign("experts,ruoter"), Catch::Contains("did you mean 'router'"));

  SECTION("calibration takes top-k from the activation and never leaves the router worse") {
    CalibrateConfig calibrate;
    calibrate.target_activation = 0.5;
    calibrate.training.steps = 10;
    calibrate.training.learning_rate = 1e-3;
    calibrate.held_out_windows = 4;
    const Inputs inputs(
        {{"student", world.artifact("trained")}, {"teacher", world.artifact("teacher")}, {"corpus", world.artifact("corpus")}});
    Outputs calibrated = world.outputs("calibrated");
    const StageReport done = run_calibrate(calibrate, inputs, calibrated);
    CHECK(done.metrics().at("top_k") == 3);
    CHECK(done.metrics().at("ffn_activation").get<double>() == 0.5);
    CHECK(Decoder(open_checkpoint(folder.path() / "calibrated")).config().top_k == 3);
    const double overlap = done.metrics().at("routing_overlap");
    CHECK((overlap > 0.0 && overlap <= 1.0));
    // A sound tuning helps and is kept: the weights differ from those before it, and so does the KL, measured by another run.
    CHECK(done.metrics().at("tuning_kept").get<bool>());
    CHECK(done.metrics().at("kl_after").get<double>() < done.metrics().at("kl_before").get<double>());
    CHECK(weights_of(world, "calibrated") != weights_of(world, "trained"));
    calibrate.training.steps = 0;
    Outputs again = world.outputs("calibrated-again");
    const Inputs tuned(
        {{"student", world.artifact("calibrated")}, {"teacher", world.artifact("teacher")}, {"corpus", world.artifact("corpus")}});
    CHECK(run_calibrate(calibrate, tuned, again).metrics().at("kl_before") == done.metrics().at("kl_after"));
    calibrate.training.steps = 10;

    // Tuning that ruins the router is undone: only top_k differs from the model that came in.
    calibrate.training.learning_rate = 10;
    calibrate.training.clip = 0;
    calibrate.training.router_lr_scale = 100;
    Outputs ruined = world.outputs("ruined");
    const StageReport undone = run_calibrate(calibrate, inputs, ruined);
    CHECK_FALSE(undone.metrics().at("tuning_kept").get<bool>());
    CHECK(weights_of(world, "ruined") == weights_of(world, "trained"));
  }
}

TEST_CASE("a teacher alongside is mixed with the soft targets, and gives targets that every loss can use") {
  const TempFolder folder;
  const World world{folder.path()};
  make_world(world);
  DistillConfig config = short_run();
  config.ce_weight = 0;
  config.checkpoint_every = 0;
  Inputs inputs({{"student", world.artifact("student")},
                 {"targets", world.artifact("targets")},
                 {"corpus", world.artifact("corpus")},
                 {"teacher", world.artifact("teacher")}});
  const double before = held_out_kl(world, "student");
  const auto train = [&](const std::string& name, const Inputs& with) {
    Outputs out = world.outputs(name);
    run_distill(config, with, out);
    return steps_of(world, name);
  };
  const auto last_loss = [](const std::vector<Json>& steps) { return steps.back().at("loss").get<double>(); };

  train("half", inputs);  // half of each, by forward KL
  CHECK(held_out_kl(world, "half") < before);
  CHECK(weights_of(world, "half") != weights_of(world, "student"));

  config.loss = {{"jensen-shannon:0.3", "1"}, {"reverse-kl", "0.5"}, {"total-variation", "0"}};
  for (const double share : {0.0, 0.5}) {  // sampled targets, in part or alone
    config.teacher_share = share;
    Outputs refused = world.outputs("refused");
    CHECK_THROWS_WITH(run_distill(config, inputs, refused), Catch::Contains("'reverse-kl'") && Catch::Contains("sampled"));
  }
  config.teacher_share = 1;
  config.training.micro_batch = 1;
  const std::vector<Json> one = train("one", inputs);
  config.training.micro_batch = 3;
  const std::vector<Json> three = train("three", inputs);
  CHECK(held_out_kl(world, "one") < before);
  CHECK(last_loss(one) == Approx(last_loss(three)).epsilon(1e-3));
  std::vector<std::string> names;
  for (const auto& [name, value] : one.back().at("terms").items()) {
    names.push_back(name);
    CHECK(value.get<double>() >= 0);
  }
  CHECK(names == std::vector<std::string>{"jensen-shannon", "reverse-kl", "total-variation"});
  CHECK(one.back().at("terms").at("reverse-kl").get<double>() < one.front().at("terms").at("reverse-kl").get<double>());
}

TEST_CASE("a student learns at what it writes itself, and a resumed training writes the same") {
  const TempFolder folder;
  const World world{folder.path()};
  make_world(world);
  DistillConfig config = short_run();
  config.ce_weight = 0;
  config.loss = {{"reverse-kl", "1"}}, config.checkpoint_every = 9;
  config.on_policy = {.share = 0.5, .prompt = 4, .tokens = 12};
  Outputs refused = world.outputs("refused");
  CHECK_THROWS_WITH(run_distill(config, world.distill_inputs(), refused), Catch::Contains("'on-policy'") && Catch::Contains("--teacher-share 1"));
  std::map<std::string, InputArtifact> slots;
  for (const char* slot : {"student", "targets", "corpus", "teacher"}) slots[slot] = world.artifact(slot);
  const Inputs inputs(slots);
  CHECK_THROWS_WITH(run_distill(config, inputs, refused), Catch::Contains("'on-policy'"));
  config.teacher_share = 1;
  const double before = held_out_kl(world, "student");
  Outputs whole = world.outputs("whole");
  CHECK(run_distill(config, inputs, whole).metrics().at("on_policy_steps") == 12);
  CHECK(held_out_kl(world, "whole") < before);
  const std::vector<Json> steps = steps_of(world, "whole");
  CHECK((steps[0].at("weight") == 3 * 32 && steps[1].at("weight") <= 3 * 12));  // a window of the corpus, what the student wrote
  fs::rename(folder.path() / "whole.scratch", folder.path() / "resumed.scratch");  // its last checkpoint: after 18 of 24 steps
  Outputs resumed = world.outputs("resumed");
  run_distill(config, inputs, resumed);
  for (const char* file : {"model.safetensors", "steps.jsonl", kStepRecordsFile})
    CHECK(read_file(folder.path() / "resumed" / file) == read_file(folder.path() / "whole" / file));
}

TEST_CASE("a killed training resumes, and ends with the same bytes") {
  const TempFolder folder;
  const World world{folder.path()};
  make_world(world);
  const bool averaged = GENERATE(false, true);
  const DistillConfig config = averaged ? averaged_run() : short_run();  // writes bf16, and resumes in f32
  Outputs whole = world.outputs("whole");
  const StageReport expected = run_distill(config, world.distill_inputs(), whole);

  SECTION("killed with SIGKILL at a write of data, again and again") {
    ::setenv("OVERPROOF_TEST_WORLD", folder.path().c_str(), 1);
    ::setenv("OVERPROOF_TEST_AVERAGED", averaged ? "1" : "0", 1);
    const std::string self = fs::read_symlink("/proc/self/exe").string();
    // One write a checkpoint or kept state: each process makes some steps more than the one before it had left.
    for (const char* write : {"1", "3", "6", "9"}) {
      ::setenv("OVERPROOF_TEST_WRITES", write, 1);
      std::string program = self, child = "[killed-child]";
      char* arguments[] = {program.data(), child.data(), nullptr};
      pid_t process = 0;
      REQUIRE(::posix_spawn(&process, program.c_str(), nullptr, nullptr, arguments, environ) == 0);
      int status = 0;
      ::waitpid(process, &status, 0);
      REQUIRE((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
      fs::remove_all(folder.path() / "killed");  // what pipeline/run_stage does with an unfinished folder
    }
    REQUIRE(fs::exists(folder.path() / "killed.scratch" / kResumeFile));
    Outputs out = world.outputs("killed");
    const StageReport report = run_distill(config, world.distill_inputs(), out);
    CHECK(weights_of(world, "killed") == weights_of(world, "whole"));
    for (const char* file : {"steps.jsonl", kStepRecordsFile})
      CHECK(read_file(folder.path() / "killed" / file) == read_file(folder.path() / "whole" / file));
    CHECK(report.metrics() == expected.metrics());
    CHECK(read_file(folder.path() / "killed" / kRouterCountsFile) == read_file(folder.path() / "whole" / kRouterCountsFile));
    const auto kept = [&] {
      int64_t states = 0;
      for (const auto& entry : fs::directory_iterator(folder.path() / kKeptFolder))
        states += entry.path().extension() == ".safetensors";
      return states;
    };
    const std::string state = read_file(folder.path() / "killed.scratch" / kResumeFile);
    CHECK(Json::parse(state.substr(0, state.find('\n')))["progress"]["steps"] == 23);
    CHECK(kept() == 3);  // one each 6 steps, at the end of its segment of 4: after 8, 12, 20; the end is the artifact itself
  }

  SECTION("a checkpoint of another stage key, or one that was changed, is not resumed from") {
    // With these losses in its log a resumed run would show them again.
    fs::rename(folder.path() / "whole.scratch", folder.path() / "other.scratch");
    DistillConfig other = config;
    other.training.learning_rate = 5e-4;
    Outputs out = world.outputs("other", "another key");
    run_distill(other, world.distill_inputs(), out);
    CHECK(steps_of(world, "other").at(5).at("lr") != steps_of(world, "whole").at(5).at("lr"));
    Outputs again = world.outputs("other", "another key");
    run_distill(config, world.distill_inputs(), again);  // the key is trusted to name the configuration: 23 of 24 steps are resumed
    CHECK(steps_of(world, "other").at(5).at("lr") != steps_of(world, "whole").at(5).at("lr"));
    const fs::path checkpoint = folder.path() / "other.scratch" / "checkpoint-23.safetensors";
    std::fstream(checkpoint, std::ios::in | std::ios::out | std::ios::binary).seekp(-9, std::ios::end) << '\xff';
    Outputs fresh = world.outputs("other", "another key");
    run_distill(config, world.distill_inputs(), fresh);
    CHECK(weights_of(world, "other") == weights_of(world, "whole"));
  }
}

TEST_CASE("a student in bf16 is trained in f32 and rounded once, at the end; its successors keep its type") {
  const TempFolder folder;
  const World world{folder.path()};
  make_world(world);
  DistillConfig config = short_run();
  config.checkpoint_every = 0;
  config.training.keep_every = 0;
  config.training.dtype = WeightDType::f32;
  Outputs wide = world.outputs("wide");
  const StageReport reference = run_distill(config, world.distill_inputs(), wide);
  CHECK(reference.metrics().at("dtype") == "F32");
  CHECK_FALSE(reference.metrics().contains(kPublishedWeights));
  config.training.dtype = WeightDType::bf16;
  Outputs narrow = world.outputs("narrow");
  const StageReport report = run_distill(config, world.distill_inputs(), narrow);
  CHECK(report.metrics().at("dtype") == "BF16");
  CHECK(report.metrics().at(kPublishedWeights) == digest_of_checkpoint(folder.path() / "narrow").hex());
  for (const char* file : {"steps.jsonl", kStepRecordsFile})  // the training itself is the same
    CHECK(read_file(folder.path() / "narrow" / file) == read_file(folder.path() / "wide" / file));
  const Checkpoint a = open_checkpoint(folder.path() / "wide"), b = open_checkpoint(folder.path() / "narrow");
  for (const TensorInfo& info : a.tensors->tensors()) {
    const at::Tensor values = at::tensor(a.tensors->read_all_f32(info.name));
    const bool router = b.tensors->find(info.name)->dtype == DType::f32;
    CHECK(router == (info.name.find("mlp.gate.") != std::string::npos));
    CHECK(at::equal(router ? values : values.to(at::kBFloat16).to(at::kFloat), at::tensor(b.tensors->read_all_f32(info.name))));
  }

  const Inputs inputs(
      {{"student", world.artifact("narrow")}, {"teacher", world.artifact("teacher")}, {"corpus", world.artifact("corpus")}});
  CalibrateConfig calibrate;
  calibrate.target_activation = 0.5;
  calibrate.training.steps = 4;
  calibrate.training.digest_every = 2;
  Outputs tuned = world.outputs("tuned");
  const StageReport done = run_calibrate(calibrate, inputs, tuned);
  CHECK(done.metrics().at("dtype") == "BF16");
  CHECK(done.metrics().at(kPublishedWeights) == digest_of_checkpoint(folder.path() / "tuned").hex());
  // What was measured is what was written.
  calibrate.training.steps = 0;
  const Inputs after(
      {{"student", world.artifact("tuned")}, {"teacher", world.artifact("teacher")}, {"corpus", world.artifact("corpus")}});
  Outputs measured = world.outputs("tuned-measured");
  const char* written = done.metrics().at("tuning_kept") == true ? "kl_after" : "kl_before";
  CHECK(run_calibrate(calibrate, after, measured).metrics().at("kl_before") == done.metrics().at(written));
  // Tuning that ruins the router is undone to the bytes of the parent.
  calibrate.training.steps = 4;
  calibrate.training.learning_rate = 10;
  calibrate.training.clip = 0;
  calibrate.training.router_lr_scale = 100;
  Outputs ruined = world.outputs("ruined");
  CHECK_FALSE(run_calibrate(calibrate, inputs, ruined).metrics().at("tuning_kept").get<bool>());
  CHECK(weights_of(world, "ruined") == weights_of(world, "narrow"));
}

// Not a test of its own: the process that the one above kills.
TEST_CASE("distils the world it is given", "[.][killed-child]") {
  const char* folder = std::getenv("OVERPROOF_TEST_WORLD");
  REQUIRE(folder != nullptr);
  static int64_t left = 0;
  left = std::atoll(std::getenv("OVERPROOF_TEST_WRITES"));
  file_calls().pwrite = [](int fd, const void* from, size_t bytes, off_t at) {
    if (--left == 0) ::kill(::getpid(), SIGKILL);
    return ::pwrite(fd, from, bytes, at);
  };
  const World world{folder};
  Outputs out = world.outputs("killed");
  run_distill(std::getenv("OVERPROOF_TEST_AVERAGED") == std::string_view("1") ? averaged_run() : short_run(),
              world.distill_inputs(), out);
}

TEST_CASE("averaged weights are published, and their digest; held-out losses are measured on them") {
  const TempFolder folder;
  const World world{folder.path()};
  make_world(world);
  DistillConfig config = averaged_run();
  config.checkpoint_every = 0;
  config.training.keep_every = 0;
  config.training.dtype = WeightDType::f32;
  Outputs out = world.outputs("averaged");
  const StageReport report = run_distill(config, world.distill_inputs(), out);
  CHECK(report.metrics().at(kPublishedWeights) == digest_of_checkpoint(folder.path() / "averaged").hex());
  CHECK(read_step_records(folder.path() / "averaged").weights_after(24).hex() != report.metrics().at(kPublishedWeights));
  const std::vector<Json> steps = steps_of(world, "averaged");
  int64_t evaluated = 0;
  for (const Json& line : steps) evaluated += line.contains("held_out");
  CHECK(evaluated == 5);  // after 5, 10, 15, 20 steps and the last
  CHECK(report.metrics().at("held_out").at("evaluations") == 5);
  // A training that hardly moves measures what was published: the same number.
  config.training.ema = 0;
  config.training.steps = 1;
  config.training.learning_rate = 1e-9;
  config.training.balance_rate = 0;
  config.evaluate_every = 1;
  Outputs again = world.outputs("again");
  run_distill(config,
              Inputs({{"student", world.artifact("averaged")},
                      {"targets", world.artifact("targets")},
                      {"corpus", world.artifact("corpus")}}),
              again);
  CHECK(steps_of(world, "again").back().at("held_out").at("cross-entropy").get<double>() ==
        Approx(steps.back().at("held_out").at("cross-entropy").get<double>()).epsilon(1e-5));
  // The live log has the same lines, and the event file is there.
  CHECK(read_file(folder.path() / kLogsFolder / "averaged" / "steps.jsonl") ==
        read_file(folder.path() / "averaged" / "steps.jsonl"));
  int64_t event_files = 0;
  for (const auto& entry : fs::directory_iterator(folder.path() / kLogsFolder / "averaged"))
    event_files += entry.path().filename().string().find("tfevents") != std::string::npos;
  CHECK(event_files == 1);
}

TEST_CASE("a training stops when held-out losses rise, and a resumed one at the same step") {
  const TempFolder folder;
  const World world{folder.path()};
  make_world(world);
  DistillConfig config = short_run();
  config.training.learning_rate = 0.3;  // soon worse
  config.training.clip = 0;
  config.training.schedule = Schedule::constant;
  config.training.keep_every = 0;
  config.evaluate_every = 1;
  config.evaluate_windows = 2;
  config.patience = 2;
  Inputs inputs({{"student", world.artifact("student")},
                 {"targets", world.artifact("targets")},
                 {"corpus", world.artifact("corpus")},
                 {"teacher", world.artifact("teacher")}});
  config.teacher_share = 0;  // only measures
  Outputs out = world.outputs("stopped");
  const StageReport report = run_distill(config, inputs, out);
  const std::vector<Json> steps = steps_of(world, "stopped");
  const auto done = int64_t(steps.size());
  REQUIRE(done < 24);
  REQUIRE(done >= 3);
  CHECK(report.metrics().at("steps") == done);
  CHECK(report.metrics().at("held_out").at("stopped_early") == true);
  const auto kl = [&](int64_t s) { return steps.at(size_t(s)).at("held_out").at("forward-kl").get<double>(); };
  const int64_t best = report.metrics().at("held_out").at("best_step");
  CHECK(best == done - 3);
  for (int64_t s = 0; s < done; ++s) CHECK(kl(s) >= kl(best));
  CHECK(read_step_records(folder.path() / "stopped").weights_after(done) != Digest{});  // the last state is digested
  // The checkpoint before the last step is still there.
  fs::rename(folder.path() / "stopped", folder.path() / "first");
  Outputs again = world.outputs("stopped");
  run_distill(config, inputs, again);
  CHECK(weights_of(world, "stopped") == weights_of(world, "first"));
  for (const char* file : {"steps.jsonl", kStepRecordsFile})
    CHECK(read_file(folder.path() / "stopped" / file) == read_file(folder.path() / "first" / file));

  config.evaluate_every = 0;
  Outputs refused = world.outputs("refused");
  CHECK_THROWS_WITH(run_distill(config, inputs, refused), Catch::Contains("'patience' needs 'evaluate-every'"));
}

TEST_CASE("router counts record which experts the tokens of each source were sent to") {
  const TempFolder folder;
  const World world{folder.path()};
  make_world(world);
  const fs::path corpus_path = folder.path() / "corpus";
  const Corpus corpus(corpus_path);
  const int64_t length = corpus.window_length();

  {
    INFO("the source of each token is that of its document");
    const TokenSources sources(corpus);
    CHECK(sources.names() == std::vector<std::string>{"source-0", "source-1", "source-2"});
    std::vector<int32_t> window(static_cast<size_t>(length));
    std::set<int32_t> seen;
    for (int64_t w = 0; w < corpus.windows(Split::train); ++w) {
      sources.read_window(Split::train, w, window);
      for (int64_t i = 0; i < length; ++i) {
        REQUIRE(sources.names()[size_t(window[size_t(i)])] == corpus.document_at(Split::train, w * length + i).source);
        seen.insert(window[size_t(i)]);
      }
    }
    CHECK(seen.size() == 3);
  }

  {
    INFO("a step that changes nothing counts what the model itself chooses");
    DistillConfig config = short_run();
    config.training.learning_rate = 1e-9;  // in f32 this moves no router far enough to choose otherwise
    config.training.balance_rate = 0;
    config.checkpoint_every = 0;
    config.training.steps = 5;
    Outputs out = world.outputs("still");
    run_distill(config, world.distill_inputs(), out);
    const RouterCounts counts = read_router_counts(folder.path() / "still");

    // Again, from the model and the committed order, without the trainer.
    const Decoder student(open_checkpoint(folder.path() / "student"));
    const SoftTargets targets(folder.path() / "targets");
    const TrainingOrder order(targets.order_key(), corpus.windows(Split::train), targets.blocks());
    at::NoGradGuard no_grad;
    std::vector<int64_t> expected(counts.counts.size()), tokens(3);
    std::vector<int64_t> ids(size_t(length) + 1);
    for (int64_t p = 0; p < config.training.steps * config.training.batch_size; ++p) {
      const int64_t window = order.window_of_block(order.block_at(p));
      corpus.read_window(Split::train, window, ids);
      std::vector<RouterRecord> routing;
      ForwardOptions options;
      options.routing = &routing;
      options.record_selected = true;
      student.hidden(at::tensor(at::ArrayRef<int64_t>(ids.data(), size_t(length)), at::kLong).view({1, length}), options);
      for (int64_t i = 0; i < length; ++i) {
        const std::string& source = corpus.document_at(Split::train, window * length + i).source;
        const int64_t s = source.back() - '0';
        ++tokens[size_t(s)];
        for (int64_t l = 0; l < counts.layers; ++l)
          for (int64_t j = 0; j < 2; ++j)
            ++expected[size_t((s * counts.layers + l) * counts.experts + routing[size_t(l)].selected[i][j].item<int32_t>())];
      }
    }
    CHECK(counts.counts == expected);
    CHECK(counts.tokens == tokens);
  }

  {
    INFO("they add up with the loads, and with what came before");
    DistillConfig config = short_run();
    config.checkpoint_every = 0;
    Outputs first = world.outputs("first");
    run_distill(config, world.distill_inputs(), first);
    const RouterCounts counts = read_router_counts(folder.path() / "first");
    REQUIRE(counts.layers == 2);
    REQUIRE(counts.experts == 7);
    CHECK(counts.all_tokens() == config.training.steps * config.training.batch_size * length);
    for (int64_t s = 0; s < 3; ++s)
      for (int64_t l = 0; l < 2; ++l) CHECK(counts.of_source(s, l) == 2 * counts.tokens[size_t(s)]);  // top-k 2

    config.training.steps = 3;
    Outputs second = world.outputs("second");
    Inputs again(
        {{"student", world.artifact("first")}, {"targets", world.artifact("targets")}, {"corpus", world.artifact("corpus")}});
    run_distill(config, again, second);
    const RouterCounts both = read_router_counts(folder.path() / "second");
    CHECK(both.all_tokens() == (24 + 3) * config.training.batch_size * length);
    for (size_t i = 0; i < both.counts.size(); ++i) CHECK(both.counts[i] >= counts.counts[i]);

    CalibrateConfig calibrate;
    calibrate.target_activation = 0.5;
    calibrate.training.steps = 4;
    calibrate.training.learning_rate = 1e-5;
    const Inputs inputs(
        {{"student", world.artifact("first")}, {"teacher", world.artifact("teacher")}, {"corpus", world.artifact("corpus")}});
    Outputs tuned = world.outputs("tuned");
    const StageReport report = run_calibrate(calibrate, inputs, tuned);
    const RouterCounts after = read_router_counts(folder.path() / "tuned");
    const bool kept = report.metrics().at("tuning_kept").get<bool>();
    const int64_t more = kept ? calibrate.training.steps * calibrate.training.batch_size * length : 0;
    CHECK(after.all_tokens() == counts.all_tokens() + more);
    CHECK(after.of_source(0, 0) == counts.of_source(0, 0) + 3 * (after.tokens[0] - counts.tokens[0]));  // top-k 3 by now
    calibrate.training.learning_rate = 10;
    calibrate.training.clip = 0;
    calibrate.training.router_lr_scale = 100;
    Outputs ruined = world.outputs("ruined");
    REQUIRE_FALSE(run_calibrate(calibrate, inputs, ruined).metrics().at("tuning_kept").get<bool>());
    CHECK(read_router_counts(folder.path() / "ruined").counts == counts.counts);
  }
}

TEST_CASE("ce-weight and loss are two forms of the same choice") {
  DistillConfig by_weight, by_name;
  by_weight.ce_weight = 0.25;
  by_name.loss = {{"forward-kl", "0.75"}, {"cross-entropy", "0.25"}};
  const LossTerms a = loss_terms(by_weight), b = loss_terms(by_name);
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK((a[i].loss == b[i].loss && a[i].weight == b[i].weight));
  by_name.ce_weight = 0.5;
  CHECK_THROWS_AS(loss_terms(by_name), UsageError);
  CHECK(loss_terms({}).at(0).weight == 1.0);
}

TEST_CASE("experts and ffn train the same weights") {
  for (const std::string name : {"layers.0.experts.gate_up", "layers.0.ffn.down"}) CHECK(trained_group(name) == "ffn");
  TrainOptions experts, ffn, router;
  experts.train = {"experts"};
  ffn.train = {"ffn"};
  router.train = {"router"};
  for (const ModelConfig& config : {random_moe_config(), random_dense_config()}) {
    Decoder a(config, RandomSource(config)), b(config, RandomSource(config)), c(config, RandomSource(config));
    const Trainer left(a, experts), right(b, ffn);
    CHECK(left.trained_parameters() == right.trained_parameters());
    CHECK(left.trained_parameters() > 0);
    if (!config.is_moe()) CHECK_THROWS_AS(Trainer(c, router), UsageError);
  }
}

TEST_CASE("top-k is the one nearest to the requested activation") {
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
  options.schedule = Schedule::linear;
  CHECK(learning_rate_at(options, 85) == Approx(0.25));
  options.schedule = Schedule::constant;
  CHECK(learning_rate_at(options, 109) == 1.0);
  options.schedule = Schedule::wsd;  // the last 22 of 110 steps fall
  CHECK(learning_rate_at(options, 4) == Approx(0.5));
  CHECK(learning_rate_at(options, 87) == 1.0);
  CHECK(learning_rate_at(options, 88) == 1.0);
  CHECK(learning_rate_at(options, 99) == Approx(0.5));
  CHECK(learning_rate_at(options, 109) == Approx(1.0 / 22));
  options.decay_share = 0;
  CHECK(learning_rate_at(options, 109) == 1.0);
  options.decay_share = 1;  // from the end of the warm-up on
  CHECK(learning_rate_at(options, 60) == Approx(0.5));
}

}  // namespace overproof
