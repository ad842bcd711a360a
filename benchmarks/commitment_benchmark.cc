// Cost of committing to a corpus, and latency of its proofs: bench_commitment [--documents N] [--folder DIR].
// Documents are SHA-256 digests of a counter; every answer is checked, and a wrong one ends the run with 1. Times of single
// answers are quantiles over random documents; "cold" ones are measured after the files were removed from the page cache, so they
// include the latency of the disk.

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>

#include "core/error.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "data/commitment.h"
#include "data/order.h"

using namespace overproof;

namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kWindowLength = 2048, kBatch = 544, kEpochs = 2;
constexpr const char* kFiles[] = {"commitment.json", "tiles.safetensors", "index.safetensors"};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Digest document(int64_t i) { return sha256(std::span<const uint8_t>(reinterpret_cast<const uint8_t*>(&i), sizeof i)); }
int64_t tokens_of(int64_t i) { return 64 + i * 7919 % 384; }

void require(bool holds, const char* what) {
  if (holds) return;
  fmt::print(stderr, "wrong: {}\n", what);
  std::exit(1);
}

/// Wall time and CPU time of calls; other programs on the machine affect only the former.
struct Times {
  std::vector<double> wall, cpu;  // microseconds
};
double cpu_now(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}
Times measure(int64_t calls, const std::function<void(int64_t)>& call) {
  Times times;
  for (int64_t i = 0; i < calls; ++i) {
    const auto start = Clock::now();
    const double cpu = cpu_now(CLOCK_THREAD_CPUTIME_ID);
    call(i);
    times.cpu.push_back((cpu_now(CLOCK_THREAD_CPUTIME_ID) - cpu) * 1e6);
    times.wall.push_back(seconds_since(start) * 1e6);
  }
  std::sort(times.wall.begin(), times.wall.end());
  std::sort(times.cpu.begin(), times.cpu.end());
  return times;
}
void print(const std::string& name, const Times& t, double target_ms) {
  const auto at = [](const std::vector<double>& times, size_t percent) { return times[times.size() * percent / 100]; };
  fmt::print("{:<46} {:>9.1f} {:>9.1f}   {:>9.1f} {:>9.1f}   {:>6.1f} % of {:g} ms\n", name, at(t.wall, 50), at(t.wall, 99),
             at(t.cpu, 50), at(t.cpu, 99), at(t.wall, 99) / target_ms / 10, target_ms);
}

