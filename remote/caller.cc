#include "remote/caller.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/utf8.h"

namespace overproof {
namespace {

constexpr double kFirstWait = 0.5, kLongestWait = 60, kLongestAsked = 900;  // seconds
constexpr int64_t kFaultyAnswers = 3;                                       // of one request, before the call ends
constexpr size_t kMostAnswerBytes = size_t{256} << 20;

/// Statuses that pass; none of them is paid for.
bool passes(long status) {
  return status == 408 || status == 409 || status == 425 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504 ||
         status == 529;
}

std::string remedy(long status) {
  switch (status) {
    case 401:
    case 403: return "; check the key in the variable of --key-variable";
    case 404: return "; check --url and --model";
    case 402: return "; the account has no credit left";
    default: return "";
  }
}

}  // namespace

Caller::Caller(const CallOptions& options, std::string key, int64_t spent)
    : options_(options),
      key_(std::move(key)),
      spent_(spent),
      jitter_(uint64_t(std::chrono::system_clock::now().time_since_epoch().count()), "remote/jitter") {}

void Caller::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

int64_t Caller::sent() const {
  const std::lock_guard lock(mutex_);
  return sent_;
}

int64_t Caller::waited() const {
  const std::lock_guard lock(mutex_);
  return again_;
}

void Caller::wait_until(Clock::time_point when) {
  std::unique_lock lock(mutex_);
  while (!stopped_ && Clock::now() < when) {
    changed_.wait_until(lock, std::min(when, Clock::now() + std::chrono::milliseconds(100)));
    throw_if_interrupted();
  }
  if (stopped_) throw Interrupted();
}

/// Waits for the pace, and reserves the tokens.
void Caller::begin(int64_t tokens) {
  Clock::time_point when;
  {
    const std::lock_guard lock(mutex_);
    if (options_.token_budget > 0 && spent_ + reserved_ + tokens > options_.token_budget)
      throw QualityError(fmt::format("the token budget is reached: {} tokens are paid or in flight, the next request costs {}, option 'token-budget' is {}. "
                                     "Answers so far are kept: raise it and run the command again",
                                     spent_ + reserved_, tokens, options_.token_budget));
    reserved_ += tokens;
    ++sent_;
    when = std::max(Clock::now(), not_before_);
    if (options_.requests_per_minute > 0) {
      when = std::max(when, next_);
      next_ = when + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(60 / options_.requests_per_minute));
    }
  }
  try {
    wait_until(when);
  } catch (...) {
    settle(tokens, 0);
    throw;
  }
}

void Caller::settle(int64_t reserved, int64_t spent) {
  const std::lock_guard lock(mutex_);
  reserved_ -= reserved;
  spent_ += spent;
}

/// Full jitter (Brooker 2015, "Exponential backoff and jitter"): clients that failed together do not come back together. A server that
/// names a time is asked again then, by all threads.
void Caller::back_off(const HttpAnswer& answer, int64_t attempt) {
  Clock::time_point when;
  {
    const std::lock_guard lock(mutex_);
    ++again_;
    const double most = std::min(kLongestWait, kFirstWait * std::exp2(double(std::min<int64_t>(attempt, 20))));
    double seconds = most * jitter_.uniform();
    if (answer.retry_after >= 0) {
      if (double(answer.retry_after) > kLongestAsked)
        throw IoError("the teacher's server", fmt::format("asks to wait {} s; run the command again then, answers so far are kept", answer.retry_after), 0);
      seconds += double(answer.retry_after);
      not_before_ = std::max(not_before_, Clock::now() + std::chrono::seconds(answer.retry_after));
    }
    when = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }
  wait_until(when);
}

