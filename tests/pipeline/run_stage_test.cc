#include <catch2/catch.hpp>

#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "pipeline/file_lock.h"
#include "pipeline/run_stage.h"
#include "pipeline/scratch.h"
#include "provenance/artifact.h"
#include "tests/support.h"

using namespace overproof;

namespace {

struct EchoConfig {
  int64_t times = 1;
  std::string fail;
  template <class V>
  void visit(V&& v) {
    v("times", times, in_range(1, 10), "copies");
    v("fail", fail, one_of({"", "usage", "unrecorded"}), "how to go wrong");
  }
};

int g_runs = 0;
std::string g_stage_key;

// Copies its input `times` times; small, but a stage like any other.
StageReport run_echo(const EchoConfig& config, const Inputs& inputs, Outputs& outputs) {
  ++g_runs;
  g_stage_key = outputs.stage_key().hex();
  std::string text = read_file(inputs.path("text")), all;
  for (int64_t i = 0; i < config.times; ++i) all += text;
  outputs.folder().write_file("sub/echo.txt", all);
  std::ofstream(outputs.scratch() / "progress") << "kept";
  if (config.fail == "usage") throw UsageError("asked to fail");
  if (config.fail == "unrecorded") std::ofstream(outputs.folder().path() / "stray.txt") << "x";
  StageReport report;
  report.metrics()["bytes"] = all.size();
  report.summary.push_back("done");
  return report;
}

// Digests its input itself, honestly or not, as a stage that streams gigabytes does.
StageReport run_stream(const EchoConfig& config, const Inputs& inputs, Outputs& outputs) {
  ++g_runs;
  const std::string text = read_file(inputs.path("text") / "sub/echo.txt");
  FileRecord record{"sub/echo.txt", int64_t(text.size()), sha256(text)};
  if (config.fail == "usage") record.digest = sha256("something else");
  if (config.fail == "unrecorded")
    std::ofstream(inputs.path("text") / "sub/echo.txt") << text;  // the same bytes, but written meanwhile
  outputs.note_input_digest("text", record);
  outputs.folder().write_file("copy.txt", text);
  std::ofstream(outputs.scratch() / "progress") << "kept";
  return {};
}

struct Fixture {
  TempFolder folder;
  const fs::path& path = folder.path();
  StageSpec spec;
  std::unique_ptr<StageInstance> instance;
  Key key = Key::generate();
  Fixture() {
    spec = {.name = "observe",
            .kind = "observed",
            .slots = {{.name = "text", .kind = Slot::Kind::file}},
            .make = stage_maker<EchoConfig>(run_echo)};
    instance = spec.make();
    std::ofstream(path / "in.txt") << "hello";
    g_runs = 0;
  }
  StageRequest request() { return {&spec, instance.get(), {{"text", path / "in.txt"}}, path / "out", false}; }
  void set(const char* name, const char* value) {
    Options options = instance->options();
    find_option(options, name, "test").assign(value);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& entry : fs::directory_iterator(path)) list.push_back(entry.path().filename().string());
    std::sort(list.begin(), list.end());
    return list;
  }
};

}  // namespace

TEST_CASE("a stage's artifact is sealed, and made once only") {
  Fixture f;
  const StageResult first = run_stage(f.request(), f.key);
  CHECK(first.status == StageStatus::made);
  CHECK(read_file(f.path / "out/sub/echo.txt") == "hello");
  const ArtifactCheck check = check_artifact(f.path / "out", VerifyFiles::yes, &f.key.public_key());
  CHECK(check.faults.empty());
  CHECK(check.lineage->stage == "observe");
  CHECK(check.lineage->stage_key == g_stage_key);
  CHECK(check.lineage->config["times"] == 1);
  CHECK(check.lineage->config["text-sha256"] == scan_artifact(f.path / "in.txt").root.hex());
  CHECK(check.lineage->metrics["bytes"] == 5);
  CHECK(f.names() == std::vector<std::string>{"in.txt", "out"});  // no temporary, scratch or lock left

  CHECK(is_unchanged(f.request()));
  const StageResult second = run_stage(f.request(), f.key);
  CHECK(second.status == StageStatus::unchanged);
  CHECK(second.root == first.root);
  CHECK(second.report.metrics()["bytes"] == 5);
  CHECK(g_runs == 1);
}

