#pragma once
// What an auditor can do with a teacher's outputs.

#include <optional>
#include <string_view>

namespace overproof {

enum class Evidence {
  re_derivable,  ///< compute them again from a teacher with a digest
  recorded,      ///< read what was recorded; the teacher itself is out of reach
};

/// As in metadata and metrics.
constexpr std::string_view evidence_name(Evidence evidence) {
  return evidence == Evidence::recorded ? "recorded" : "re-derivable";
}

/// Nothing where there is no such name.
constexpr std::optional<Evidence> evidence_of(std::string_view name) {
  for (const Evidence e : {Evidence::re_derivable, Evidence::recorded})
    if (evidence_name(e) == name) return e;
  return std::nullopt;
}

}  // namespace overproof
