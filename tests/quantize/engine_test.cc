#include "quantize/engine/engine.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>

#include "core/direct_file.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "formats/safetensors.h"
#include "formats/safetensors_checkpoint.h"
#include "formats/sharded.h"
#include "quantize/engine/chunks.h"
#include "quantize/engine/journal.h"
#include "quantize/quantize_stage.h"
#include "records/resume.h"
#include "tests/support.h"

using namespace overproof;

namespace {

/// Codes x / scale with one scale for `unit` rows, or for the whole weight, as block and per-tensor schemes have them. `levels`: the
/// largest code, an option that changes bytes but no name and no size.
class FakeScheme final : public Scheme {
 public:
  FakeScheme(int64_t unit, int levels) : unit_(unit), levels_(levels) {}  // unit 0: one scale for all
  std::string_view name() const override { return unit_ ? "rows" : "whole"; }
  std::string_view format() const override { return "fake"; }
  int64_t row_unit() const override { return std::max<int64_t>(1, unit_); }
  bool needs_amax() const override { return unit_ == 0; }
  std::vector<TensorInfo> outputs(const TensorInfo& w) const override {
    return {{w.name, DType::i8, w.shape}, {w.name + "_scale", DType::f32, {std::max<int64_t>(1, row_scales(w.shape[0], 0))}}};
  }
  int64_t row_bytes(int64_t columns) const override { return columns; }
  int64_t row_scales(int64_t rows, int64_t) const override { return unit_ ? (rows + unit_ - 1) / unit_ : 0; }
  std::unique_ptr<RowQuantizer> prepare(const TensorInfo& w, const WeightFacts& facts) const override {
    return std::make_unique<Rows>(w.shape[1], unit_, levels_, facts.amax);
  }
  Json config_group() const override { return {{"targets", {"Linear"}}, {"name", name()}}; }