TEST_CASE("a changed option, a changed input or a damaged artifact makes the stage run again") {
  Fixture f;
  const Digest first = run_stage(f.request(), f.key).root;
  f.set("times", "2");
  CHECK_FALSE(is_unchanged(f.request()));
  CHECK(run_stage(f.request(), f.key).root != first);
  CHECK(read_file(f.path / "out/sub/echo.txt") == "hellohello");
  std::ofstream(f.path / "in.txt") << "world";
  CHECK(run_stage(f.request(), f.key).status == StageStatus::made);
  std::ofstream(f.path / "out/sub/echo.txt") << "worldworlD";
  CHECK_FALSE(is_unchanged(f.request()));
  CHECK(run_stage(f.request(), f.key).status == StageStatus::made);
  CHECK(read_file(f.path / "out/sub/echo.txt") == "worldworld");
  CHECK(g_runs == 4);
}

TEST_CASE("a stage that fails leaves the earlier artifact and its scratch folder, and no partial output") {
  Fixture f;
  const Digest first = run_stage(f.request(), f.key).root;
  f.set("fail", "usage");
  CHECK_THROWS_WITH(run_stage(f.request(), f.key), Catch::Contains("asked to fail"));
  CHECK(check_artifact(f.path / "out", VerifyFiles::yes, nullptr).lineage->root == first);
  const auto names = f.names();
  REQUIRE(names.size() == 3);
  CHECK_THAT(names[0], Catch::StartsWith(".out.scratch-"));
  CHECK(fs::exists(f.path / names[0] / "progress"));
  f.set("fail", "");
  f.set("times", "3");
  run_stage(f.request(), f.key);
  CHECK(f.names() == std::vector<std::string>{"in.txt", "out"});
}

TEST_CASE("a file that a stage wrote behind the pipeline's back is our bug, and no artifact") {
  Fixture f;
  f.set("fail", "unrecorded");
  CHECK_THROWS_AS(run_stage(f.request(), f.key), std::logic_error);
  CHECK_FALSE(fs::exists(f.path / "out"));
}

TEST_CASE("missing inputs and foreign output folders are refused before anything happens") {
  Fixture f;
  StageRequest r = f.request();
  r.inputs["text"] = f.path / "missing.txt";
  CHECK_THROWS_AS(run_stage(r, f.key), IoError);
  CHECK_FALSE(is_unchanged(r));
  fs::create_directories(f.path / "mine");
  std::ofstream(f.path / "mine/thesis.txt") << "precious";
  r = f.request();
  r.out = f.path / "mine";
  CHECK_THROWS_WITH(run_stage(r, f.key), Catch::Contains("is not an artifact of overproof"));
  CHECK(read_file(f.path / "mine/thesis.txt") == "precious");
  CHECK(g_runs == 0);
}

