#include "formats/head_tying.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/json_object.h"

namespace overproof {
namespace {

constexpr std::string_view kTiedEmbedding = "model.embed_tokens.weight", kTiedHead = "lm_head.weight";
constexpr int64_t kTiedBlock = int64_t{1} << 20;  // elements of each table in memory

}  // namespace

bool is_tied(const Checkpoint& model) {
  const TensorSource& tensors = *model.tensors;
  const TensorInfo *embedding = tensors.find(kTiedEmbedding), *head = tensors.find(kTiedHead);
  if (!head) return true;
  if (!embedding || head->shape != embedding->shape) return false;
  const JsonObject fields(*model.config, model.path, "", JsonNull::absent);
  if (fields.flag("tie_word_embeddings", false)) return true;
  const int64_t block = std::max<int64_t>(1, kTiedBlock / std::max<int64_t>(1, head->row_elements()));
  for (int64_t row = 0; row < head->shape[0]; row += block) {
    const int64_t n = std::min(block, head->shape[0] - row);
    std::vector<float> a(size_t(n * head->row_elements())), b(a.size());
    tensors.read_f32(kTiedHead, row, n, a);
    tensors.read_f32(kTiedEmbedding, row, n, b);
    if (a != b) return false;
  }
  return true;
}

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
