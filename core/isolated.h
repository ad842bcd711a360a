#pragma once
// A function that runs in a process of its own, because its input may make it loop, take all memory or crash: the process is bounded,
// and its end is a value here. It is forked from this one at the first question and answers one question after another.

#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace overproof {

struct IsolationLimits {
  int64_t memory_bytes = int64_t{1} << 30;  ///< beyond what this process has mapped
  int64_t cpu_seconds = 10;                 ///< of processor time for one answer
  int64_t answer_bytes = int64_t{64} << 20;
};

/// Why there is no answer. Not an Error: the caller knows which file is at fault.
struct IsolatedFault {
  enum class Kind { too_slow, crashed, too_large } kind;
  std::string text() const;  ///< "took more than 10 s of processor time"
  IsolationLimits limits;
};

/// Safe for several threads; they wait for each other.
class IsolatedFunction {
 public:
  using Function = std::function<std::string(std::string_view question)>;
  /// `function` must not start threads and must catch what it throws: an exception that leaves it is a crash. It may keep state
  /// from one question to the next, which is lost after a fault.
  IsolatedFunction(Function function, IsolationLimits limits);
  ~IsolatedFunction();
  IsolatedFunction(const IsolatedFunction&) = delete;
  IsolatedFunction& operator=(const IsolatedFunction&) = delete;

  /// Throws IsolatedFault; the process is then started anew for the next question. IoError when none can be started.
  std::string ask(std::string_view question);

 private:
  void start();
  void stop() noexcept;
  [[noreturn]] void fail();
  [[noreturn]] void serve(int socket) const;

  Function function_;
  IsolationLimits limits_;
  std::mutex mutex_;
  int socket_ = -1, child_ = -1;
};

}  // namespace overproof