TEST_CASE("a stage that digests its input while reading it is held to the input's statement") {
  Fixture f;
  const Digest echo = run_stage(f.request(), f.key).root;
  const StageSpec spec = {.name = "quantize",
                          .kind = "quantized-from",
                          .slots = {{.name = "text", .streamed = true}},
                          .make = stage_maker<EchoConfig>(run_stream)};
  const auto run = [&](const char* fail, const char* out) {
    const auto instance = spec.make();
    Options options = instance->options();
    find_option(options, "fail", "test").assign(fail);
    return run_stage({&spec, instance.get(), {{"text", f.path / "out"}}, f.path / out, false}, f.key);
  };
  const StageResult made = run("", "streamed");
  const ArtifactCheck check = check_artifact(f.path / "streamed", VerifyFiles::yes, nullptr);
  CHECK(check.faults.empty());
  CHECK(check.lineage->inputs.at("text").root == echo);
  CHECK(run("", "streamed").status == StageStatus::unchanged);  // now the input is digested first, and the key is the same
  CHECK(g_runs == 2);
  const auto before = f.names();

  // A digest that is not the statement's: nothing is left, not even what could be gone on from.
  CHECK_THROWS_AS(run("usage", "forged"), ProvenanceError);
  CHECK(f.names() == before);
  CHECK_THROWS_WITH(run("unrecorded", "meddled"), Catch::Contains("modified while being read"));
  CHECK(f.names() == before);

  // A byte changed on disk, same size: the statement does not hold.
  std::ofstream(f.path / "out/sub/echo.txt") << "hellO";
  CHECK_THROWS_WITH(run("", "tampered"), Catch::Contains("sub/echo.txt: has digest"));
  CHECK(f.names() == before);

  // Without a statement an artifact is what its files are.
  fs::remove(f.path / "out/claims.jsonl");
  fs::remove(f.path / "out/model.sig");
  run("", "unsigned");
  CHECK(check_artifact(f.path / "unsigned", VerifyFiles::yes, nullptr).lineage->inputs.at("text").root ==
        scan_artifact(f.path / "out").root);
}

TEST_CASE("an artifact that a killed replacement has moved aside is put back before anything else") {
  Fixture f;
  const Digest first = run_stage(f.request(), f.key).root;
  fs::rename(f.path / "out", f.path / ".out.previous");  // the state between the two renames
  f.set("fail", "usage");
  CHECK_THROWS_AS(run_stage(f.request(), f.key), UsageError);
  CHECK(check_artifact(f.path / "out", VerifyFiles::yes, nullptr).lineage->root == first);
  CHECK_FALSE(fs::exists(f.path / ".out.previous"));
}

TEST_CASE("two runs cannot build one artifact at the same time") {
  Fixture f;
  const FileLock other(f.path / ".out.lock", FileLock::Busy::fails);
  CHECK_THROWS_AS(run_stage(f.request(), f.key), IoError);
  CHECK_THROWS_WITH(run_stage(f.request(), f.key), Catch::StartsWith((f.path / "out").string() + ": another overproof process"));
  CHECK(g_runs == 0);
}

TEST_CASE("a finished artifact of another configuration, and files of others, are not replaced unasked") {
  using Catch::Contains;
  Fixture f;
  const Digest first = run_stage(f.request(), f.key).root;
  const auto kept = [&](StageRequest request) {
    request.may_replace = false;
    return request;
  };
  f.set("times", "2");
  CHECK_THROWS_WITH(run_stage(kept(f.request()), f.key), Contains("another times") && Contains("--force"));
  std::ofstream(f.path / "in.txt") << "world";
  f.set("times", "1");
  CHECK_THROWS_WITH(run_stage(kept(f.request()), f.key), Contains("another text-sha256"));
  CHECK(check_artifact(f.path / "out", VerifyFiles::yes, nullptr).lineage->root == first);
  StageRequest forced = kept(f.request());
  forced.force = true;
  CHECK(run_stage(forced, f.key).status == StageStatus::made);

  // What no stage wrote stays, whatever is asked for: beside the files, and in a folder of its own.
  for (const char* name : {"notes.txt", "sub/notes.txt", "mine/notes.txt"}) {
    write_text(f.path / "out" / name, "precious");
    for (const bool force : {false, true}) {
      StageRequest request = f.request();
      request.force = force;
      f.set("times", "3");
      CHECK_THROWS_WITH(run_stage(request, f.key), Contains(name) && Contains("will not delete"));
    }
    CHECK(read_file(f.path / "out" / name) == "precious");
    fs::remove(f.path / "out" / name);
  }
  CHECK(run_stage(f.request(), f.key).status == StageStatus::made);
}

