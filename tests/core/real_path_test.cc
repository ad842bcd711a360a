#include "core/real_path.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "tests/support.h"

using namespace overproof;

TEST_CASE("a path is what it names, with links, without slashes at the end, and as far as it exists") {
  const TempFolder folder;
  const fs::path root = fs::canonical(folder.path());
  fs::create_directories(root / "a/b");
  fs::create_directory_symlink(root / "a", root / "link");
  fs::create_directory_symlink("link/new", root / "dangling");
  CHECK(real_path(root / "link/b/") == root / "a/b");
  CHECK(real_path(root / "link/none/../c") == root / "a/c");
  CHECK(real_path(root / "dangling") == root / "a/new");
  CHECK(real_path(root / "a/b/..") == root / "a");
  CHECK(real_path("x").is_absolute());
  fs::create_symlink("self", root / "self");
  CHECK_THROWS_AS(real_path(root / "self"), IoError);
  CHECK(input_path(root / "link/") == root / "a");
  CHECK(input_path("some/folder/") == "some/folder");
  CHECK(lies_within(root / "link/x", root / "a/"));
  CHECK(lies_within(root / "a", root / "link"));
  CHECK_FALSE(lies_within(root / "ab", root / "a"));
  CHECK_FALSE(lies_within(root / "a", root / "a/b"));
}

TEST_CASE("an output that is an input by any name is refused, a hard link too") {
  const TempFolder folder;
  write_text(folder / "text.txt", "mine");
  fs::create_hard_link(folder / "text.txt", folder / "same");
  fs::create_symlink("text.txt", folder / "link");
  for (const char* out : {"text.txt", "same", "link", "./text.txt"})
    CHECK_THROWS_AS(require_apart(folder / out, {{"text", folder / "text.txt"}}), UsageError);
  CHECK_NOTHROW(require_apart(folder / "other", {{"text", folder / "text.txt"}, {"none", {}}}));
}

TEST_CASE("a file is what its first bytes say") {
  const TempFolder folder;
  CHECK(is_gguf(write_text(folder / "blob", "GGUF and more")));
  CHECK_FALSE(is_gguf(write_text(folder / "m.gguf", "GGU")));
  CHECK_FALSE(is_gguf(folder.path()));
  CHECK_FALSE(is_gguf(folder / "none"));
}

TEST_CASE("too little room on the disk is told in numbers") {
  const TempFolder folder;
  CHECK_NOTHROW(require_room(folder.path(), 1));
  CHECK_THROWS_WITH(require_room(folder.path(), int64_t{1} << 60), Catch::Contains("the disk is full") && Catch::Contains("MB are free"));
}
