#include "core/direct_file.h"

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "core/rng.h"
#include "tests/support.h"

using namespace overproof;

namespace {

/// Puts other system calls underneath for as long as it lives.
struct Faults {
  FileCalls before = file_calls();
  ~Faults() { file_calls() = before; }
};

std::atomic<int64_t> g_calls = 0, g_room = 0;

ssize_t stuttering_pread(int fd, void* to, size_t bytes, off_t at) {
  const int64_t n = ++g_calls;
  if (n % 3 == 0) return errno = EINTR, -1;
  if (n % 3 == 1 && bytes > 1) bytes = std::max<size_t>(1, bytes / 2 - 7);  // short, and not at a block
  const int flags = fcntl(fd, F_GETFL);
  if (flags & O_DIRECT) {  // a direct read cannot be shortened so, but its answer can
    const ssize_t got = ::pread(fd, to, (bytes + 4095) / 4096 * 4096, at);
    return std::min<ssize_t>(got, ssize_t(bytes));
  }
  return ::pread(fd, to, bytes, at);
}

ssize_t stuttering_pwrite(int fd, const void* from, size_t bytes, off_t at) {
  const int64_t n = ++g_calls;
  if (n % 3 == 0) return errno = EINTR, -1;
  if (n % 3 == 1 && bytes > 8192) {
    const ssize_t put = ::pwrite(fd, from, bytes / 2 / 4096 * 4096, at);
    return put > 0 ? put - 100 : put;  // the rest of that block is for the caller to write again
  }
  return ::pwrite(fd, from, bytes, at);
}

ssize_t filling_pwrite(int fd, const void* from, size_t bytes, off_t at) {
  if (int64_t(at) >= g_room) return errno = ENOSPC, -1;
  return ::pwrite(fd, from, std::min(bytes, size_t(g_room - at)), at);
}

ssize_t no_direct_pread(int fd, void* to, size_t bytes, off_t at) {
  if (fcntl(fd, F_GETFL) & O_DIRECT) return errno = EINVAL, -1;
  return ::pread(fd, to, bytes, at);
}

ssize_t no_direct_pwrite(int fd, const void* from, size_t bytes, off_t at) {
  if (fcntl(fd, F_GETFL) & O_DIRECT) return errno = EINVAL, -1;
  return ::pwrite(fd, from, bytes, at);
}

std::string noise(size_t bytes) {
  Rng rng(11, "direct-file");
  std::string text(bytes, '\0');
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    const uint64_t word = rng.next_u64();
    std::memcpy(&text[i], &word, 8);
  }
  return text;
}

std::string read_in_pieces(DirectReader& reader, int64_t piece) {
  std::string all;
  AlignedBuffer buffer;
  for (int64_t at = 0; at < reader.size(); at += piece) {
    const auto bytes = reader.read(at, std::min(reader.size(), at + piece), buffer);
    all.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return all;
}

FileRecord write_in_pieces(OutputFile& file, std::string_view text, size_t piece) {
  for (size_t at = 0; at < text.size(); at += piece) file.write(text.substr(at, piece));
  return file.close();
}

}  // namespace

TEST_CASE("what is written past the cache is read past it, at any length and cut") {
  const TempFolder t;
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4096}, size_t{5} << 20, (size_t{9} << 20) + 4097}) {
    CAPTURE(bytes);
    const std::string text = noise(bytes);
    OutputFile out(t.path() / "f", "f");
    const FileRecord record = write_in_pieces(out, text, 1234567);
    CHECK(record.bytes == int64_t(bytes));
    CHECK(record.digest == sha256(text));
    CHECK(fs::file_size(t.path() / "f") == bytes);
    DirectReader reader(t.path() / "f");
    CHECK(read_in_pieces(reader, 1000003) == text);
    CHECK(read_in_pieces(reader, int64_t{16} << 20) == text);
    reader.check_unchanged();
  }
}

TEST_CASE("short reads and writes, and signals in between, change nothing") {
  const TempFolder t;
  const Faults faults;
  const std::string text = noise((size_t{10} << 20) + 777);
  file_calls().pwrite = stuttering_pwrite;
  file_calls().pread = stuttering_pread;
  OutputFile out(t.path() / "f", "f");
  CHECK(write_in_pieces(out, text, 3000001).digest == sha256(text));
  CHECK(read_file(t.path() / "f") == text);
  DirectReader reader(t.path() / "f");
  CHECK(read_in_pieces(reader, 2500000) == text);
}

