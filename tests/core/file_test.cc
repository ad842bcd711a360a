#include <catch2/catch.hpp>

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/new_file.h"
#include "core/private_file.h"
#include "tests/support.h"

using namespace overproof;

TEST_CASE("a pipe or a device is refused at once, and not waited for") {
  const TempFolder folder;
  const fs::path pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  for (const fs::path& path : {pipe, fs::path("/dev/zero")}) {
    CHECK_THROWS_WITH(read_file(path), Catch::Contains("is not a regular file"));
    CHECK_THROWS_WITH(MappedFile(path), Catch::Contains("is not a regular file"));
    CHECK_THROWS_AS(sha256_file(path), IoError);
  }
}

TEST_CASE("an output folder knows the digest of what it wrote") {
  const TempFolder t;
  OutputFolder folder(t.path());
  OutputFile big = folder.open("sub/big.bin");
  const std::string block(700000, 'x');
  std::string all;
  for (int i = 0; i < 5; ++i) {
    big.write(block);
    big.write("tail");
    all += block + "tail";
  }
  folder.finish(std::move(big));
  folder.write_file("a.txt", "hello");
  const auto records = folder.records();
  REQUIRE(records.size() == 2);
  CHECK(records[0].name == "a.txt");
  CHECK(records[1].bytes == int64_t(all.size()));
  CHECK(records[1].digest == sha256(all));
  CHECK(records[1].digest == sha256_file(t.path() / "sub/big.bin"));
  CHECK(read_file(t.path() / "sub/big.bin") == all);
  CHECK_THROWS_AS(folder.open("../escape"), UsageError);
  CHECK_THROWS_AS(folder.open("/absolute"), UsageError);
}

TEST_CASE("an output file that is not closed leaves nothing") {
  const TempFolder t;
  {
    OutputFile f(t.path() / "x", "x");
    f.write("abc");
  }
  CHECK(fs::is_empty(t.path()));
}

TEST_CASE("a file size limit is an error that names the file, and no partial file is left") {
  const TempFolder t;
  const pid_t child = fork();  // the limit must not outlive this test
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 16, 1 << 16};
    setrlimit(RLIMIT_FSIZE, &limit);
    int code = 1;
    try {
      OutputFile f(t.path() / "big", "big");
      f.write(std::string(1 << 22, 'x'));
      f.close();
    } catch (const IoError& e) {
      code = std::string(e.what()).find("big") != std::string::npos ? 0 : 2;
    }
    _exit(fs::exists(t.path() / "big") ? 3 : code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("replacing a file is all or nothing") {
  const TempFolder t;
  write_file_atomically(t.path() / "f", "one");
  write_file_atomically(t.path() / "f", "two");
  CHECK(read_file(t.path() / "f") == "two");
  CHECK_THROWS_AS(write_file_atomically(t.path() / "no-such-folder" / "f", "x"), IoError);
  CHECK_THROWS_AS(read_file(t.path() / "f", 2), FormatError);
  CHECK_THROWS_AS(MappedFile(t.path() / "missing"), IoError);
}

TEST_CASE("two writers of one file do not share a temporary file, and leave none") {
  const TempFolder t;
  const fs::path file = t.path() / "run.json";
  // Each has written all of its content before either takes the name.
  {
    NewFile first(file, "first", 0644), second(file, "second", 0644);
    first.replace();
    CHECK(read_file(file) == "first");
    second.replace();
  }
  CHECK(read_file(file) == "second");
  { const NewFile abandoned(file, "third", 0644); }
  CHECK(read_file(file) == "second");
  CHECK_FALSE(NewFile(file, "fourth", 0644).link());
  CHECK(std::distance(fs::directory_iterator(t.path()), {}) == 1);

  std::vector<std::thread> writers;
  std::atomic<bool> torn{false};
  for (int i = 0; i < 4; ++i)
    writers.emplace_back([&, i] {
      for (int n = 0; n < 50; ++n) {
        write_file_atomically(file, std::string(size_t(1000 + i), char('a' + i)));
        const std::string seen = read_file(file);
        if (seen.size() != size_t(1000 + seen[0] - 'a') || seen != std::string(seen.size(), seen[0])) torn = true;
      }
    });
  for (std::thread& writer : writers) writer.join();
  CHECK_FALSE(torn);
  CHECK(std::distance(fs::directory_iterator(t.path()), {}) == 1);
}

TEST_CASE("a secret's file is private, and is never replaced") {
  const TempFolder t;
  const fs::path file = t.path() / "new" / "key";
  CHECK(create_private_file(file, "secret", "the key"));
  CHECK((fs::status(file).permissions() & fs::perms::all) == (fs::perms::owner_read | fs::perms::owner_write));
  CHECK((fs::status(file.parent_path()).permissions() & fs::perms::others_all) == fs::perms::none);
  CHECK_FALSE(create_private_file(file, "other", "the key"));
  CHECK(read_private_file(file, 100, "the key") == "secret");
  fs::permissions(file, fs::perms::group_read, fs::perm_options::add);
  CHECK_THROWS_AS(read_private_file(file, 100, "the key"), ProvenanceError);
  CHECK_THROWS_AS(create_private_file(file / "below", "x", "the key"), IoError);
}

TEST_CASE("names that leave their folder are refused") {
  for (const char* good : {"a", "a/b.txt", "a..b/c"}) CHECK(is_safe_relative_name(good));
  for (const char* bad : {"", "/a", "a//b", "a/", "..", "a/../b", "./a"}) CHECK_FALSE(is_safe_relative_name(bad));
  CHECK_FALSE(is_safe_relative_name(std::string_view("a\0b", 3)));
}
