#include "audit/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "core/checked.h"
#include "core/error.h"
#include "core/json.h"
#include "data/document_finder.h"
#include "data/order.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

// The tweaks by which other stages choose their windows from the corpus (student/observe_stage.cc, distill/calibrate_stage.cc).
constexpr uint64_t kObserveTweak = 0x6f62736572766564;
constexpr uint64_t kCalibrateTweak = 0x63616c6962726174;

constexpr size_t kMostUses = 1'000'000;
constexpr std::string_view kStatusNames[] = {"not in the corpus", "in the corpus, held out", "in the corpus, never reached",
                                             "in the corpus, used"};

/// What a taught artifact says of itself (teacher/soft_targets.h).
struct Targets {
  Digest order_key;
  int64_t blocks = 0;
};

Targets read_targets(const ArtifactNode& node) {
  const SafetensorsFile file(node.path / "targets.safetensors");
  const auto key = file.metadata().find("order_key");
  if (key == file.metadata().end()) throw FormatError(file.path(), -1, "metadata: 'order_key' is missing");
  const int64_t offsets = file.info("block_offsets").elements();
  if (offsets < 2) throw FormatError(file.path(), -1, "'block_offsets' has no block");
  return {Digest::from_hex(key->second), offsets - 1};
}

/// A whole number from the signed metrics or, where the stage left it as given, from the configuration; -1 when neither has it.
int64_t recorded(const Lineage& lineage, const char* metric, const char* option) {
  for (const auto& [object, name] : {std::pair{&lineage.metrics, metric}, std::pair{&lineage.config, option}})
    if (object->is_object() && object->contains(name) && (*object)[name].is_number_integer()) return (*object)[name].get<int64_t>();
  return -1;
}

int64_t must_be_recorded(const ArtifactNode& node, const char* metric, const char* option, int64_t least) {
  const int64_t value = recorded(*node.lineage(), metric, option);
  if (value < least) throw ProvenanceError(fmt::format("{}: its statement does not say '{}'", node.name, option));
  return value;
}

class Tracer {
 public:
  Tracer(const RunFolder& run, const ArtifactNode& corpus_node, Trace& trace)
      : run_(run), corpus_node_(corpus_node), corpus_(corpus_node.path), trace_(trace) {}

  void find(const std::string& wanted) {
    std::optional<Document> found = corpus_.find(wanted);
    if (!found && fs::is_regular_file(wanted)) found = corpus_.find(sha256_file(wanted).hex());
    trace_.corpus = corpus_node_.name;
    trace_.window_length = corpus_.window_length();
    if (!found) return;
    trace_.document = found;
    trace_.windows = corpus_.windows(found->split);
    find_windows();
    if (found->split == Split::held_out) {
      trace_.status = TraceStatus::held_out;
      return;
    }
    for (const ArtifactNode& node : run_.nodes)
      if (reads_this_corpus(node)) find_uses(node);
    const bool used = !trace_.uses.empty() || !trace_.rows.empty();
    trace_.status = used ? TraceStatus::used : TraceStatus::never_reached;
  }

 private:
  /// Window w holds the ids [w L, w L + L]; the last is a label only, and the next window's first input.
  void find_windows() {
    const Document& d = *trace_.document;
    if (d.tokens < 1) return;
    const int64_t length = trace_.window_length, first = d.first_token, last = d.first_token + d.tokens - 1;
    for (int64_t w = std::max<int64_t>(0, (first - 1) / length); w <= last / length && w < trace_.windows; ++w)
      trace_.in_windows.push_back({w, std::max<int64_t>(first - 1 - w * length, 0), std::min(last - w * length, length - 1)});
  }

  bool reads_this_corpus(const ArtifactNode& node) const {
    if (!node.lineage()) return false;
    for (const auto& [slot, input] : node.lineage()->inputs)
      if (slot == "corpus" && input.root == corpus_node_.lineage()->root) return true;
    return false;
  }

