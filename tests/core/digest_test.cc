// Everything against OpenSSL's EVP, which shares no code with the kernels here.

#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "core/hash_files.h"
#include "core/hash_lanes.h"
#include "core/parallel.h"
#include "core/sha256_ni.h"
#include "tests/skip.h"
#include "tests/support.h"

using namespace overproof;

namespace {

std::vector<uint8_t> noise(size_t bytes, uint32_t seed) {
  std::vector<uint8_t> data(bytes);
  for (uint8_t& b : data) b = uint8_t((seed = seed * 1664525 + 1013904223) >> 24);
  return data;
}

Digest by_openssl(const uint8_t* data, size_t bytes) {
  Digest d;
  unsigned length = 0;
  REQUIRE(EVP_Digest(data, bytes, d.bytes.data(), &length, EVP_sha256(), nullptr) == 1);
  REQUIRE(length == 32);
  return d;
}

/// Runs a check with the processor's SHA instructions, if it has them, and without.
template <class Check>
void both_ways(Check check) {
  for (const bool instructions : {true, false}) {
    if (instructions && !sha256_ni_kernel(1)) continue;  // reported by the case [hardware-sha]
    use_sha_instructions(instructions);
    check();
  }
  use_sha_instructions(true);
}

struct Folder : TempFolder {
  FileToHash write(const std::string& name, const std::vector<uint8_t>& data) const {
    std::ofstream(path() / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(data.data()), std::streamsize(data.size()));
    return {path() / name, int64_t(data.size())};
  }
};

}  // namespace

TEST_CASE("this processor has SHA instructions, so that all cases test them", "[hardware-sha]") {
  if (!sha256_ni_kernel(1)) SKIP_CASE("this processor has no SHA instructions; only the portable code was tested");
  use_sha_instructions(true);
  const std::vector<uint8_t> data = noise(1 << 16, 7);
  CHECK(sha256(data) == by_openssl(data.data(), data.size()));
}

TEST_CASE("digests equal OpenSSL's on every length up to 4096") {
  const std::vector<uint8_t> data = noise(4096, 1);
  both_ways([&] {
    for (size_t n = 0; n <= data.size(); ++n) {
      if (sha256(std::span(data).first(n)) != by_openssl(data.data(), n)) FAIL("length " << n);
      Sha256 pieces;  // cut at an odd place, so that blocks begin in one piece and end in the next
      pieces.update(data.data(), n / 3);
      pieces.update(data.data() + n / 3, n - n / 3);
      if (pieces.so_far() != by_openssl(data.data(), n) || pieces.finish() != by_openssl(data.data(), n))
        FAIL("in pieces, length " << n);
    }
  });
}

TEST_CASE("messages of any lengths hashed together have the digests that they have alone") {
  const std::vector<uint8_t> data = noise(8192, 2);
  both_ways([&] {
    for (size_t n = 0; n <= 4096; ++n) {
      // Lengths far apart, equal, and around block ends; 1 to 6 messages, so that lanes are empty, full and refilled.
      const size_t lengths[6] = {n, 4096 - n, n, (n * 7) % 4097, n / 64 * 64, 63 + n % 3};
      const size_t count = 1 + n % 6;
      std::vector<Sha256> hashes(count);
      std::vector<HashJob> jobs;
      for (size_t i = 0; i < count; ++i) jobs.push_back({&hashes[i], data.data() + 17 * i, lengths[i]});
      update_together(jobs);
      for (size_t i = 0; i < count; ++i)
        if (hashes[i].finish() != by_openssl(data.data() + 17 * i, lengths[i]))
          FAIL("length " << n << ", message " << i << " of " << count);
    }
  });
}

TEST_CASE("short messages with a prefix, of every length and any number, in place as well") {
  const std::vector<uint8_t> data = noise(118 * 8, 4);
  both_ways([&] {
    for (size_t n = 0; n <= 118; ++n)
      for (size_t count = 0; count <= 8; ++count) {
        const auto prefix = uint8_t(n);
        std::vector<Digest> digests(count), expected(count);
        for (size_t i = 0; i < count; ++i) {
          std::vector<uint8_t> message{prefix};
          message.insert(message.end(), data.begin() + ptrdiff_t(i * n), data.begin() + ptrdiff_t((i + 1) * n));
          expected[i] = by_openssl(message.data(), message.size());
        }
        sha256_parts(prefix, data.data(), n, count, digests.data());
        if (digests != expected) FAIL(count << " messages of length " << n);
        if (n < sizeof(Digest)) continue;
        std::vector<Digest> place((n * count + 31) / 32);
        std::copy_n(data.data(), n * count, reinterpret_cast<uint8_t*>(place.data()));
        sha256_parts(prefix, reinterpret_cast<const uint8_t*>(place.data()), n, count, place.data());
        place.resize(count);
        if (place != expected) FAIL("in place, " << count << " messages of length " << n);
      }
  });
}

