#include "records/resume.h"

#include <catch2/catch.hpp>
#include <fstream>

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/direct_file.h"
#include "core/error.h"
#include "formats/safetensors.h"
#include "records/activation_journal.h"
#include "records/activation_statistics.h"
#include "records/batch_spool.h"
#include "records/document_spool.h"
#include "tests/support.h"

using namespace overproof;

namespace {

const Digest kKey = sha256(std::string_view("key")), kOther = sha256(std::string_view("other"));

FileRecord put(const fs::path& folder, const std::string& name, const std::string& content) {
  std::ofstream(folder / name, std::ios::binary) << content;
  return {name, int64_t(content.size()), sha256(content)};
}

int64_t g_writes = 0, g_kill_at = 0;

ssize_t killing_pwrite(int fd, const void* from, size_t bytes, off_t at) {
  if (++g_writes == g_kill_at) ::kill(::getpid(), SIGKILL);
  return ::pwrite(fd, from, bytes, at);
}

/// Runs `work` in a process that is killed before its n-th write of data. True when it was killed, false when it ended before.
template <class Work>
bool killed_at_write(int64_t n, Work&& work) {
  const pid_t child = fork();
  if (child == 0) {
    g_writes = 0;
    g_kill_at = n;
    file_calls().pwrite = killing_pwrite;
    work();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

// Batch b of a spool: row r has (b + r) % 5 entries of two bytes.
EncodedRows batch_of(const BatchSpool::Shape& shape, int64_t b) {
  EncodedRows rows;
  for (int64_t r = 0; r < shape.rows_of(b); ++r) {
    rows.lengths.push_back(uint8_t((b + r) % 5));
    for (int64_t i = 0; i < 2 * rows.lengths.back(); ++i) rows.entries.push_back(uint8_t(b * 16 + r + i));
  }
  return rows;
}

std::string bytes_of(const BatchSpool& spool) {
  std::string all;
  spool.for_each([&](std::span<const uint8_t> lengths, std::span<const uint8_t> entries) {
    all.append(lengths.begin(), lengths.end()).append(entries.begin(), entries.end());
  });
  return all;
}

/// Appends all batches that are missing; returns how many were there.
int64_t fill(BatchSpool& spool, const BatchSpool::Shape& shape) {
  const int64_t there = spool.batches();
  for (int64_t b = there; b < shape.batches(); ++b) spool.append(batch_of(shape, b));
  return there;
}

constexpr ActivationJournal::Shape kShape{.layers = 3, .tokens = 4, .hidden = 2};

/// Records the layers that are missing and writes activations.safetensors into `out`; returns how many were there.
int64_t record(const fs::path& scratch, const fs::path& out, const Digest& key = kKey) {
  ActivationJournal journal(scratch, key, kShape);
  const int64_t there = journal.progress().layers_done;
  std::vector<float> stream(8, 0.5f);
  if (there > 0) journal.read_stream(stream);
  for (int64_t layer = there; layer < kShape.layers; ++layer) {
    const std::vector<float> amax = {stream[0], 2, float(layer)}, hessian(layer == 1 ? 0 : 9, 0.25f);
    const std::vector<uint16_t> samples(6, 0x3c00);
    const std::string name = "model.layers." + std::to_string(layer);
    journal.add({.weights = {name + ".a", name + ".b"}, .amax = amax, .square = amax, .range = {-1, 2}, .samples = samples, .hessian = hessian,
                 .routed = 3, .forced = 1});
    for (float& x : stream) x += float(layer + 1);
    LayerProgress progress = journal.progress();
    ++progress.layers_done;
    progress.experts += 2;
    journal.checkpoint(progress, stream);
  }
  CHECK(journal.progress().experts == 6);
  OutputFolder folder(out);
  journal.finish(folder, {{"model_root", kKey.hex()}, {"corpus_root", kOther.hex()}, {"tokens", "4"}});
  return there;
}

}  // namespace

TEST_CASE("a resume point comes back under its key, and only while its files begin with what they did") {
  const TempFolder t;
  const FileRecord a = put(t.path(), "a.bin", "abcdef"), b = put(t.path(), "b.bin", "");
  Resume(t.path(), kKey).write({{a, b}, {{"done", 3}, {"sum", 0.1}}});
  const auto point = Resume(t.path(), kKey).read();
  REQUIRE(point);
  CHECK(point->progress == Json{{"done", 3}, {"sum", 0.1}});
  CHECK(point->files.size() == 2);
  CHECK_FALSE(Resume(t.path(), kOther).read());
  put(t.path(), "a.bin", "abcdefgh");  // grew: what was being written when the process was killed
  CHECK(Resume(t.path(), kKey).read());
  put(t.path(), "a.bin", "abcdeX");
  CHECK_FALSE(Resume(t.path(), kKey).read());
  put(t.path(), "a.bin", "abcde");
  CHECK_FALSE(Resume(t.path(), kKey).read());
  fs::remove(t.path() / "a.bin");
  CHECK_FALSE(Resume(t.path(), kKey).read());
}

TEST_CASE("without a stage key nothing is read back") {
  const TempFolder t;
  Resume(t.path(), Digest{}).write({{}, Json::object()});
  CHECK(fs::exists(t.path() / kResumeFile));
  CHECK_FALSE(Resume(t.path(), Digest{}).read());
}

TEST_CASE("a point that replaces another removes the files that only the other named") {
  const TempFolder t;
  Resume resume(t.path(), kKey);
  const FileRecord a = put(t.path(), "a", "1"), b = put(t.path(), "b", "2"), c = put(t.path(), "c", "3");
  resume.write({{a, b}, Json::object()});
  resume.write({{b, c}, Json::object()});
  CHECK_FALSE(fs::exists(t.path() / "a"));
  CHECK(fs::exists(t.path() / "b"));
  Resume later(t.path(), kKey);
  REQUIRE(later.read());
  later.clear();
  CHECK(fs::is_empty(t.path()));
}

TEST_CASE("hostile resume points are refused") {
  const TempFolder t;
  const ResumePoint good{{put(t.path(), "a.bin", "abc")}, {{"x", 1}}};
  const std::string text = encode_resume(good, kKey);
  REQUIRE(parse_resume(text, kKey));
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = char(changed[i] ^ 1);
    CHECK_FALSE(parse_resume(changed, kKey));
    CHECK_FALSE(parse_resume(text.substr(0, i), kKey));
  }
  // With a digest that holds.
  const auto sealed = [](const Json& json) { return json.dump() + "\n" + sha256(json.dump()).hex() + "\n"; };
  const Json honest = Json::parse(text.substr(0, text.find('\n')));
  REQUIRE(parse_resume(sealed(honest), kKey));
  const auto refused = [&](const std::function<void(Json&)>& change) {
    Json json = honest;
    change(json);
    INFO(json.dump());
    CHECK_FALSE(parse_resume(sealed(json), kKey));
  };
  refused([](Json& j) { j["format_version"] = 2; });
  refused([](Json& j) { j["more"] = 1; });
  refused([](Json& j) { j.erase("progress"); });
  refused([](Json& j) { j["progress"] = 1; });
  refused([](Json& j) { j["files"] = Json::object(); });
  refused([](Json& j) { j["files"][0]["name"] = "../a.bin"; });
  refused([](Json& j) { j["files"][0]["name"] = "/etc/passwd"; });
  refused([](Json& j) { j["files"].push_back(j["files"][0]); });
  refused([](Json& j) { j["files"][0]["bytes"] = -1; });
  refused([](Json& j) { j["files"][0]["bytes"] = 1.5; });
  refused([](Json& j) { j["files"][0]["bytes"] = uint64_t(1) << 63; });
  refused([](Json& j) { j["files"][0]["sha256"] = "sha256:" + kKey.hex(); });
  refused([](Json& j) { j["files"][0]["more"] = 1; });
  refused([](Json& j) { j = Json::array(); });

  // What is not a regular file is not opened: a pipe would never end.
  fs::remove(t.path() / kResumeFile);
  REQUIRE(::mkfifo((t.path() / kResumeFile).c_str(), 0600) == 0);
  CHECK_FALSE(Resume(t.path(), kKey).read());
  fs::remove(t.path() / kResumeFile);
  Resume(t.path(), kKey).write(good);
  fs::rename(t.path() / "a.bin", t.path() / "elsewhere");
  fs::create_symlink("elsewhere", t.path() / "a.bin");
  CHECK_FALSE(Resume(t.path(), kKey).read());
}

TEST_CASE("a spool that is killed at any write resumes after its last finished batch, with the same rows") {
  const BatchSpool::Shape shape{.entry_bytes = 2, .batch_rows = 4, .total_rows = 18};
  const TempFolder t;
  BatchSpool whole(t.path() / "whole", kKey, shape);
  CHECK(fill(whole, shape) == 0);
  const std::string expected = bytes_of(whole);
  int64_t most = 0;
  bool killed = true;
  for (int64_t n = 1; killed; ++n) {
    REQUIRE(n < 100);
    const fs::path at = t.path() / std::to_string(n);
    killed = killed_at_write(n, [&] {
      BatchSpool spool(at, kKey, shape);
      fill(spool, shape);
    });
    BatchSpool spool(at, kKey, shape);
    const int64_t there = fill(spool, shape);
    CHECK(there == (killed ? n - 1 : shape.batches()));  // one write a batch
    CHECK(bytes_of(spool) == expected);
    most = std::max(most, there);
  }
  CHECK(most == shape.batches());
}

TEST_CASE("a spool starts over when it is another's, or was changed") {
  const BatchSpool::Shape shape{.entry_bytes = 2, .batch_rows = 4, .total_rows = 18};
  const TempFolder t;
  const auto fresh = [&] {
    fs::remove_all(t.path() / "s");
    BatchSpool spool(t.path() / "s", kKey, shape);
    spool.append(batch_of(shape, 0));
    spool.append(batch_of(shape, 1));
  };
  const auto left = [&](const Digest& key, BatchSpool::Shape s) { return BatchSpool(t.path() / "s", key, s).batches(); };
  fresh();
  CHECK(left(kKey, shape) == 2);
  CHECK(left(kOther, shape) == 0);
  fresh();
  BatchSpool::Shape other = shape;
  other.batch_rows = 5;
  CHECK(left(kKey, other) == 0);
  fresh();
  std::fstream(t.path() / "s" / "batches.rows", std::ios::in | std::ios::out | std::ios::binary).seekp(3) << '\4';
  CHECK(left(kKey, shape) == 0);
  // A resume point that holds but does not describe the rows.
  for (const int64_t claimed : {1, 3, 100}) {
    fresh();
    Resume resume(t.path() / "s", kKey);
    auto point = resume.read();
    REQUIRE(point);
    point->progress["batches"] = claimed;
    resume.write(*point);
    CHECK(left(kKey, shape) == 0);
  }
}

TEST_CASE("documents that are killed at any write resume after the last saved one") {
  const TempFolder t;
  const auto fill_documents = [](DocumentSpool& spool) {
    const auto there = int64_t(spool.documents().size());
    for (int64_t i = there; i < 6; ++i) {
      spool.append(std::vector<int32_t>(size_t(i % 3), int32_t(i)));
      if (i % 2 == 1) spool.save();
    }
    return there;
  };
  DocumentSpool whole(t.path() / "whole", kKey, 6, 10);
  fill_documents(whole);
  int64_t most = 0;
  bool killed = true;
  for (int64_t n = 1; killed; ++n) {
    REQUIRE(n < 50);
    const fs::path at = t.path() / std::to_string(n);
    killed = killed_at_write(n, [&] {
      DocumentSpool spool(at, kKey, 6, 10);
      fill_documents(spool);
    });
    DocumentSpool spool(at, kKey, 6, 10);
    most = std::max(most, fill_documents(spool));
    CHECK(spool.documents() == whole.documents());
  }
  CHECK(most == 6);
  CHECK(DocumentSpool(t.path() / "whole", kKey, 6, 10).documents().size() == 6);
  CHECK(DocumentSpool(t.path() / "whole", kKey, 6, 5).documents().empty());  // an id is outside this vocabulary, and all is begun anew
  CHECK(DocumentSpool(t.path() / "1", kOther, 6, 10).documents().empty());
  CHECK(DocumentSpool(t.path() / "2", kKey, 5, 10).documents().empty());
  for (const char* text : {"[1]", "1\n", "[-1]\n", "[1.5]\n", "[10]\n", "[1\n", "\n"}) CHECK_FALSE(parse_drawn_documents(text, 10));
  CHECK(parse_drawn_documents("[9]\n[]\n", 10)->size() == 2);
}

TEST_CASE("statistics that are killed at any write resume after the last whole layer, and give the same file") {
  const TempFolder t;
  fs::create_directories(t.path() / "out");
  CHECK(record(t.path() / "scratch", t.path() / "out") == 0);
  CHECK(fs::is_empty(t.path() / "scratch"));
  const std::string expected = read_file(t.path() / "out" / kActivationsFile);
  const ActivationStatistics file(t.path() / "out");
  CHECK(file.groups().size() == 6);
  CHECK(*file.group_of("model.layers.2.b.weight") == "model.layers.2.a");
  CHECK(file.has_hessian("model.layers.0.a"));
  CHECK_FALSE(file.has_hessian("model.layers.1.a"));
  const LinearStatistics s = file.read("model.layers.2.a", ActivationStatistics::Parts::samples);
  CHECK(s.amax == std::vector<float>{3.5f, 2, 2});
  CHECK(s.tokens == 4);
  CHECK(s.forced_tokens == 1);
  CHECK(s.samples == std::vector<float>(6, 1.0f));
  int64_t most = 0;
  bool killed = true;
  for (int64_t n = 1; killed; ++n) {
    REQUIRE(n < 100);
    const fs::path at = t.path() / std::to_string(n);
    fs::create_directories(at / "out");
    killed = killed_at_write(n, [&] { record(at / "scratch", at / "out"); });
    fs::remove_all(at / "out");
    fs::create_directories(at / "out");
    most = std::max(most, record(at / "scratch", at / "out"));
    CHECK(read_file(at / "out" / kActivationsFile) == expected);
  }
  CHECK(most == kShape.layers);
}

TEST_CASE("statistics start over when they are another run's, or do not describe their files") {
  const TempFolder t;
  fs::create_directories(t.path() / "out");
  const fs::path scratch = t.path() / "scratch";
  const auto left = [&](const Digest& key, const std::function<void(ResumePoint&)>& change) {
    fs::remove_all(scratch);
    {
      ActivationJournal journal(scratch, kKey, kShape);
      const std::vector<float> amax(3, 1.0f), stream(8, 0.5f);
      const std::vector<uint16_t> samples(6);
      journal.add({.weights = {"a"}, .amax = amax, .square = amax, .range = {0, 1}, .samples = samples, .hessian = {}, .routed = 1, .forced = 0});
      journal.checkpoint({.layers_done = 1}, stream);
    }
    Resume resume(scratch, kKey);
    auto point = resume.read();
    REQUIRE(point);
    change(*point);
    resume.write(*point);
    return ActivationJournal(scratch, key, kShape).progress().layers_done;
  };
  CHECK(left(kKey, [](ResumePoint&) {}) == 1);
  CHECK(left(kOther, [](ResumePoint&) {}) == 0);
  CHECK(left(kKey, [](ResumePoint& p) { p.progress["layers"] = 4; }) == 0);
  CHECK(left(kKey, [](ResumePoint& p) { p.progress["layers"] = 2; }) == 0);  // the stream is named after 1
  CHECK(left(kKey, [](ResumePoint& p) { p.progress["experts"] = {0, 0, 0}; }) == 0);
  CHECK(left(kKey, [](ResumePoint& p) { p.progress["experts"][1] = -1; }) == 0);
  CHECK(left(kKey, [](ResumePoint& p) { p.progress["groups"].push_back(p.progress["groups"][0]); }) == 0);
  CHECK(left(kKey, [](ResumePoint& p) { p.progress["groups"][0][1] = 4; }) == 0);
  CHECK(left(kKey, [](ResumePoint& p) { p.progress["groups"][0][2] = int64_t(1) << 62; }) == 0);
  CHECK(left(kKey, [](ResumePoint& p) { p.progress["groups"][0][3] = true; }) == 0);
  CHECK(left(kKey, [](ResumePoint& p) { p.progress.erase("groups"); }) == 0);
  CHECK(left(kKey, [](ResumePoint& p) { std::swap(p.files[0], p.files[1]); }) == 0);
}