  void find_uses(const ArtifactNode& node) {
    const std::string& kind = node.lineage()->kind;
    if (kind == "taught") taught(node);
    if (kind == "distilled-from") distilled(node);
    if (kind == "observed") observed(node);
    if (kind == "calibrated-from") calibrated(node);
  }

  void taught(const ArtifactNode& node) {
    const Targets targets = read_targets(node);
    const TrainingOrder order(targets.order_key, trace_.windows, targets.blocks);
    for (const TracedWindow& w : trace_.in_windows)
      if (const int64_t block = order.block_of_window(w.window); block >= 0)
        trace_.rows.push_back({node.name, w.window, block, block * trace_.window_length + w.first_position,
                               block * trace_.window_length + w.last_position});
  }

  void distilled(const ArtifactNode& node) {
    const auto parent = node.parents.find("targets");
    if (parent == node.parents.end() || parent->second < 0)
      throw ProvenanceError(fmt::format("{}: the soft targets it was trained on are not here", node.name));
    const Targets targets = read_targets(run_.nodes[size_t(parent->second)]);
    const TrainingOrder order(targets.order_key, trace_.windows, targets.blocks);
    const int64_t steps = must_be_recorded(node, "steps", "steps", 1);
    const int64_t batch = must_be_recorded(node, "batch_size", "batch-size", 1);
    for (const TracedWindow& w : trace_.in_windows) {
      const int64_t block = order.block_of_window(w.window);
      if (block < 0) continue;
      const int64_t positions = product(node, steps, batch);
      for (int64_t epoch = 0; epoch <= (positions - 1) / targets.blocks; ++epoch)
        add(node, w.window, order.position_of(block, epoch), batch, steps);
    }
  }

  void observed(const ArtifactNode& node) {
    const int64_t seen = must_be_recorded(node, "windows", "windows", 1);
    sampled(node, kObserveTweak, seen, 1, false);
  }

  void calibrated(const ArtifactNode& node) {
    const int64_t steps = must_be_recorded(node, "steps", "steps", 0);
    const Json& metrics = node.lineage()->metrics;
    if (metrics.contains("tuning_kept") && metrics["tuning_kept"] == false) return;  // its training was thrown away
    sampled(node, kCalibrateTweak, steps, must_be_recorded(node, "batch_size", "batch-size", 1), true);
  }

  /// Stages that take windows from the start of a permutation, going round it when they need more than there are.
  void sampled(const ArtifactNode& node, uint64_t tweak, int64_t steps, int64_t batch, bool round) {
    const int64_t seed = must_be_recorded(node, "seed", "seed", 0);
    const Permutation sample(order_key(corpus_node_.lineage()->root, seed), tweak, trace_.windows);
    const int64_t positions = product(node, steps, batch);
    for (const TracedWindow& w : trace_.in_windows) {
      // These stages read inputs only: where the document begins with the window's last label, it is not seen.
      if (trace_.document->first_token >= (w.window + 1) * trace_.window_length) continue;
      for (int64_t position = sample.inverse(w.window); position < positions; position += trace_.windows) {
        add(node, w.window, position, batch, steps);
        if (!round) break;
      }
    }
  }

  /// Numbers in a statement may be anything.
  static int64_t product(const ArtifactNode& node, int64_t steps, int64_t batch) {
    const auto positions = checked_mul(steps, batch);
    if (!positions) throw ProvenanceError(fmt::format("{}: its statement says {} steps of {} windows", node.name, steps, batch));
    return *positions;
  }

  void add(const ArtifactNode& node, int64_t window, int64_t position, int64_t batch, int64_t steps) {
    if (trace_.uses.size() >= kMostUses)
      throw ProvenanceError(fmt::format("{}: says it used one document more than {} times", node.name, kMostUses));
    if (position / batch < steps)
      trace_.uses.push_back({node.name, node.lineage()->kind, window, position / batch, position % batch});
  }

  const RunFolder& run_;
  const ArtifactNode& corpus_node_;
  DocumentFinder corpus_;
  Trace& trace_;
};

