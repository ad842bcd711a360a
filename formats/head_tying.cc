#include "formats/head_tying.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"

namespace overproof {

bool resolve_tie(Tie asked, bool tied, bool needs_head) {
  if (asked == Tie::yes && !tied)
    throw MismatchError(
        "tie: the teacher's output head is not its embedding, so the student cannot use one table for both; use tie = auto or "
        "no");
  return asked == Tie::yes || (asked == Tie::automatic && tied && !needs_head);
}

std::string record_tie(Json& metrics, Tie asked, bool tied_teacher, bool tied, int64_t table_bytes) {
  metrics["tied"] = tied;
  if (tied || !tied_teacher) return {};
  metrics["tie_would_save"] = table_bytes;
  return fmt::format("the output head is a copy of the embedding{}; tie = yes would save {:.1f} MB",
                     asked == Tie::automatic ? ", because vLLM's glm4_moe has no tied head (transformers and llama.cpp do)" : "",
                     double(table_bytes) * 1e-6);
}

}  // namespace overproof
