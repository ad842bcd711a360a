#include "provenance/lineage_kinds.h"

#include <algorithm>

#include "core/error.h"

namespace overproof {
namespace {

// Tweaks of the permutations by which stages choose windows (model/sample_windows.cc, distill/calibration.cc, distill/pretraining.cc): ASCII text.
constexpr uint64_t kObserveTweak = 0x6f62736572766564;    // "observed"
constexpr uint64_t kCalibrateTweak = 0x63616c6962726174;  // "calibrat"
constexpr uint64_t kPretrainTweak = 0x707265747261696e;   // "pretrain"

const std::vector<LineageKind>& all_kinds() {
  static const std::vector<LineageKind> kinds = {
      {.name = "imported",
       .stages = {"import"},
       .role = Role::model,
       .origin = Origin::outside,
       .shown_by = ShownBy::nothing,
       .sentence = "A model from outside."},
      {.name = "connected",
       .stages = {"connect"},
       .role = Role::model,
       .origin = Origin::outside,
       .shown_by = ShownBy::nothing,
       .files = {"server.json"},
       .sentence = "A model behind a URL; its weights were not seen here."},
      {.name = "seeded",
       .stages = {"tiny-teacher"},
       .role = Role::model,
       .origin = Origin::seed,
       .sentence = "Weights drawn from a seed, untrained."},
      {.name = "corpus-of",
       .stages = {"corpus"},
       .role = Role::corpus,
       .slots = {{"tokenizer", Entry::tokenizer}, {"samples", Entry::inherited}},
       .required = {"tokenizer"},
       .files = {"commitment.json", "documents.jsonl", "index.safetensors", "licenses.json", "tiles.safetensors",
                 "tokens.safetensors"},
       .sentence = "Documents with their licences and sources, cut into tokens."},
      {.name = "pretrained-on",
       .stages = {"pretrain"},
       .role = Role::model,
       .needs_corpus = true,
       .trains = true,
       .shown_by = ShownBy::replay,
       .draw = WindowDraw::sample,
       .window_tweak = kPretrainTweak,
       .slots = {{"corpus", Entry::documents}, {"tokenizer", Entry::tokenizer}},
       .required = {"corpus", "tokenizer"},
       .files = {"steps.jsonl", "steps.safetensors"},
       .sentence = "A model trained from first weights of a seed on the texts of {corpus}."},
      {.name = "indexed",
       .stages = {"index"},
       .role = Role::index,
       .needs_corpus = true,
       .slots = {{"corpus", Entry::documents}},
       .required = {"corpus"},
       .files = {"documents.safetensors"},
       .sentence = "The texts of {corpus}, sorted to find passages in them."},
      {.name = "taught",
       .stages = {"teach", "capture", "import-targets"},
       .role = Role::targets,
       .needs_model = true,
       .needs_corpus = true,
       .shown_by = ShownBy::rows,
       .slots = {{"teacher", Entry::outputs}, {"corpus", Entry::documents}},
       .required = {"teacher", "corpus"},
       .files = {"targets.safetensors"},
       .sentence = "The outputs of {teacher} on the texts of {corpus}."},
      {.name = "taught-part",
       .stages = {"teach-shard"},
       .role = Role::targets,
       .needs_model = true,
       .needs_corpus = true,
       .slots = {{"teacher", Entry::outputs}, {"corpus", Entry::documents}},
       .required = {"teacher", "corpus"},
       .files = {"part.safetensors"},
       .sentence = "A part of the outputs of {teacher} on the texts of {corpus}."},
      // What its parts enter by are the teacher and the corpus that it names as well.
      {.name = "merged-targets",
       .stages = {"merge-targets"},
       .role = Role::targets,
       .needs_model = true,
       .needs_corpus = true,
       .slots = {{"teacher", Entry::outputs}, {"corpus", Entry::documents}},
       .other_slots = Entry::inherited,
       .other_roles = {Role::targets},
       .required = {"teacher", "corpus"},
       .files = {"targets.safetensors"},
       .sentence = "The outputs of {teacher} on the texts of {corpus}, put together from parts."},
      {.name = "sampled-from",
       .stages = {"sample", "import-samples", "capture-samples"},
       .role = Role::samples,
       .needs_model = true,
       .slots = {{"teacher", Entry::outputs}, {"corpus", Entry::documents}},
       .required = {"teacher"},
       .files = {"documents.jsonl", "sampling.json", "tasks.jsonl", "tokens.jsonl"},
       .sentence = "Documents that {teacher} wrote."},
      {.name = "verified-from",
       .stages = {"verify-samples"},
       .role = Role::samples,
       .needs_model = true,
       .slots = {{"samples", Entry::inherited}},
       .required = {"samples"},
       .files = {"documents.jsonl", "sampling.json", "tasks.jsonl", "tokens.jsonl", "verdicts.jsonl"},
       .sentence = "Those of {samples} that verifiers found correct."},
      {.name = "observed",
       .stages = {"observe", "activations"},
       .role = Role::statistics,
       .needs_model = true,
       .needs_corpus = true,
       .draw = WindowDraw::sample,
       .window_tweak = kObserveTweak,
       .slots = {{"teacher", Entry::statistics}, {"model", Entry::statistics}, {"corpus", Entry::statistics}},
       .required = {"teacher|model", "corpus"},
       .files = {"statistics.safetensors", "activations.safetensors", "experts.safetensors"},
       .sentence = "What the layers of {teacher|model} receive on {corpus}."},
      {.name = "carved-from",
       .stages = {"carve", "student"},
       .role = Role::model,
       .needs_model = true,
       .slots = {{"teacher", Entry::inherited}, {"statistics", Entry::statistics}},
       .required = {"teacher", "statistics"},
       .files = {"carving.json", "certificate.json"},
       .sentence = "The feed-forward layers of {teacher} regrouped into experts."},
      {.name = "upcycled-from",
       .stages = {"upcycle"},
       .role = Role::model,
       .needs_model = true,
       .slots = {{"teacher", Entry::inherited}},
       .required = {"teacher"},
       .files = {"certificate.json"},
       .sentence = "Copies of the feed-forward layers of {teacher}, whole or in parts, as experts."},
      {.name = "shrunk-from",
       .stages = {"shrink"},
       .role = Role::model,
       .needs_model = true,
       .needs_corpus = true,
       .draw = WindowDraw::sample,
       .window_tweak = kObserveTweak,
       .slots = {{"teacher", Entry::inherited}, {"corpus", Entry::statistics}},
       .required = {"teacher", "corpus"},
       .files = {"shrinking.json"},
       .sentence = "The parts of {teacher} that matter most on {corpus}: layers, neurons, heads, dimensions."},
      {.name = "recovered-from",
       .stages = {"recover"},
       .role = Role::model,
       .needs_model = true,
       .needs_corpus = true,
       .draw = WindowDraw::sample,
       .window_tweak = kObserveTweak,
       .slots = {{"student", Entry::inherited}, {"teacher", Entry::outputs}, {"corpus", Entry::documents}},
       .required = {"student", "teacher", "corpus"},
       .sentence = "{student} with the output weights of its feed-forward layers solved by least squares towards {teacher}."},
      {.name = "distilled-from",
       .stages = {"distill"},
       .role = Role::model,
       .needs_model = true,
       .needs_corpus = true,
       .trains = true,
       .shown_by = ShownBy::replay,
       .draw = WindowDraw::targets_order,
       .slots = {{"student", Entry::inherited},
                 {"targets", Entry::outputs},
                 {"teacher", Entry::outputs},
                 {"corpus", Entry::documents}},
       .other_slots = Entry::outputs,
       .other_roles = {Role::model, Role::targets},
       .required = {"student", "targets|teacher|*", "corpus"},
       .files = {"steps.jsonl", "steps.safetensors", "routing/router_counts.safetensors"},
       .sentence = "{student} trained on the outputs in {targets|teacher}."},
      // Statements of format 1 also call the dropping of experts "pruned-from", with slots "student" and "counts".
      {.name = "pruned-from",
       .stages = {"prune-neurons", "prune"},
       .role = Role::model,
       .needs_model = true,
       .slots = {{"teacher", Entry::inherited},
                 {"student", Entry::inherited},
                 {"statistics", Entry::statistics},
                 {"counts", Entry::statistics}},
       .required = {"teacher|student", "statistics|counts|student"},
       .files = {"routing/router_counts.safetensors"},
       .sentence = "{teacher|student} with parts removed."},
      {.name = "experts-dropped-from",
       .stages = {"prune-source"},
       .role = Role::model,
       .needs_model = true,
       .slots = {{"student", Entry::inherited}, {"counts", Entry::statistics}},
       .required = {"student"},
       .files = {"routing/router_counts.safetensors"},
       .sentence = "{student} without the experts that a source shaped most."},
      {.name = "experts-pruned-from",
       .stages = {"prune-experts"},
       .role = Role::model,
       .needs_model = true,
       .slots = {{"student", Entry::inherited}, {"statistics", Entry::statistics}},
       .required = {"student", "statistics"},
       .files = {"routing/router_counts.safetensors"},
       .sentence = "{student} with experts removed or merged, by what they did in {statistics}."},
      {.name = "weights-pruned-from",
       .stages = {"prune-weights"},
       .role = Role::model,
       .needs_model = true,
       .slots = {{"model", Entry::inherited}, {"statistics", Entry::statistics}},
       .required = {"model"},
       .sentence = "{model} with weights set to zero."},
      {.name = "calibrated-from",
       .stages = {"calibrate"},
       .role = Role::model,
       .needs_model = true,
       .needs_corpus = true,
       .trains = true,
       .shown_by = ShownBy::replay,
       .draw = WindowDraw::sample,
       .window_tweak = kCalibrateTweak,
       .slots = {{"student", Entry::inherited},
                 {"teacher", Entry::outputs},
                 {"targets", Entry::outputs},
                 {"original", Entry::nothing},
                 {"corpus", Entry::documents}},
       .required = {"student", "teacher", "corpus"},
       .files = {"curve.json", "curve.svg", "steps.jsonl", "steps.safetensors", "routing/router_counts.safetensors"},
       .sentence = "{student} with its router calibrated."},
      // Quality is measured on a corpus or a text; neither changes a weight.
      {.name = "quantized-from",
       .stages = {"quantize"},
       .role = Role::model,
       .needs_model = true,
       .slots = {{"model", Entry::inherited},
                 {"activations", Entry::statistics},
                 {"corpus", Entry::nothing},
                 {"text", Entry::nothing}},
       .required = {"model"},
       .sentence = "{model} in fewer bits."},
      {.name = "exported-from",
       .stages = {"export"},
       .role = Role::model,
       .needs_model = true,
       .slots = {{"model", Entry::inherited}},
       .required = {"model"},
       .sentence = "{model} in another file format."},
      {.name = "evaluated",
       .stages = {"evaluate"},
       .role = Role::evaluation,
       .needs_model = true,
       .needs_corpus = true,
       .other_slots = Entry::nothing,
       .required = {"teacher", "corpus"},
       .files = {"evaluation.json", "scores.jsonl"},
       .sentence = "Measurements of models on held-out documents."},
      {.name = "arena-of",
       .stages = {"arena"},
       .role = Role::evaluation,
       .needs_model = true,
       .other_slots = Entry::nothing,
       .files = {"arena.json", "battles.jsonl", "answers.jsonl"},
       .sentence = "Ratings of models by battles of their answers."},
  };
  return kinds;
}

std::string artifact_in(std::string_view slots, const std::vector<std::pair<std::string, std::string>>& made_from) {
  while (!slots.empty()) {
    const size_t bar = slots.find('|');
    const std::string_view slot = slots.substr(0, bar);
    for (const auto& [name, artifact] : made_from)
      if (name == slot) return "‘" + artifact + "’";
    slots = bar == std::string_view::npos ? std::string_view() : slots.substr(bar + 1);
  }
  return made_from.empty() ? "an unnamed artifact" : "‘" + made_from.front().second + "’";
}

}  // namespace

std::string_view role_name(Role role) {
  static constexpr std::string_view kNames[] = {"model",      "corpus",  "index",      "targets",
                                                "statistics", "samples", "evaluation", "unknown"};
  return kNames[size_t(role)];
}

std::string_view way_name(Way way) {
  static constexpr std::string_view kNames[] = {"weights", "outputs", "documents", "tokenizer", "statistics"};
  return kNames[size_t(way)];
}

bool LineageKind::has_rule(std::string_view slot) const { return std::ranges::find(slots, slot, &SlotRule::slot) != slots.end(); }

std::optional<Entry> LineageKind::find_entry(std::string_view slot) const {
  const auto rule = std::ranges::find(slots, slot, &SlotRule::slot);
  return rule == slots.end() ? other_slots : rule->entry;
}

Entry LineageKind::entry(std::string_view slot) const {
  const std::optional<Entry> found = find_entry(slot);
  OVERPROOF_CHECK(found.has_value());
  return *found;
}

bool LineageKind::made_by(std::string_view stage) const { return std::ranges::find(stages, stage) != stages.end(); }

bool LineageKind::is_foreign_file(std::string_view file) const {
  if (origin == Origin::outside) return false;
  const auto lists = [&](const LineageKind& kind) { return std::ranges::find(kind.files, file) != kind.files.end(); };
  return !lists(*this) && std::ranges::any_of(all_kinds(), lists);
}

std::span<const LineageKind> lineage_kinds() { return all_kinds(); }

const LineageKind* find_lineage_kind(std::string_view name) {
  const auto found = std::ranges::find(all_kinds(), name, &LineageKind::name);
  return found == all_kinds().end() ? nullptr : &*found;
}

const LineageKind& lineage_kind(std::string_view name) {
  const LineageKind* kind = find_lineage_kind(name);
  OVERPROOF_CHECK(kind);
  return *kind;
}

std::optional<Role> role_in_slot(std::string_view slot) {
  static constexpr std::pair<std::string_view, Role> kRoles[] = {
      {"teacher", Role::model},   {"student", Role::model},         {"model", Role::model},
      {"counts", Role::model},    {"corpus", Role::corpus},         {"targets", Role::targets},
      {"samples", Role::samples}, {"statistics", Role::statistics}, {"activations", Role::statistics}};
  const auto found = std::ranges::find(kRoles, slot, &std::pair<std::string_view, Role>::first);
  return found == std::end(kRoles) ? std::nullopt : std::optional(found->second);
}

std::optional<Way> way_through(const LineageKind& kind, std::string_view slot, Way way) {
  switch (kind.entry(slot)) {
    case Entry::inherited:
      return way;
    case Entry::outputs:
      return Way::outputs;
    case Entry::documents:
      return way == Way::statistics ? Way::statistics : Way::documents;
    case Entry::tokenizer:
      return Way::tokenizer;
    case Entry::statistics:
      return Way::statistics;
    case Entry::nothing:
      break;
  }
  return std::nullopt;
}

std::string lineage_sentence(const LineageKind& kind, const std::vector<std::pair<std::string, std::string>>& made_from) {
  std::string text;
  std::string_view rest = kind.sentence;
  for (size_t open; (open = rest.find('{')) != std::string_view::npos;) {
    const size_t close = rest.find('}', open);
    text += rest.substr(0, open);
    text += artifact_in(rest.substr(open + 1, close - open - 1), made_from);
    rest.remove_prefix(close + 1);
  }
  return text += rest;
}

}  // namespace overproof