TEST_CASE("an output may neither be an input, nor lie in one, nor hold one, by whatever path it is named") {
  using Catch::Contains;
  Fixture f;
  write_text(f.path / "model/a.txt", "hello");
  fs::create_directory_symlink(f.path / "model", f.path / "link");
  StageRequest r = f.request();
  r.inputs["text"] = f.path / "model";
  for (const char* out : {"model/out", "model/x/../out", "link/out", "link/a/b"}) {
    r.out = f.path / out;
    CHECK_THROWS_WITH(run_stage(r, f.key), Contains("lies in the input 'text'"));
    CHECK_THROWS_AS(is_unchanged(r), UsageError);
  }
  for (const char* out : {"model", "model/", "link", "link/"}) {
    r.out = f.path / out;
    CHECK_THROWS_WITH(run_stage(r, f.key), Contains("is the input 'text'"));
  }
  r.inputs["text"] = f.path / "model/a.txt";
  r.out = f.path / "link";
  CHECK_THROWS_WITH(run_stage(r, f.key), Contains("holds the input 'text'"));
  CHECK(std::distance(fs::directory_iterator(f.path / "model"), {}) == 1);
  CHECK(g_runs == 0);
}

TEST_CASE("links are followed: an input's target is read, an output's target is written") {
  Fixture f;
  fs::create_symlink(f.path / "in.txt", f.path / "in-link.txt");
  fs::create_directories(f.path / "disk");
  fs::create_directory_symlink(f.path / "disk" / "there", f.path / "dangling");
  StageRequest r = f.request();
  r.inputs["text"] = f.path / "in-link.txt";
  r.out = f.path / "dangling";
  const Digest root = run_stage(r, f.key).root;
  CHECK(fs::is_symlink(f.path / "dangling"));
  CHECK(read_file(f.path / "disk/there/sub/echo.txt") == "hello");
  CHECK(f.names() == std::vector<std::string>{"dangling", "disk", "in-link.txt", "in.txt"});
  r.out = f.path / "dangling/";  // the same with a slash at the end
  CHECK(run_stage(r, f.key).status == StageStatus::unchanged);
  r.inputs["text"] = f.path / "in.txt";  // and by content, not by name
  CHECK(run_stage(r, f.key).root == root);
}

TEST_CASE("a stage that fails before it has written anything leaves nothing") {
  Fixture f;
  f.spec.make = stage_maker<EchoConfig>([](const EchoConfig&, const Inputs&, Outputs&) -> StageReport { throw UsageError("no"); });
  f.instance = f.spec.make();
  CHECK_THROWS_AS(run_stage(f.request(), f.key), UsageError);
  CHECK(f.names() == std::vector<std::string>{"in.txt"});
}

TEST_CASE("what ended runs left is listed by artifact, and cleared unless it is in use") {
  Fixture f;
  f.set("fail", "usage");
  CHECK_THROWS_AS(run_stage(f.request(), f.key), UsageError);
  write_text(f.path / ".busy.scratch-0123456789abcdef/state", "12345");
  write_text(f.path / ".busy.scratch-notakey/state", "12345");
  const FileLock other(f.path / ".busy.lock", FileLock::Busy::fails);
  const std::vector<ScratchItem> items = scratch_items(f.path);
  REQUIRE(items.size() == 3);
  CHECK(items[0].artifact == "busy");
  CHECK(items[1].bytes == 5);
  CHECK(items[2].artifact == "out");
  CHECK(items[2].resumable);
  CHECK(run_scratch({}, f.path).json["items"].size() == 3);
  CHECK(scratch_items(f.path).size() == 3);
  const Answer cleared = run_scratch({.clear = true}, f.path);
  CHECK(cleared.json["items"][1]["removed"] == false);
  CHECK(cleared.json["items"][2]["removed"] == true);
  CHECK(f.names() == std::vector<std::string>{".busy.lock", ".busy.scratch-0123456789abcdef", ".busy.scratch-notakey", "in.txt"});
  CHECK_THROWS_AS(run_scratch({}, f.path / "none"), IoError);
}
