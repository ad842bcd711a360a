#pragma once
// Sends requests to a teacher behind a URL, from several threads: at most so many a minute, again after failures that pass, never beyond
// a budget of tokens.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "core/config.h"
#include "core/http.h"
#include "core/rng.h"
#include "records/answer_ledger.h"
#include "remote/remote_teacher.h"

namespace overproof {

struct CallOptions {
  int64_t concurrency = 4, attempts = 6, token_budget = 0;
  double requests_per_minute = 0, timeout = 300;
  std::string key_variable = "OVERPROOF_TEACHER_KEY";
  template <class V>
  void visit(V&& v) {
    v("key-variable", key_variable, any_value(), "environment variable that holds the API key; the key itself is never written anywhere");
    v("concurrency", concurrency, in_range(1, 256), "requests in flight at a time");
    v("max-requests-per-minute", requests_per_minute, at_least(0), "pace of requests; 0: as fast as the server answers");
    v("token-budget", token_budget, at_least(0), "tokens that may be paid for this teacher in this run folder, of earlier runs too; 0: any number");
    v("attempts", attempts, in_range(1, 100), "times that a request is sent, before the stage gives up");
    v("timeout", timeout, in_range(0.01, 86400), "seconds that one answer may take");
  }
};

class Caller {
 public:
  /// `spent`: tokens paid before, and `key` the server's.
  Caller(const CallOptions& options, std::string key, int64_t spent);

  /// What happens to a request, in this order; each may be empty.
  struct Steps {
    std::function<void()> sent;     ///< before it is sent
    std::function<void()> refused;  ///< the server took no work from it: it is not paid
    /// Reads the answer; returns the tokens that it cost, -1: not known. Throws FormatError for a faulty answer, which is asked for again
    /// twice at most; anything else ends the call.
    std::function<int64_t(const std::string& body)> answered;
  };
  /// Returns when an answer was read. Throws IoError when the server gives none in the number of attempts, or refuses what no repetition
  /// changes; QualityError when the budget does not allow the request; FormatError for faulty answers; Interrupted.
  void call(HttpSession& session, const RemoteRequest& request, const Steps& steps);

  /// Makes every call() end soon: another one failed.
  void stop();
  int64_t sent() const;    ///< requests, repetitions included
  int64_t waited() const;  ///< times that a request was sent again

 private:
  using Clock = std::chrono::steady_clock;
  void wait_until(Clock::time_point when);
  void begin(int64_t tokens);
  void settle(int64_t reserved, int64_t spent);
  void back_off(const HttpAnswer& answer, int64_t attempt);

  CallOptions options_;
  std::string key_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Clock::time_point next_{}, not_before_{};  // of the pace, and of a server that asked to wait
  int64_t spent_, reserved_ = 0, sent_ = 0, again_ = 0;
  bool stopped_ = false;
  Rng jitter_;
};

/// Calls ask(session, i) for i below `count`, from `threads` threads with a connection each, in about this order. Throws what the first of
/// them that failed threw, after the others ended, or Interrupted.
void ask_all(Caller& caller, int64_t count, int64_t threads, const std::function<void(HttpSession&, int64_t)>& ask);

/// What an answer cost: as the server counts, of each at most 2^30 tokens; where it does not count (-1), `estimated`.
int64_t paid_tokens(int64_t prompt_tokens, int64_t completion_tokens, int64_t estimated);

/// Sends a chat_request() that the ledger has no answer to, and adds the text to the ledger, without what it has of `key`. Throws MismatchError
/// when the server answers as another model, otherwise as Caller::call.
void ask_for_text(Caller& caller, HttpSession& session, const RemoteTeacher& teacher, const std::string& key, const RemoteRequest& request,
                  AnswerLedger& ledger);

}  // namespace overproof