void drop_from_cache(const fs::path& folder) {
  for (const char* name : kFiles) {
    const int fd = ::open((folder / name).c_str(), O_RDONLY);
    if (fd < 0) continue;
    ::fsync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
}

/// Bytes per second of one core.
double raw_sha256_rate() {
  const std::vector<uint8_t> data(size_t{64} << 20, 'a');
  const double start = cpu_now(CLOCK_THREAD_CPUTIME_ID);
  const Digest digest = sha256(data);
  const double seconds = cpu_now(CLOCK_THREAD_CPUTIME_ID) - start;
  require(digest != Digest{}, "SHA-256");
  return double(data.size()) / seconds;
}

void build_files(int64_t n, const fs::path& folder) {
  const double raw = raw_sha256_rate();
  fmt::print("{} documents; SHA-256 in memory {:.2f} GB/s a core\n\n", n, raw / 1e9);
  double build = 0, cpu = 0;
  {
    OutputFolder out(folder);
    CommitmentWriter writer{std::nullopt};
    std::vector<Digest> piece(1 << 16);
    for (int64_t first = 0; first < n; first += int64_t(piece.size())) {
      const int64_t count = std::min<int64_t>(int64_t(piece.size()), n - first);
      for (int64_t i = 0; i < count; ++i) piece[size_t(i)] = document(first + i);  // instead of hashing texts
      const auto start = Clock::now();
      const double busy = cpu_now(CLOCK_PROCESS_CPUTIME_ID);
      for (int64_t i = 0; i < count; ++i)
        writer.add(piece[size_t(i)], (first + i) % 20 == 3 ? Split::held_out : Split::train, tokens_of(first + i),
                   (first + i) * 250);
      build += seconds_since(start);
      cpu += cpu_now(CLOCK_PROCESS_CPUTIME_ID) - busy;
    }
    const auto start = Clock::now();
    const double busy = cpu_now(CLOCK_PROCESS_CPUTIME_ID);
    writer.finish(out, n * 250);
    build += seconds_since(start);
    cpu += cpu_now(CLOCK_PROCESS_CPUTIME_ID) - busy;
  }
  // A tree over n leaves hashes one block per leaf and two per node; there are two trees.
  const double blocks = 2.0 * 3 * double(n);
  fmt::print("build: {:.2f} s, {:.2f} s of one core, {:.2f} million documents a core-second\n", build, cpu,
             double(n) / cpu / 1e6);
  fmt::print("  {:.0f} million blocks of SHA-256 alone take {:.2f} s of a core at that rate: {:.2f} x\n", blocks / 1e6,
             blocks * 64 / raw, cpu / (blocks * 64 / raw));
  double bytes = 0;
  for (const char* name : kFiles) {
    const double size = double(fs::file_size(folder / name));
    bytes += size;
    fmt::print("  {:<20} {:>14.0f} bytes {:>8.2f} a document\n", name, size, size / double(n));
  }
  fmt::print("  {:<20} {:>14.0f} bytes {:>8.2f} a document\n\n", "together", bytes, bytes / double(n));
}

/// Cold: the page cache is emptied before each kind of query, and the files are opened again, because mapped pages stay in it.
void ask(int64_t n, const fs::path& folder, int64_t calls, bool cold) {
  const std::string note = cold ? ", cold" : "";
  const NoteSigner signer = NoteSigner::generate("example.com/bench");
  std::optional<CorpusCommitment> opened(std::in_place, folder, Reads::scattered);
  const auto afresh = [&] {
    if (!cold) return;
    opened.reset();
    drop_from_cache(folder);
    opened.emplace(folder, Reads::scattered);
  };
  const CorpusCommitment& commitment = *opened;
  const DocumentIndex& index = commitment.index();
  const auto sign = [&](CorpusTree tree) {
    return signer.sign_note(corpus_tree_head(commitment.roots(), tree, document(-1), signer.verifier().name()).text());
  };
  const std::string notes[2] = {sign(CorpusTree::documents), sign(CorpusTree::sorted)};
  Rng random(1, cold ? "bench/cold" : "bench/warm");
  std::vector<int64_t> asked(static_cast<size_t>(calls));
  for (int64_t& i : asked) i = int64_t(random.below(uint64_t(n)));
  const int64_t windows = (index.stream_tokens(Split::train) - 1) / kWindowLength;
  const Digest key = order_key(document(-1), 0);
  const TrainingOrder order(key, windows, windows);
  CorpusProof proof;
  std::string text;
  const auto prove = [&](const Digest& d, bool expected) {
    proof = commitment.prove(d, CorpusTree::documents, nullptr);
    proof.checkpoint = notes[size_t(proof.tree)];
    require(proof.present == expected, "presence");
    text = proof.text();
  };
  const auto check = [&] {
    require(check_corpus_proof(CorpusProof::parse(text, "proof"), signer.verifier(), "proof").holds(), "a proof");
  };

  afresh();
  print("presence, looked up" + note,
        measure(calls, [&](int64_t i) { require(index.find(document(asked[size_t(i)])) == asked[size_t(i)], "find"); }), 1);
  afresh();
  print("presence, proof built" + note, measure(calls, [&](int64_t i) { prove(document(asked[size_t(i)]), true); }), 1);
  afresh();
  print("presence, proof built and verified" + note,
        measure(calls, [&](int64_t i) { prove(document(asked[size_t(i)]), true), check(); }), 1);
  afresh();
  print("absence, proof built" + note, measure(calls, [&](int64_t i) { prove(document(n + asked[size_t(i)]), false); }), 1);
  afresh();
  print("absence, proof built and verified" + note,
        measure(calls, [&](int64_t i) { prove(document(n + asked[size_t(i)]), false), check(); }), 1);
  int64_t steps = 0;
  afresh();
  print("document -> steps" + note,
        measure(calls,
                [&](int64_t i) {
                  const auto ordinal = index.find(document(asked[size_t(i)]));
                  require(ordinal.has_value(), "find");
                  const TokenRange range = index.tokens(*ordinal);
                  if (range.split == Split::held_out) return;
                  for (int64_t w = std::max<int64_t>(0, (range.first - 1) / kWindowLength);
                       w <= (range.first + range.count - 1) / kWindowLength && w < windows; ++w)
                    for (int64_t epoch = 0; epoch < kEpochs; ++epoch)
                      steps += order.position_of(order.block_of_window(w), epoch) / kBatch >= 0;
                }),
        5);
  require(steps > 0, "steps");
  int64_t fewest = INT64_MAX;
  afresh();
  print("step -> at least 4096 documents' digests" + note,
        measure(std::max<int64_t>(100, calls / 20),
                [&](int64_t i) {
                  std::vector<std::vector<Digest>> found(kBatch);
                  const int64_t step = asked[size_t(i)] % (windows / kBatch);
                  // As in TrainingOrder, with each permutation set up once per step.
                  const Permutation of_windows(key, 0, windows), of_blocks(key, uint64_t(step * kBatch / windows) + 1, windows);
                  wait_in_parallel(kBatch, [&](int64_t place) {
                    const int64_t p = step * kBatch + place;
                    const int64_t window = of_windows.forward(of_blocks.forward(p % windows));
                    if (p == step * kBatch) require(window == order.window_of_block(order.block_at(p)), "order");
                    for (const int64_t ordinal : index.in_window(Split::train, window, kWindowLength))
                      found[size_t(place)].push_back(index.key(index.rank(ordinal)));
                  });
                  int64_t documents = 0;
                  for (const auto& of_window : found) documents += int64_t(of_window.size());
                  fewest = std::min(fewest, documents);
                }),
        5);
  fmt::print("  (a step of {} windows of {} tokens had at least {} documents)\n", kBatch, kWindowLength, fewest);
  if (windows >= kBatch) require(fewest >= 4096, "documents of a step");
}

void run(int64_t n, const fs::path& folder) {
  build_files(n, folder);
  fmt::print("{:<46} {:>19}   {:>19}\n{:<46} {:>9} {:>9}   {:>9} {:>9}   p99 of the target\n", "microseconds", "clock",
             "processor", "", "p50", "p99", "p50", "p99");
  ask(n, folder, 20000, false);
  ask(n, folder, 300, true);
}

}  // namespace

int main(int argc, char** argv) {
  int64_t documents = 10'000'000;
  fs::path folder;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--documents") == 0) documents = std::max<int64_t>(1'000'000, std::atoll(argv[i + 1]));
    if (std::strcmp(argv[i], "--folder") == 0) folder = argv[i + 1];
  }
  const bool own = folder.empty();
  if (own) folder = fs::temp_directory_path() / fmt::format("overproof-bench-commitment-{}", ::getpid());
  fs::create_directories(folder);
  try {
    run(documents, folder);
  } catch (const Error& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
  std::error_code ignored;
  if (own) fs::remove_all(folder, ignored);
  return 0;
}