 private:
  struct Rows final : RowQuantizer {
    Rows(int64_t columns, int64_t unit, int levels, float amax) : columns(columns), unit(unit), levels(levels), amax(amax) {}
    RowsResult quantize(int64_t first, int64_t rows, std::span<float> x, std::span<uint8_t> bytes,
                        std::span<float> scales) const override {
      if (unit && first % unit != 0) throw std::logic_error("cut inside a block");
      RowsResult result;
      for (int64_t r = 0; r < rows; r += unit ? unit : rows) {
        const size_t begin = size_t(r * columns), end = size_t(std::min(rows, r + (unit ? unit : rows)) * columns);
        float most = unit ? 0 : amax;
        for (size_t i = begin; unit && i < end; ++i) most = std::max(most, std::abs(x[i]));
        const float scale = most / float(levels);
        if (unit) scales[size_t(r / unit)] = scale;
        for (size_t i = begin; i < end; ++i) {
          const int code = int(std::nearbyint(x[i] / scale));
          if (std::abs(code) > levels) throw std::logic_error("a magnitude was overlooked");
          bytes[i] = uint8_t(int8_t(code));
          result.error += {double(x[i]) * x[i], std::pow(double(x[i]) - code * scale, 2)};
        }
      }
      return result;
    }
    std::vector<uint8_t> side_output(int, std::span<const float> scales) const override {
      const float whole = amax / float(levels);
      const auto bytes = std::as_bytes(unit ? scales : std::span(&whole, 1));
      return {reinterpret_cast<const uint8_t*>(bytes.data()), reinterpret_cast<const uint8_t*>(bytes.data() + bytes.size())};
    }
    int64_t columns, unit;
    int levels;
    float amax;
  };
  int64_t unit_;
  int levels_;
};

std::vector<TensorInfo> tensors() {
  std::vector<TensorInfo> list = {{"model.embed_tokens.weight", DType::bf16, {3000, 96}},
                                  {"model.norm.weight", DType::bf16, {97}}};
  for (int l = 0; l < 4; ++l) {
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    list.push_back({layer + "self_attn.q_proj.weight", DType::bf16, {531, 96}});
    list.push_back({layer + "mlp.gate.weight", DType::f32, {5, 96}});
    list.push_back({layer + "steps", DType::i64, {3}});
    list.push_back({layer + "nothing", DType::i64, {0, 4}});
    list.push_back({layer + "mlp.up_proj.weight", DType::f16, {1234, 96}});
    list.push_back({layer + "mlp.down_proj.weight", DType::f32, {96, 1234}});
  }
  return list;
}

/// Written without the engine, which is under test.
void write_model(const fs::path& folder, uint64_t seed = 3) {
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << R"({"model_type": "llama"})";
  OutputFolder out(folder);
  ShardedWriter writer(out, tensors(), {}, 1'000'000);
  for (const TensorInfo& t : tensors()) {
    Rng rng(seed, t.name);
    std::vector<uint8_t> bytes(size_t(t.bytes()));
    std::vector<float> values(size_t(t.elements()));
    for (float& v : values) v = float(rng.normal());
    if (t.dtype == DType::i64) std::fill(bytes.begin(), bytes.end(), uint8_t(7));
    else f32_to_elements(t.dtype, values, bytes.data());
    writer.append(bytes);
  }
  writer.close();
}

/// A plan with a fake scheme for every projection.
Plan plan_for(const TensorSource& source, int levels = 127) {
  Plan plan;
  for (const int64_t unit : {int64_t{16}, int64_t{0}}) plan.schemes.push_back(std::make_unique<FakeScheme>(unit, levels));
  for (const TensorInfo& t : source.tensors()) {
    PlanItem item{t, nullptr, t.dtype, {t}};
    if (t.name.ends_with("q_proj.weight") || t.name.ends_with("down_proj.weight")) item.scheme = plan.schemes[0].get();
    if (t.name.ends_with("up_proj.weight")) item.scheme = plan.schemes[1].get();
    if (item.scheme) item.outputs = item.scheme->outputs(t);
    plan.outputs.insert(plan.outputs.end(), item.outputs.begin(), item.outputs.end());
    plan.items.push_back(std::move(item));
  }
  return plan;
}

struct Made {
  EngineResult result;
  std::string bytes;  // all files of the output, one after another
};

Digest stage_key(int levels) { return sha256(fmt::format("levels {}", levels)); }

Made run(const Checkpoint& model, const fs::path& at, const EngineOptions& options = {}, int levels = 127) {
  const Plan plan = plan_for(*model.tensors, levels);
  fs::create_directories(at / "out");
  fs::create_directories(at / "scratch");
  Outputs outputs(at / "out", at / "scratch", {}, stage_key(levels));
  const SinkMaker make_sink = [](OutputFolder& to, const std::vector<TensorInfo>& list) {
    return std::make_unique<ShardedWriter>(to, list, Metadata{}, 700'000);
  };
  Made made{run_engine(plan, model, make_sink, outputs, options), {}};
  for (const FileRecord& r : outputs.folder().records()) {
    const std::string content = read_file(at / "out" / r.name);
    CHECK(sha256(content) == r.digest);
    made.bytes += r.name + content;
  }
  return made;
}

Made run(const fs::path& model, const fs::path& at, const EngineOptions& options = {}, int levels = 127) {
  return run(open_checkpoint(model), at, options, levels);
}

/// The same tensors in reverse order, or without extents in files.
class RearrangedSource final : public TensorSource {
 public:
  RearrangedSource(std::unique_ptr<TensorSource> source, bool reversed, bool placed)
      : source_(std::move(source)), placed_(placed) {
    list_ = source_->tensors();
    if (reversed) std::reverse(list_.begin(), list_.end());
    if (!placed) std::erase_if(list_, [](const TensorInfo& t) { return t.dtype == DType::i64; });  // cannot be read as f32
  }
  const std::vector<TensorInfo>& tensors() const override { return list_; }
  void read_f32(std::string_view n, int64_t f, int64_t r, std::span<float> out) const override {
    source_->read_f32(n, f, r, out);
  }
  const std::vector<fs::path>& files() const override { return source_->files(); }
  std::optional<RowExtent> extent(std::string_view n) const override { return placed_ ? source_->extent(n) : std::nullopt; }
  void decode_rows(std::string_view n, int64_t f, int64_t r, std::span<const uint8_t> s, std::span<float> out) const override {
    source_->decode_rows(n, f, r, s, out);
  }

 private:
  std::unique_ptr<TensorSource> source_;
  std::vector<TensorInfo> list_;
  bool placed_;
};

struct Faults {
  FileCalls before = file_calls();
  ~Faults() { file_calls() = before; }
};

std::atomic<int64_t> g_writes = 0, g_limit = 0;
int g_signal = 0;
fs::path g_victim;

ssize_t signalling_pwrite(int fd, const void* from, size_t bytes, off_t at) {
  if (++g_writes == g_limit) ::kill(::getpid(), g_signal);
  return ::pwrite(fd, from, bytes, at);
}

ssize_t filling_pwrite(int fd, const void* from, size_t bytes, off_t at) {
  if (++g_writes >= g_limit) return errno = ENOSPC, -1;
  return ::pwrite(fd, from, bytes, at);
}

ssize_t meddling_pread(int fd, void* to, size_t bytes, off_t at) {
  if (++g_writes == 3) std::fstream(g_victim, std::ios::in | std::ios::out | std::ios::binary).seekp(-1, std::ios::end) << 'x';
  return ::pread(fd, to, bytes, at);
}

/// Runs the engine in a process of its own that meets `signal` at its n-th write; returns how it ended.
int run_and_signal(const fs::path& model, const fs::path& at, const EngineOptions& options, int signal, int64_t n) {
  const pid_t child = fork();
  if (child == 0) {
    g_writes = 0;
    g_limit = n;
    g_signal = signal;
    file_calls().pwrite = signalling_pwrite;
    install_interrupt_handler();
    int code = 0;
    try {
      run(model, at, options);
    } catch (const Interrupted&) {
      code = 130;
    } catch (...) {
      code = 1;
    }
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

constexpr EngineOptions kOften{.block_bytes = 1 << 16, .checkpoint_bytes = 50'000};

}  // namespace

TEST_CASE("the engine writes what a plain loop computes, and digests its inputs") {
  const TempFolder t;
  write_model(t.path() / "in");
  const Checkpoint model = open_checkpoint(t.path() / "in");
  const Plan plan = plan_for(*model.tensors);
  const Made made = run(model, t.path() / "a");

  REQUIRE(made.result.inputs.size() == model.tensors->files().size());
  REQUIRE(made.result.inputs.size() > 1);
  int64_t bytes = 0;
  for (const FileRecord& r : made.result.inputs) {
    CHECK(r.digest == sha256_file(r.name));
    CHECK(r.bytes == int64_t(fs::file_size(r.name)));
    bytes += r.bytes;
  }
  CHECK(made.result.bytes_read == bytes);  // small weights are passed over twice, but read once

  std::string expected;  // bytes of all tensors in order, without the file's header
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const PlanItem& item = plan.items[i];
    if (item.source.dtype == DType::i64) {
      expected += std::string(size_t(item.source.bytes()), '\7');
      continue;
    }
    std::vector<float> x = model.tensors->read_all_f32(item.source.name);
    if (!item.scheme) {
      std::string kept(size_t(item.source.bytes()), '\0');
      f32_to_elements(item.source.dtype, x, reinterpret_cast<uint8_t*>(kept.data()));
      expected += kept;
      continue;
    }
    WeightFacts facts;
    for (const float v : x) facts.amax = std::max(facts.amax, std::abs(v));
    const auto quantizer = item.scheme->prepare(item.source, facts);
    std::vector<uint8_t> codes(x.size());
    std::vector<float> scales(size_t(item.scheme->row_scales(item.source.shape[0], item.source.shape[1])));
    const double noise = quantizer->quantize(0, item.source.shape[0], x, codes, scales).error.noise;
    CHECK(made.result.errors[i].noise == Approx(noise).epsilon(1e-12));
    const auto side = quantizer->side_output(1, scales);
    expected.append(codes.begin(), codes.end()).append(side.begin(), side.end());
  }
  std::string ours;
  const SafetensorsCheckpoint files(t.path() / "a" / "out");  // as stored: open_checkpoint would dequantize
  for (const TensorInfo& out : plan.outputs) {
    const RowExtent e = *files.extent(out.name);
    ours += read_file(files.files()[size_t(e.file)]).substr(size_t(e.offset), size_t(out.bytes()));
  }
  CHECK(ours == expected);
}

TEST_CASE("bytes and error sums are the same for any threads, chunk size and order on disk") {
  const TempFolder t;
  write_model(t.path() / "in");
  set_thread_count(1);
  const Made one = run(t.path() / "in", t.path() / "one");
  int number = 0;
  for (const int64_t threads : {1, 2, 4})
    for (const int64_t block : {int64_t{1} << 14, int64_t{100'000}, int64_t{8} << 20}) {
      CAPTURE(threads, block);
      set_thread_count(threads);
      const Made other = run(t.path() / "in", t.path() / std::to_string(number++), {.block_bytes = block});
      CHECK(other.bytes == one.bytes);
      for (size_t i = 0; i < one.result.errors.size(); ++i) {
        CHECK(other.result.errors[i].signal == one.result.errors[i].signal);
        CHECK(other.result.errors[i].noise == one.result.errors[i].noise);
      }
    }
  set_thread_count(0);

  // In another order the digests need a pass of their own; the result is the same.
  const auto rearranged = [&](bool reversed, bool placed) {
    Checkpoint model = open_checkpoint(t.path() / "in");
    model.tensors = std::make_unique<RearrangedSource>(std::move(model.tensors), reversed, placed);
    return run(model, t.path() / std::to_string(number++));
  };
  const Made backwards = rearranged(true, true), nowhere = rearranged(true, false);
  CHECK(backwards.result.inputs.size() == one.result.inputs.size());
  for (size_t f = 0; f < one.result.inputs.size(); ++f) {
    CHECK(backwards.result.inputs[f].digest == one.result.inputs[f].digest);
    CHECK(nowhere.result.inputs[f].digest == one.result.inputs[f].digest);
  }
  for (size_t i = 0; i < one.result.errors.size(); ++i)
    CHECK(backwards.result.errors[one.result.errors.size() - 1 - i].noise == one.result.errors[i].noise);
}

TEST_CASE("a weight too large for one pass is read twice for its largest magnitude") {
  const TempFolder t;
  const int64_t rows = kOnePassBytes / 4096 + 100;
  fs::create_directories(t.path() / "in");
  std::ofstream(t.path() / "in" / "config.json") << "{}";
  {
    OutputFolder out(t.path() / "in");
    SafetensorsWriter writer(out, "model.safetensors", {{"model.layers.0.mlp.up_proj.weight", DType::bf16, {rows, 2048}}});
    std::vector<float> row(2048, 0.5f);
    for (int64_t r = 0; r < rows; ++r) {
      row[7] = r == rows - 1 ? -8.0f : 0.25f;  // the largest comes last
      writer.append_f32(row);
    }
    writer.close();
  }
  const Made made = run(t.path() / "in", t.path() / "a");
  CHECK(made.result.bytes_read > 2 * rows * 4096);
  CHECK(made.result.inputs[0].digest == sha256_file(t.path() / "in" / "model.safetensors"));
  CHECK(SafetensorsCheckpoint(t.path() / "a" / "out").read_all_f32("model.layers.0.mlp.up_proj.weight_scale") ==
        std::vector<float>{8.0f / 127});
}

TEST_CASE("a killed or interrupted run resumes, and writes the same bytes") {
  const TempFolder t;
  write_model(t.path() / "in");
  const std::string expected = run(t.path() / "in", t.path() / "whole").bytes;
  int number = 0;
  size_t most_resumed = 0;
  for (const int signal : {SIGKILL, SIGINT})
    for (const int64_t n : {2, 7, 13}) {
      CAPTURE(signal, n);
      const fs::path at = t.path() / std::to_string(number++);
      const int ended = run_and_signal(t.path() / "in", at, kOften, signal, n);
      CHECK(ended == (signal == SIGKILL ? -SIGKILL : 130));
      const Made made = run(t.path() / "in", at, kOften);
      CHECK(made.bytes == expected);
      CHECK(made.result.inputs[0].digest == sha256_file(made.result.inputs[0].name));
      most_resumed = std::max(most_resumed, made.result.resumed_items);
    }
  CHECK(most_resumed > 3);
}

TEST_CASE("a run starts over when input, output or journal have changed") {
  const TempFolder t;
  write_model(t.path() / "in");
  for (const std::string what : {"input", "output", "journal", "marks", "beyond", "items", "nothing"}) {
    CAPTURE(what);
    const fs::path in = t.path() / ("in-" + what), at = t.path() / what;
    fs::copy(t.path() / "in", in);
    REQUIRE(run_and_signal(in, at, kOften, SIGKILL, 13) == -SIGKILL);
    const fs::path file = at / "scratch" / kResumeFile;
    std::optional<ResumePoint> point = parse_resume(read_file(file), stage_key(127));
    REQUIRE(point);
    if (what == "input") {  // same size, same time: only the digest differs
      const fs::path first = *open_checkpoint(in).tensors->files().begin();
      const auto time = fs::last_write_time(first);
      std::fstream(first, std::ios::in | std::ios::out | std::ios::binary).seekp(-100, std::ios::end) << 'q';
      fs::last_write_time(first, time);
    }
    if (what == "output") {
      const fs::path partial = at / "scratch" / "partial" / point->files.at(0).name;
      REQUIRE(fs::file_size(partial) > 5002);
      std::fstream(partial, std::ios::in | std::ios::out | std::ios::binary).seekp(5000) << "\xff\x01";
    }
    if (what == "marks" || what == "beyond") {  // digests of fewer bytes than were used, or of more than there are
      if (what == "marks") point->progress["inputs"] = Json::array();
      else point->progress["inputs"][0]["bytes"] = 1'000'000'000;
      std::ofstream(file) << encode_resume(*point, stage_key(127));
    }
    if (what == "journal") std::ofstream(file, std::ios::app) << "}";
    if (what == "items") {
      point->progress["items"] = plan_for(*open_checkpoint(in).tensors).items.size() + 1;
      std::ofstream(file) << encode_resume(*point, stage_key(127));
    }
    const Made made = run(in, at, kOften);
    CHECK((made.result.resumed_items == 0) == (what != "nothing"));
    CHECK(made.bytes == run(in, t.path() / ("fresh-" + what)).bytes);
  }
}

TEST_CASE("a run with other options starts over, although names, shapes and sizes are the same") {
  const TempFolder t;
  write_model(t.path() / "in");
  const Checkpoint model = open_checkpoint(t.path() / "in");
  REQUIRE(layout_digest(plan_for(*model.tensors)) == layout_digest(plan_for(*model.tensors, 63)));
  const std::string expected = run(t.path() / "in", t.path() / "whole", {}, 63).bytes;
  REQUIRE(run_and_signal(t.path() / "in", t.path() / "a", kOften, SIGKILL, 13) == -SIGKILL);
  const Made other = run(t.path() / "in", t.path() / "a", kOften, 63);
  CHECK(other.result.resumed_items == 0);
  CHECK(other.bytes == expected);
}

TEST_CASE("a full disk ends the run, and with more room it resumes") {
  const TempFolder t;
  write_model(t.path() / "in");
  const std::string expected = run(t.path() / "in", t.path() / "whole").bytes;
  {
    const Faults faults;
    g_writes = 0;
    g_limit = 15;
    file_calls().pwrite = filling_pwrite;
    CHECK_THROWS_WITH(run(t.path() / "in", t.path() / "a", kOften), Catch::Contains("the disk is full"));
  }
  CHECK(fs::is_empty(t.path() / "a" / "out"));
  const Made made = run(t.path() / "in", t.path() / "a", kOften);
  CHECK(made.result.resumed_items > 0);
  CHECK(made.bytes == expected);
}

TEST_CASE("a file that is cut or changes under the engine is refused by name") {
  const TempFolder t;
  write_model(t.path() / "in");
  {
    const Checkpoint model = open_checkpoint(t.path() / "in");
    const fs::path last = model.tensors->files().back();
    fs::resize_file(last, fs::file_size(last) - 5000);
    CHECK_THROWS_WITH(run(model, t.path() / "a"),
                      Catch::Contains("the file ends before") && Catch::Contains(last.filename().string()));
  }
  fs::remove_all(t.path() / "in");
  write_model(t.path() / "in");
  const Checkpoint model = open_checkpoint(t.path() / "in");
  const Faults faults;
  g_writes = 0;
  g_victim = model.tensors->files().back();
  file_calls().pread = meddling_pread;
  CHECK_THROWS_WITH(run(model, t.path() / "b"), Catch::Contains("modified while being read"));
  CHECK(fs::is_empty(t.path() / "b" / "out"));
}

TEST_CASE("several schemes become groups with targets of their own") {
  const TempFolder t;
  write_model(t.path() / "in");
  const Checkpoint model = open_checkpoint(t.path() / "in");
  const Json config = quantization_config(plan_for(*model.tensors));
  REQUIRE(config["config_groups"].size() == 2);
  CHECK(config["config_groups"]["group_0"]["name"] == "rows");
  CHECK(config["config_groups"]["group_0"]["targets"] ==
        Json({R"(re:^model\.layers\.\d+\.mlp\.down_proj$)", R"(re:^model\.layers\.\d+\.self_attn\.q_proj$)"}));
  CHECK(config["config_groups"]["group_1"]["targets"] == Json({R"(re:^model\.layers\.\d+\.mlp\.up_proj$)"}));
}

TEST_CASE("chunks of any size cover every file once for its digest") {
  const TempFolder t;
  write_model(t.path() / "in");
  const Checkpoint model = open_checkpoint(t.path() / "in");
  const Plan plan = plan_for(*model.tensors);
  std::vector<int64_t> sizes;
  for (const fs::path& f : model.tensors->files()) sizes.push_back(int64_t(fs::file_size(f)));
  for (const int64_t block : {int64_t{4096}, int64_t{77777}, int64_t{8} << 20})
    for (const size_t first : {size_t{0}, size_t{5}, plan.items.size()}) {
      CAPTURE(block, first);
      std::vector<int64_t> at(sizes.size());
      std::vector<int64_t> out(plan.items.size());
      for (const Chunk& c : cut_into_chunks(plan, model, sizes, first, block)) {
        int64_t inner = c.begin;
        for (const RowTask& task : c.tasks) {
          out[task.item] += task.out_bytes;
          if (c.file < 0 || task.kind == RowTask::Kind::find_amax) continue;
          CHECK(task.stored_at >= inner);
          inner = task.stored_at + task.stored_bytes;
        }
        CHECK(inner <= std::max(c.end, c.begin));
        if (!c.digest) continue;
        CHECK(c.begin == at[size_t(c.file)]);
        at[size_t(c.file)] = c.end;
      }
      CHECK(at == sizes);
      for (size_t i = 0; i < plan.items.size(); ++i) CHECK(out[i] == (i < first ? 0 : plan.items[i].outputs[0].bytes()));
    }
}