TEST_CASE("a file system without direct I/O works, and direct() is false") {
  const TempFolder t;
  const std::string text = noise((size_t{9} << 20) + 5);
  {
    const Faults faults;
    file_calls().pwrite = no_direct_pwrite;
    file_calls().pread = no_direct_pread;
    DirectWriter writer(t.path() / "f");
    writer.write(text.data(), text.size());
    writer.close();
    CHECK_FALSE(writer.direct());
    DirectReader reader(t.path() / "f");
    CHECK(read_in_pieces(reader, 3000000) == text);
    CHECK_FALSE(reader.direct());
  }
  const TempFolder memory("/dev/shm");  // tmpfs: with or without, as the kernel has it
  OutputFile out(memory.path() / "f", "f");
  CHECK(write_in_pieces(out, text, 5000000).digest == sha256(text));
  DirectReader reader(memory.path() / "f");
  CHECK(read_in_pieces(reader, 3000000) == text);
}

TEST_CASE("a full disk is an error with a remedy, whenever it fills up, and no half file stays") {
  const TempFolder t;
  const Faults faults;
  file_calls().pwrite = filling_pwrite;
  const std::string text(size_t{9} << 20, 'x');
  for (const int64_t room : {int64_t{0}, int64_t{4096}, (int64_t{5} << 20) + 100, (int64_t{9} << 20) - 1}) {
    CAPTURE(room);
    g_room = room;
    const auto attempt = [&] {
      OutputFile out(t.path() / "f", "f");
      write_in_pieces(out, text, 700000);
    };
    CHECK_THROWS_WITH(attempt(),
                      Catch::Contains("the disk is full; free some room") && Catch::Contains((t.path() / "f").string()));
    CHECK_FALSE(fs::exists(t.path() / "f"));
  }
}

TEST_CASE("a file that is cut or written to while it is read is refused") {
  const TempFolder t;
  const std::string text = noise(size_t{3} << 20);
  std::ofstream(t.path() / "f") << text;
  DirectReader reader(t.path() / "f");
  AlignedBuffer buffer;
  reader.read(0, 1 << 20, buffer);
  fs::resize_file(t.path() / "f", (1 << 20) + 5000);
  try {
    reader.read(1 << 20, 3 << 20, buffer);
    FAIL("read beyond the end");
  } catch (const FormatError& e) {
    CHECK(e.offset() == (1 << 20) + 5000);
    CHECK_THAT(e.what(), Catch::Contains("truncated while being read"));
  }
  CHECK_THROWS_AS(reader.check_unchanged(), FormatError);
  CHECK_THROWS_AS(DirectReader(t.path() / "missing"), IoError);
  CHECK_THROWS_AS(DirectReader(t.path()), IoError);
}

TEST_CASE("an output is gone on from where it was synced, and only from what it was") {
  const TempFolder t;
  const std::string text = noise((size_t{13} << 20) + 321);
  for (const size_t kept : {size_t{0}, size_t{5000}, size_t{4} << 20, (size_t{8} << 20) + 4095}) {
    CAPTURE(kept);
    const fs::path folder = t.path() / std::to_string(kept);
    std::vector<FileRecord> records;
    {
      OutputFolder first(folder, Unfinished::kept);
      OutputFile out = first.open("f");
      out.write(std::string_view(text).substr(0, kept));
      records = {out.sync()};
      CHECK(records[0].digest == sha256(std::string_view(text).substr(0, kept)));
      out.write(std::string(size_t{6} << 20, '!'));  // goes astray, as what is written just before a kill
    }
    OutputFolder second(folder, Unfinished::kept);
    REQUIRE(second.resume(records));
    OutputFile out = second.open("f");
    CHECK(out.kept_bytes_left() == int64_t(kept));
    out.write(std::string_view(text).substr(0, kept / 3));  // a header that is made again
    out.skip(int64_t(kept - kept / 3));
    out.write(std::string_view(text).substr(kept));
    second.finish(std::move(out));
    OutputFolder final_folder(t.path() / ("final" + std::to_string(kept)));
    final_folder.adopt(second);
    REQUIRE(final_folder.records().size() == 1);
    CHECK(final_folder.records()[0].digest == sha256(text));
    CHECK(read_file(final_folder.path() / "f") == text);
    CHECK_FALSE(fs::exists(folder / "f"));
  }

  OutputFolder folder(t.path() / "again", Unfinished::kept);
  OutputFile out = folder.open("f");
  out.write(text.substr(0, 100000));
  const FileRecord record = out.sync();
  out = folder.open("g");
  CHECK(OutputFolder(t.path() / "again", Unfinished::kept).resume({record}));
  for (const FileRecord& bad :
       {FileRecord{"f", 100001, record.digest}, FileRecord{"f", 99999, record.digest}, FileRecord{"h", 0, sha256("")},
        FileRecord{"../again/f", 100000, record.digest}, FileRecord{"f", -1, record.digest}})
    CHECK_FALSE(OutputFolder(t.path() / "again", Unfinished::kept).resume({bad}));
  std::fstream(t.path() / "again" / "f", std::ios::in | std::ios::out).seekp(77) << '\xff' << '\x01';
  CHECK_FALSE(OutputFolder(t.path() / "again", Unfinished::kept).resume({record}));
}