void Caller::call(HttpSession& session, const RemoteRequest& request, const Steps& steps) {
  const std::string where = url_without_secrets(request.http.url);
  HttpRequest http = request.http;
  http.paid = true;
  http.limits = {10'000, long(options_.timeout * 1000), kMostAnswerBytes};
  http.limits.connect_ms = std::min(http.limits.connect_ms, http.limits.total_ms);
  int64_t faulty = 0;
  for (int64_t attempt = 0;; ++attempt) {
    throw_if_interrupted();
    begin(request.tokens);
    HttpAnswer answer;
    try {
      if (steps.sent) steps.sent();
      answer = session.send(http);
    } catch (...) {
      settle(request.tokens, request.tokens);
      throw;
    }
    const bool last = attempt + 1 >= options_.attempts;
    std::string problem;
    if (answer.status >= 200 && answer.status < 300 && !answer.cut) {
      try {
        const int64_t cost = steps.answered(answer.body);
        settle(request.tokens, cost >= 0 ? cost : request.tokens);
        return;
      } catch (const FormatError& e) {
        settle(request.tokens, request.tokens);  // a faulty answer is paid for, too
        if (++faulty >= kFaultyAnswers || last) throw FormatError(where, -1, without_key(e.what(), key_));
        back_off(answer, attempt);
        continue;
      } catch (...) {
        settle(request.tokens, request.tokens);
        throw;
      }
    }
    if (answer.cut) {
      settle(request.tokens, request.tokens);
      throw FormatError(where, -1, fmt::format("the answer is longer than {} MiB", kMostAnswerBytes >> 20));
    }
    if (answer.status == 0) {
      settle(request.tokens, answer.sent ? request.tokens : 0);
      if (!answer.sent && steps.refused) steps.refused();
      problem = answer.problem;
    } else {
      settle(request.tokens, 0);
      if (steps.refused) steps.refused();
      problem = fmt::format("HTTP status {}: {}", answer.status, server_error_text(answer.body));
      if (!passes(answer.status)) throw IoError(where, without_key(problem, key_) + remedy(answer.status), 0);
    }
    if (last)
      throw IoError(where, fmt::format("gave no answer in {} attempts, the last: {}; answers so far are kept, run the command again", options_.attempts,
                                       without_key(problem, key_)),
                    0);
    back_off(answer, attempt);
  }
}

void ask_all(Caller& caller, int64_t count, int64_t threads, const std::function<void(HttpSession&, int64_t)>& ask) {
  std::atomic<int64_t> next = 0;
  std::atomic<bool> failed = false;
  std::mutex mutex;
  std::exception_ptr error;
  const auto work = [&]() noexcept {
    try {
      HttpSession session;
      for (int64_t i = 0; !failed && (i = next.fetch_add(1)) < count;) {
        throw_if_interrupted();
        ask(session, i);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failed.exchange(true)) error = std::current_exception();
      caller.stop();
    }
  };
  std::vector<std::thread> all;
  for (int64_t i = 0; i < std::min(threads, count); ++i) all.emplace_back(work);
  for (std::thread& thread : all) thread.join();
  if (error) std::rethrow_exception(error);
  throw_if_interrupted();
}

int64_t paid_tokens(int64_t prompt_tokens, int64_t completion_tokens, int64_t estimated) {
  constexpr int64_t kMost = 1 << 30;
  if (prompt_tokens < 0 || completion_tokens < 0) return estimated;
  return std::min(prompt_tokens, kMost) + std::min(completion_tokens, kMost);
}

void ask_for_text(Caller& caller, HttpSession& session, const RemoteTeacher& teacher, const std::string& key, const RemoteRequest& request,
                  AnswerLedger& ledger) {
  caller.call(session, request,
              {.sent = [&] { ledger.note_sent(request.digest, request.tokens); },
               .refused = [&] { ledger.note_refused(request.digest); },
               .answered =
                   [&](const std::string& body) {
                     const ChatAnswer answer = parse_chat_answer(body, "the answer");
                     require_answers_as(teacher, answer.model);
                     const int64_t cost = paid_tokens(answer.prompt_tokens, answer.completion_tokens, request.tokens);
                     ledger.add_text(request.digest, {cost, answer.whole, to_valid_utf8(without_key(answer.text, key))});
                     return cost;
                   }});
}

}  // namespace overproof
