// A cache may make things quicker, never other: whatever is done to it or to the files, the digests are those of the bytes.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "provenance/digest_cache.h"
#include "provenance/dsse.h"
#include "provenance/key_verbs.h"
#include "provenance/oms.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

constexpr int64_t kChunk = 64 << 10;

std::string noise(size_t bytes, uint32_t seed) {
  std::string data(bytes, '\0');
  for (char& c : data) c = char((seed = seed * 1664525 + 1013904223) >> 24);
  return data;
}

/// The scan must equal scan_artifact, which knows no cache.
CachedScan scan(const fs::path& folder, const DigestCache& cache, bool trust = false) {
  CachedScan made = scan_with_cache(folder, cache, trust);
  const ArtifactRecord plain = scan_artifact(folder);
  CHECK(made.record.root == plain.root);
  REQUIRE(made.record.files.size() == plain.files.size());
  for (size_t i = 0; i < plain.files.size(); ++i) {
    CHECK(made.record.files[i].digest == plain.files[i].digest);
    CHECK(made.record.files[i].bytes == plain.files[i].bytes);
    const CachedFile& cached = made.cache.files.at(plain.files[i].name);
    CHECK(cached.digest == plain.files[i].digest);
    CHECK(cached.states.size() == size_t(plain.files[i].bytes / made.cache.chunk_bytes));
  }
  return made;
}

void set_times(const fs::path& file, timespec time) {
  const timespec both[2] = {time, time};
  REQUIRE(utimensat(AT_FDCWD, file.c_str(), both, 0) == 0);
}

timespec modified(const fs::path& file) {
  struct stat info {};
  REQUIRE(stat(file.c_str(), &info) == 0);
  return info.st_mtim;
}

struct Model {
  TempFolder folder;
  std::string big = noise(10 * kChunk + 12345, 1), even = noise(4 * kChunk, 2), small = noise(100, 3);
  DigestCache cache;

  Model() {
    set_progress_mode(ProgressMode::off);
    put("big", big);
    put("sub/even", even);
    put("small", small);
    put("empty", "");
    cache.chunk_bytes = kChunk;
    cache = scan(path(), cache).cache;
  }
  fs::path path() const { return folder.path() / "model"; }
  void put(const std::string& name, const std::string& content) const { write_text(path() / name, content); }
};

}  // namespace

TEST_CASE("a chain that holds is checked link by link, and every byte is read") {
  const Model model;
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    const CachedScan again = scan(model.path(), model.cache);
    CHECK(again.bytes_hashed == again.bytes);
    CHECK(again.bytes_in_row == 0);
    CHECK(again.files_not_read == 0);
    for (const auto& [name, file] : again.cache.files) CHECK(file.states == model.cache.files.at(name).states);
  }
  set_thread_count(0);
}

TEST_CASE("a change anywhere is found, with the time of change set back") {
  Model model;
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    for (const size_t at : {size_t{0}, size_t{kChunk - 1}, size_t{kChunk}, size_t{5 * kChunk + 1}, model.big.size() - 1}) {
      const timespec before = modified(model.path() / "big");
      std::string changed = model.big;
      changed[at] = char(changed[at] ^ 1);
      model.put("big", changed);
      set_times(model.path() / "big", before);
      const CachedScan found = scan(model.path(), model.cache);
      CHECK(found.bytes_in_row == std::max<int64_t>(0, int64_t(model.big.size()) - int64_t(at / kChunk + 1) * kChunk));
      CHECK(scan(model.path(), found.cache).bytes_in_row == 0);  // the new cache is right
    }
  }
  set_thread_count(0);
}

