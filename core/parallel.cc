#include "core/parallel.h"

#include <sched.h>
#include <tbb/blocked_range.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#define OVERPROOF_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define OVERPROOF_TSAN 1
#endif
#endif

namespace overproof {
namespace {
std::unique_ptr<tbb::global_control> g_limit;
int64_t g_threads = 0;
std::atomic<TeamRunner> g_runner = nullptr;

constexpr int64_t kWaitingThreads = 32;  // 8 are enough for a fast disk; a slow one gains from more, and idle threads cost little

int64_t cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return 1;
}

/// body(i) for each of [0, n), by `run`, which calls what it is given on one thread or several.
template <class Run>
void take_pieces(int64_t n, const std::function<void(int64_t)>& body, const Run& run) {
  std::atomic<int64_t> next = 0;
  std::mutex mutex;
  int64_t failed = n;  // pieces are taken in order, so all before it are completed
  std::exception_ptr error;
  run([&] {
    for (int64_t i; (i = next++) < n;) {
      try {
        body(i);
      } catch (...) {
        next = n;
        const std::lock_guard lock(mutex);
        if (i < failed) failed = i, error = std::current_exception();
      }
    }
  });
  if (error) std::rethrow_exception(error);
}

/// The same on so many threads of its own, this one among them.
void on_threads(int64_t count, int64_t n, const std::function<void(int64_t)>& body) {
  take_pieces(n, body, [&](const auto& work) {
    std::vector<std::jthread> threads;
    try {
      for (int64_t t = 1; t < std::min(n, count); ++t) threads.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads can be started: the existing ones do all the work
    }
    work();
  });
}

}  // namespace

void set_thread_count(int64_t threads) {
  g_threads = threads > 0 ? threads : cores();
  g_limit = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism, size_t(g_threads));
}

bool set_short_waiting() {
  constexpr const char* kSpins = "GOMP_SPINCOUNT";
  return !std::getenv("OMP_WAIT_POLICY") && !std::getenv(kSpins) && ::setenv(kSpins, "20000", 1) == 0;
}

void set_team_runner(TeamRunner runner) { g_runner = runner; }

int64_t thread_count() { return g_threads > 0 ? g_threads : cores(); }

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  grain = std::max<int64_t>(grain, 1);
  const int64_t chunks = (n + grain - 1) / grain;
  if (const TeamRunner runner = g_runner) {
    take_pieces(chunks, [&](int64_t c) { body(c * grain, std::min(n, (c + 1) * grain)); },
                [&](const std::function<void()>& work) { runner(std::min(chunks, thread_count()), work); });
    return;
  }
#ifdef OVERPROOF_TSAN
  // libtbb is not built with ThreadSanitizer, which therefore reports its synchronisation as races. std::thread does the same work.
  on_threads(thread_count(), chunks, [&](int64_t c) { body(c * grain, std::min(n, (c + 1) * grain)); });
#else
  // One TBB iteration is one of our chunks: TBB may group them, but never cuts or joins what the body sees.
  // Isolated: a thread that waits for the end of an inner loop must not begin another piece of the outer one, whose buffers and
  // locks it still holds.
  tbb::this_task_arena::isolate(
      [&] { tbb::parallel_for(int64_t{0}, chunks, [&](int64_t c) { body(c * grain, std::min(n, (c + 1) * grain)); }); });
#endif
}

void wait_in_parallel(int64_t n, const std::function<void(int64_t)>& body) { on_threads(kWaitingThreads, n, body); }

}  // namespace overproof
