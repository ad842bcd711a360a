#pragma once
// The one table of lineage kinds: how an artifact relates to its inputs. Everything that treats kinds differently (statements,
// verification, tracing, licences, reports, bills of materials) reads a column of this table, so that a new kind is one new row.
// A kind exists only together with a stage that makes it, or made it in a statement that must stay readable.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace overproof {

/// What an artifact is.
enum class Role {
  model,
  corpus,      ///< documents and their tokens
  index,       ///< the texts of a corpus, sorted
  targets,     ///< a teacher's outputs on a corpus
  statistics,  ///< what a model's layers received
  samples,     ///< documents that a model wrote
  evaluation,  ///< measurements of models
  unknown,     ///< signed by another tool
};
std::string_view role_name(Role role);

/// How an artifact influences another: the strongest way first.
enum class Way { weights, outputs, documents, tokenizer, statistics };
std::string_view way_name(Way way);

/// How the content of one slot enters the artifact that is made.
enum class Entry {
  inherited,  ///< it becomes part of it: it goes wherever the artifact goes, by the same way
  outputs,    ///< a model, by what it computed
  documents,  ///< as text; as statistics where the artifact itself is used as statistics
  tokenizer,
  statistics,
  nothing,  ///< it was measured, or used to measure
};

/// Where an artifact's content comes from.
enum class Origin { inputs, outside, seed };

/// Which check shows that an artifact was made as recorded.
enum class ShownBy {
  nothing,    ///< no check: it comes from outside
  recompute,  ///< `audit recompute` makes it again
  replay,     ///< `audit replay` repeats segments of its training
  rows,       ///< `audit rows` asks the teacher again
};

/// Which windows of the corpus's training stream a stage reads (data/order.h).
enum class WindowDraw {
  none,
  targets_order,  ///< in the order of the soft targets; without any, all windows in the order of the option "order-seed"
  sample,         ///< from the start of a permutation with the tweak `window_tweak`
};

struct SlotRule {
  std::string_view slot;
  Entry entry = Entry::nothing;
};

struct LineageKind {
  std::string_view name;
  std::vector<std::string_view> stages;  ///< that make it, with those of earlier versions
  Role role = Role::unknown;
  Origin origin = Origin::inputs;
  bool needs_model = false;   ///< its chain must reach a model that comes from outside or from a seed
  bool needs_corpus = false;  ///< its chain must reach a corpus
  bool trains = false;        ///< weights were trained: it has step records
  ShownBy shown_by = ShownBy::recompute;
  WindowDraw draw = WindowDraw::none;
  uint64_t window_tweak = 0;
  std::vector<SlotRule> slots = {};
  std::optional<Entry> other_slots = {};  ///< how a slot without a rule enters; nothing: a statement may have no such slot
  std::vector<Role> other_roles = {Role::model};  ///< what may be bound to it
  /// Slots that every statement of the kind fills; "a|b": one of them, "*": one without a rule. Of stages of earlier versions, too.
  std::vector<std::string_view> required = {};
  /// Files of our own formats that it may hold: a kind that does not list one that another lists may not hold it, so that no
  /// statement can call an artifact by a kind for which its content is not checked.
  std::vector<std::string_view> files = {};
  std::string_view sentence = {};  ///< for reports; {a|b} is the artifact in slot a, else b, in quotation marks

  /// How the content of `slot` enters; nothing where the kind has no such slot.
  std::optional<Entry> find_entry(std::string_view slot) const;
  bool has_rule(std::string_view slot) const;  ///< else it is one of `other_slots`
  /// The same of a slot that was checked before, when its statement was made or read. Another is a bug in the caller.
  Entry entry(std::string_view slot) const;
  bool made_by(std::string_view stage) const;
  /// Whether `file` belongs to other kinds only. False of what comes from outside: it is whatever its maker put there.
  bool is_foreign_file(std::string_view file) const;
  bool is_model() const { return role == Role::model; }
};

/// All kinds, in the order of the pipeline.
std::span<const LineageKind> lineage_kinds();

/// nullptr when there is no such kind.
const LineageKind* find_lineage_kind(std::string_view name);
/// The row of a kind that was checked before, when its statement was made or read. An unknown name is a bug in the caller.
const LineageKind& lineage_kind(std::string_view name);

/// What is bound to a slot of this name, whatever the kind; nothing for other names: "tokenizer", and those that users give
/// to models that they evaluate.
std::optional<Role> role_in_slot(std::string_view slot);

/// The way by which the content of `slot` gets into something that an artifact of this kind gets into by `way`; nothing where it
/// was only measured.
std::optional<Way> way_through(const LineageKind& kind, std::string_view slot, Way way);

/// The report's sentence about one artifact. `made_from`: pairs of slot and artifact name.
std::string lineage_sentence(const LineageKind& kind, const std::vector<std::pair<std::string, std::string>>& made_from);

}  // namespace overproof
