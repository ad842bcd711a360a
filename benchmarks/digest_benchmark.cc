// SHA-256 of data in memory, of one message and of several together. benchmarks/run.py compares it with `openssl speed sha256`.

#include <benchmark/benchmark.h>

#include <vector>

#include "core/digest.h"
#include "core/sha256_ni.h"

namespace {

void sha256_in_memory(benchmark::State& state) {
  // As many bytes per call as with `openssl speed -bytes`.
  const std::vector<uint8_t> data(size_t(state.range(0)), 'a');
  overproof::Digest digest;
  for (auto _ : state) {
    digest = overproof::sha256(data);
    benchmark::DoNotOptimize(digest);
  }
  state.SetBytesProcessed(int64_t(state.iterations()) * state.range(0));
  // 1,048,576 times 'a', by sha256sum.
  if (digest.hex() != "9bc1b2a288b26af7257a36277ae3816a7d4f16e89c1e7e77d0a5c48bad62b360")
    state.SkipWithError("the digest is wrong");
}
BENCHMARK(sha256_in_memory)->Arg(1 << 20)->MinTime(1.0);

void sha256_together(benchmark::State& state) {
  const std::vector<uint8_t> data(size_t(1) << 20, 'a');
  const auto messages = size_t(state.range(0));
  bool right = true;
  for (auto _ : state) {
    std::vector<overproof::Sha256> hashes(messages);
    std::vector<overproof::HashJob> jobs;
    for (overproof::Sha256& hash : hashes) jobs.push_back({&hash, data.data(), data.size()});
    overproof::update_together(jobs);
    for (overproof::Sha256& hash : hashes)
      right = right && hash.finish().hex() == "9bc1b2a288b26af7257a36277ae3816a7d4f16e89c1e7e77d0a5c48bad62b360";
  }
  state.SetBytesProcessed(int64_t(state.iterations() * messages * data.size()));
  if (!right) state.SkipWithError("a digest is wrong");
}
BENCHMARK(sha256_together)->DenseRange(2, overproof::kSha256Lanes)->MinTime(1.0);

}  // namespace

BENCHMARK_MAIN();
