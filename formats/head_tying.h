#pragma once
// Whether a written model has an output head of its own, or uses its embedding as the head (tie_word_embeddings in config.json).

#include <cstdint>
#include <string>

#include "core/config.h"
#include "core/json_fwd.h"
#include "formats/tensor_source.h"

namespace overproof {

enum class Tie { automatic, yes, no };

/// The option of the stages that make a model of another shape from a teacher.
template <class V>
void visit_tie(V&& v, Tie& tie) {
  v("tie", tie, enum_of<Tie>({{"auto", Tie::automatic}, {"yes", Tie::yes}, {"no", Tie::no}}),
    "whether the output head is the embedding. auto: as the teacher, but separate where a runtime needs that (vLLM's glm4_moe); "
    "yes: smaller, "
    "for transformers, llama.cpp and this program; no: separate");
}

/// Whether a checkpoint's head is its embedding: by the configuration, or because it has none or both tables are equal. Reads them in blocks of
/// rows.
bool is_tied(const Checkpoint& model);

/// What a stage writes. `tied`: of the teacher, or that its two tables are equal. Throws MismatchError for `yes` when they are not.
/// `needs_head`: a runtime of the written architecture loads no tied head.
bool resolve_tie(Tie asked, bool tied, bool needs_head);

/// Metrics "tied" and, where the head is a copy of the embedding, "tie_would_save" (bytes). Returns the line for the user, empty
/// when there is nothing to save.
std::string record_tie(Json& metrics, Tie asked, bool tied_teacher, bool tied, int64_t table_bytes);

}  // namespace overproof
