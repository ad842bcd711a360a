#pragma once
// The verdict of a verifier on a completion.

#include <string>
#include <string_view>

namespace overproof {

enum class TaskVerdict {
  correct,
  wrong,
  unknown,  ///< the verifier cannot decide: it counts as not correct, and is never counted as wrong
};

inline constexpr std::string_view kVerdictNames[] = {"correct", "wrong", "unknown"};
inline std::string_view verdict_name(TaskVerdict verdict) { return kVerdictNames[size_t(verdict)]; }

struct Judgement {
  TaskVerdict verdict = TaskVerdict::unknown;
  std::string reason;  ///< one line, without text of the completion
  std::string answer = {};  ///< what was compared, as far as it was found; at most 200 bytes
};

}  // namespace overproof