TEST_CASE("several changes, chunks that changed places, files that grew, shrank, went and came") {
  Model model;
  std::string changed = model.big;
  changed[3 * kChunk] = char(changed[3 * kChunk] ^ 1);
  changed[8 * kChunk] = char(changed[8 * kChunk] ^ 1);
  model.put("big", changed);
  scan(model.path(), model.cache);

  model.put("big", model.big.substr(kChunk, kChunk) + model.big.substr(0, kChunk) + model.big.substr(2 * kChunk));
  scan(model.path(), model.cache);

  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{kChunk}, size_t{5 * kChunk}, size_t{5 * kChunk + 7}}) {
    model.put("big", model.big.substr(0, bytes));
    const CachedScan cut = scan(model.path(), model.cache);
    CHECK(cut.bytes_in_row == 0);  // what is left is as it was
  }
  for (const size_t more : {size_t{1}, size_t{kChunk}, size_t{3 * kChunk + 5}}) {
    model.put("sub/even", model.even + noise(more, 9));
    scan(model.path(), scan(model.path(), model.cache).cache);
  }
  fs::remove(model.path() / "small");
  model.put("new", noise(3 * kChunk, 10));
  const CachedScan last = scan(model.path(), model.cache);
  CHECK_FALSE(last.cache.files.contains("small"));

  // Two files that changed places have each other's states.
  model.put("new", model.even);
  model.put("sub/even", noise(3 * kChunk, 10));
  scan(model.path(), last.cache);
}

TEST_CASE("a forged cache costs time and nothing else") {
  const Model model;
  for (const size_t wrong : {0, 4, 9}) {
    DigestCache forged = model.cache;
    forged.files.at("big").states[wrong].words[3] ^= 1;
    forged.files.at("big").digest = sha256("something else");
    const CachedScan found = scan(model.path(), forged);
    CHECK(found.bytes_in_row > 0);
    CHECK(found.cache.files.at("big").states == model.cache.files.at("big").states);
  }
  DigestCache forged = model.cache;
  forged.files.at("big").states = std::vector<Sha256State>(10, Sha256State{{}, 0});
  for (size_t i = 0; i < 10; ++i) forged.files.at("big").states[i].bytes = int64_t(i + 1) * kChunk;
  forged.files.at("sub/even").states = {forged.files.at("big").states.begin(), forged.files.at("big").states.begin() + 4};
  scan(model.path(), forged);
}

TEST_CASE("times of change are trusted only when asked, and only once they have settled") {
  Model model;
  for (const auto& [name, file] : model.cache.files) CHECK_FALSE(file.stamp);  // written a moment ago
  CHECK(scan(model.path(), model.cache, true).files_not_read == 0);

  // A stamp as it will be noted when the files are old enough. ctime cannot be set back, so the test notes it itself.
  struct stat info {};
  REQUIRE(stat((model.path() / "big").c_str(), &info) == 0);
  const FileStamp stamp{int64_t(info.st_dev),          int64_t(info.st_ino),         int64_t(info.st_mtim.tv_sec),
                        int64_t(info.st_mtim.tv_nsec), int64_t(info.st_ctim.tv_sec), int64_t(info.st_ctim.tv_nsec)};
  model.cache.files.at("big").stamp = stamp;
  CHECK(scan(model.path(), model.cache, true).files_not_read == 1);
  CHECK(scan(model.path(), model.cache, false).files_not_read == 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));  // the kernel's times advance in ticks: why recent files are not noted

  SECTION("bytes changed in place, mtime set back: ctime shows it") {
    const timespec before = modified(model.path() / "big");
    const int fd = open((model.path() / "big").c_str(), O_WRONLY);
    REQUIRE(pwrite(fd, "changed", 7, 100) == 7);
    close(fd);
    set_times(model.path() / "big", before);
    const CachedScan found = scan(model.path(), model.cache, true);  // compares with the true digests
    CHECK(found.files_not_read == 0);
  }
  SECTION("another file of the same size put in its place: the inode shows it") {
    std::string other = model.big;
    other[0] = char(other[0] ^ 1);
    model.put("big", other);
    CHECK(scan(model.path(), model.cache, true).files_not_read == 0);
  }
  SECTION("cut") {
    fs::resize_file(model.path() / "big", 5000);
    CHECK(scan(model.path(), model.cache, true).files_not_read == 0);
  }
}