Json to_json(const Trace& t) {
  static constexpr std::string_view kNames[] = {"absent", "held-out", "never-reached", "used"};
  Json json = {{"status", kNames[size_t(t.status)]}, {"answer", kStatusNames[size_t(t.status)]}, {"corpus", t.corpus}};
  if (const auto& d = t.document)
    json["document"] = {{"name", d->name},       {"digest", "sha256:" + d->digest.hex()},
                        {"source", d->source},   {"license", d->license},
                        {"bytes", d->bytes},     {"split", d->split == Split::train ? "train" : "held_out"},
                        {"tokens", d->tokens},   {"first_token", d->first_token}};
  json["windows"] = Json::array();
  for (const TracedWindow& w : t.in_windows)
    json["windows"].push_back({{"window", w.window}, {"first_position", w.first_position}, {"last_position", w.last_position}});
  json["teacher_rows"] = Json::array();
  for (const TracedRows& r : t.rows)
    json["teacher_rows"].push_back({{"artifact", r.artifact}, {"window", r.window}, {"block", r.block},
                                    {"first_row", r.first_row}, {"last_row", r.last_row}});
  json["uses"] = Json::array();
  for (const TracedUse& u : t.uses)
    json["uses"].push_back({{"artifact", u.artifact}, {"kind", u.kind}, {"window", u.window}, {"step", u.step}, {"place", u.place}});
  return json;
}

void print(const Trace& t, const std::string& wanted, std::ostream& out) {
  out << fmt::format("{}: {}\n", wanted, kStatusNames[size_t(t.status)]);
  if (!t.document) return;
  const Document& d = *t.document;
  out << fmt::format("  document   {}\n             sha256:{}\n  source     {}, licence {}\n  stream     {}: {} tokens from {} on\n", d.name,
                     d.digest.hex(), d.source, d.license, d.split == Split::train ? "train" : "held out", d.tokens, d.first_token);
  for (const TracedWindow& w : t.in_windows)
    out << fmt::format("  window     {} of {}, positions {}-{}\n", w.window, t.windows, w.first_position, w.last_position);
  for (const TracedRows& r : t.rows)
    out << fmt::format("  teacher    {}: rows {}-{} (block {}, window {})\n", r.artifact, r.first_row, r.last_row, r.block, r.window);
  for (const TracedUse& u : t.uses) {
    if (u.kind == "observed") out << fmt::format("  observed   {}: window {}\n", u.artifact, u.window);
    else out << fmt::format("  trained    {} ({}): step {}, place {} (window {})\n", u.artifact, u.kind, u.step, u.place, u.window);
  }
  if (t.status == TraceStatus::held_out) out << "  No weight was ever changed by it; measurements may have read it.\n";
  if (t.status == TraceStatus::never_reached) out << "  No stage of this run drew any of its windows.\n";
}

}  // namespace

Trace trace_document(const fs::path& folder, const TraceConfig& config) {
  if (config.document.empty()) throw UsageError("audit trace: --document is missing (a text file, a digest or a document's name)");
  const RunFolder run = load_run(folder, VerifyFiles::yes, nullptr);
  const ArtifactNode* corpus = nullptr;
  for (const ArtifactNode& node : run.nodes) {
    // An answer about documents that rests on changed files would be worth nothing.
    if (!node.check.faults.empty())
      throw ProvenanceError(fmt::format("{}: does not hold ({} {}); run 'overproof audit verify' first", node.name,
                                        node.check.faults.front().file, node.check.faults.front().what));
    if (node.lineage()->kind != "corpus-of") continue;
    if (corpus) throw UsageError(fmt::format("two corpora here, '{}' and '{}': name one artifact instead of the run", corpus->name, node.name));
    corpus = &node;
  }
  if (!corpus) throw UsageError(fmt::format("{}: holds no corpus", folder.string()));
  Trace trace;
  Tracer(run, *corpus, trace).find(config.document);
  return trace;
}

int audit_trace(const TraceConfig& config, const fs::path& folder, bool json, std::ostream& out) {
  const Trace trace = trace_document(folder, config);
  if (json) out << to_json(trace).dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  else print(trace, config.document, out);
  return 0;
}

}  // namespace overproof