TEST_CASE("a message moves between lanes in the middle of a block") {
  const std::vector<uint8_t> data = noise(100000, 3);
  both_ways([&] {
    std::vector<Sha256> hashes(5);
    std::vector<size_t> at(5, 0);
    for (size_t step = 1; step < 200; ++step) {
      std::vector<HashJob> jobs;
      for (size_t j = 0; j < 5; ++j) {
        const size_t i = (step + j) % 5;  // another lane each time, and now and then none
        if ((step + i) % 3 == 0) continue;
        const size_t bytes = (step * 37 + i * 101) % 500;
        jobs.push_back({&hashes[i], data.data() + at[i], bytes});
        at[i] += bytes;
      }
      update_together(jobs);
    }
    for (size_t i = 0; i < 5; ++i) CHECK(hashes[i].finish() == by_openssl(data.data(), at[i]));
  });
}

TEST_CASE("a hash resumes from the state of another, with or without SHA instructions") {
  const std::vector<uint8_t> data = noise(5000, 4);
  Sha256 first;
  first.update(data.data(), 4096);
  const Sha256State state = first.state();
  CHECK(state.bytes == 4096);
  both_ways([&] {
    Sha256 second(state);
    second.update(data.data() + 4096, data.size() - 4096);
    CHECK(second.finish() == by_openssl(data.data(), data.size()));
  });
  first.update("x");
  CHECK_THROWS_AS(first.state(), std::logic_error);
  CHECK_THROWS_AS(Sha256(Sha256State{{}, 63}), std::logic_error);
}

TEST_CASE("the vectors of FIPS 180 hold, a million letters and more than 2^32 bits") {
  both_ways([] {
    CHECK(sha256("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(sha256("").hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(sha256(std::string(1000000, 'a')).hex() == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  });
  // The length field beyond 32 bits: 600 MiB of the same MiB, by both.
  const std::vector<uint8_t> block = noise(1 << 20, 5);
  Sha256 ours;
  EVP_MD_CTX* theirs = EVP_MD_CTX_new();
  REQUIRE(EVP_DigestInit_ex(theirs, EVP_sha256(), nullptr) == 1);
  for (int i = 0; i < 600; ++i) {
    ours.update(block.data(), block.size());
    EVP_DigestUpdate(theirs, block.data(), block.size());
  }
  Digest expected;
  EVP_DigestFinal_ex(theirs, expected.bytes.data(), nullptr);
  EVP_MD_CTX_free(theirs);
  CHECK(ours.finish() == expected);
}

TEST_CASE("threads that hash in the same lanes get their own digests") {
  const std::vector<uint8_t> data = noise(3 << 20, 6);
  both_ways([&] {
    HashLanes lanes;
    std::vector<Digest> found(7);
    std::vector<std::thread> threads;
    for (size_t t = 0; t < found.size(); ++t)
      threads.emplace_back([&, t] {
        Sha256 hash;
        const size_t piece = 1000 + 70001 * t;
        for (size_t at = 0; at < data.size(); at += piece)
          lanes.update(hash, data.data() + at, std::min(piece, data.size() - at));
        lanes.update(hash, data.data(), t);  // t = 0: nothing
        found[t] = hash.finish();
      });
    for (std::thread& t : threads) t.join();
    for (size_t t = 0; t < found.size(); ++t) {
      std::vector<uint8_t> all = data;
      all.insert(all.end(), data.begin(), data.begin() + ptrdiff_t(t));
      CHECK(found[t] == by_openssl(all.data(), all.size()));
    }
  });
}

TEST_CASE("files hashed at once have the digests of their bytes, whatever the number of threads") {
  const Folder folder;
  std::vector<FileToHash> files;
  std::vector<Digest> expected;
  for (size_t i = 0; i < 40; ++i) {
    // One large file and many small ones, empty ones, and sizes around the length of a read.
    const size_t bytes = i == 7 ? 9000001 : i % 5 == 0 ? 0 : i % 5 == 1 ? (64 << 10) + i - 20 : i * 1000;
    const std::vector<uint8_t> data = noise(bytes, uint32_t(i));
    files.push_back(folder.write(std::to_string(i), data));
    expected.push_back(by_openssl(data.data(), data.size()));
  }
  for (const int threads : {1, 2, 5}) {
    set_thread_count(threads);
    CHECK(sha256_files(files) == expected);
  }
  set_thread_count(0);
  CHECK(sha256_files({}).empty());

  SECTION("a file that is shorter or longer than it was is an error, and so are a link and a pipe") {
    ++files[3].bytes;
    CHECK_THROWS_AS(sha256_files(files), IoError);
    files[3].bytes -= 2;
    CHECK_THROWS_AS(sha256_files(files), IoError);
    fs::create_symlink(files[0].file, folder.path() / "link");
    CHECK_THROWS_AS(sha256_files({{folder.path() / "link", files[0].bytes}}), IoError);
    REQUIRE(mkfifo((folder.path() / "pipe").c_str(), 0600) == 0);
    CHECK_THROWS_AS(sha256_files({{folder.path() / "pipe", 0}}), IoError);
    CHECK_THROWS_AS(sha256_files({{folder.path() / "none", 0}}), IoError);
  }
}