TEST_CASE("a stored cache comes back as it was, and its signature shows whose it is") {
  Model model;
  const Key key = Key::generate(), other = Key::generate();
  model.cache.files.at("big").stamp = FileStamp{1, 2, 3, 4, -5, 6};
  const fs::path file = model.folder / "cache.json";
  write_digest_cache(file, model.cache, key);
  const StoredCache read = read_digest_cache(file, key.public_key());
  CHECK(read.signed_by_key);
  CHECK_FALSE(read_digest_cache(file, other.public_key()).signed_by_key);
  CHECK(read.cache.chunk_bytes == kChunk);
  REQUIRE(read.cache.files.size() == model.cache.files.size());
  for (const auto& [name, cached] : model.cache.files) {
    CHECK(read.cache.files.at(name).states == cached.states);
    CHECK(read.cache.files.at(name).digest == cached.digest);
    CHECK(read.cache.files.at(name).stamp == cached.stamp);
  }
  const Json good = parse_json(Envelope::from_json(parse_json(read_file(file), file), file).payload, file);
  const auto refused = [&](auto change) {
    Json bad = good;
    change(bad);
    CHECK_THROWS_AS(parse_digest_cache(bad.dump(), file), FormatError);
  };
  CHECK_NOTHROW(parse_digest_cache(good.dump(), file));
  refused([](Json& j) { j["chunk_bytes"] = 0; });
  refused([](Json& j) { j["chunk_bytes"] = (64 << 10) + 1; });
  refused([](Json& j) { j["chunk_bytes"] = uint64_t(1) << 63; });
  refused([](Json& j) { j["format_version"] = 2; });
  refused([](Json& j) { j["files"][0]["bytes"] = -1; });
  refused([](Json& j) { j["files"][0]["states"] = j["files"][0]["states"].get<std::string>() + "0"; });
  refused([](Json& j) { j["files"][0]["states"] = j["files"][0]["states"].get<std::string>() + std::string(64, '0'); });
  refused([](Json& j) { j["files"][0]["states"] = std::string(64, 'g'); });
  refused([](Json& j) { j["files"].push_back(j["files"][0]); });
  refused([](Json& j) { j["files"][0]["stamp"] = {{"inode", 1}}; });
  refused([](Json& j) { j["more"] = 1; });
  const std::string text = good.dump();
  for (size_t n = 0; n < text.size(); n += 97) CHECK_THROWS_AS(parse_digest_cache(text.substr(0, n), file), FormatError);
}

TEST_CASE("sign takes a stranger's or a broken cache for none, and refuses what it could not sign") {
  Model model;
  const Key key = Key::generate();
  write_text(model.folder / "key.pem", key.private_pem());
  chmod((model.folder / "key.pem").c_str(), 0600);
  SignConfig config;
  config.key.key = (model.folder / "key.pem").string();
  config.cache = (model.folder / "cache.json").string();
  config.trust_change_time = true;
  Answer said;
  const auto sign = [&] {
    said = run_sign(config, model.path());
    CHECK(said.exit_code == 0);
    const ArtifactCheck check = check_artifact(model.path(), VerifyFiles::yes, &key.public_key());
    CHECK(check.faults.empty());
    CHECK(check.foreign);
  };
  sign();
  // Poisoned, and signed by another key: every stamp claims that the file is unchanged, every digest is false.
  DigestCache poisoned = model.cache;
  for (auto& [name, file] : poisoned.files) {
    struct stat info {};
    REQUIRE(stat((model.path() / name).c_str(), &info) == 0);
    file.digest = sha256("a lie");
    file.stamp = FileStamp{int64_t(info.st_dev),          int64_t(info.st_ino),         int64_t(info.st_mtim.tv_sec),
                           int64_t(info.st_mtim.tv_nsec), int64_t(info.st_ctim.tv_sec), int64_t(info.st_ctim.tv_nsec)};
  }
  write_digest_cache(config.cache, poisoned, Key::generate());
  sign();
  CHECK_THAT(said.json["note"].get<std::string>(), Contains("not signed by this key"));
  write_text(config.cache, "{");
  sign();
  CHECK_THAT(said.json["note"].get<std::string>(), Contains("of no use"));

  config.cache = (model.path() / "cache.json").string();
  CHECK_THROWS_WITH(run_sign(config, model.path()), Contains("elsewhere"));
  config.cache = "";
  CHECK_THROWS_WITH(run_sign(config, model.path()), Contains("needs --cache"));
  config.trust_change_time = false;
  config.signature = (model.path() / "other.sig").string();
  CHECK_THROWS_AS(run_sign(config, model.path()), UsageError);
  config.signature = "";
  write_text(model.path() / "claims.jsonl", "");
  CHECK_THROWS_WITH(run_sign(config, model.path()), Contains("lineage"));
}
