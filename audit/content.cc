#include "audit/content.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "audit/commitment_check.h"
#include "audit/corpus_check.h"
#include "core/checked.h"
#include "core/error.h"
#include "core/json.h"
#include "data/corpus.h"
#include "data/order.h"
#include "formats/metadata.h"
#include "formats/safetensors.h"
#include "formats/weight_dtype.h"
#include "records/arena.h"
#include "records/evaluation.h"
#include "records/soft_targets.h"
#include "records/step_log.h"

namespace overproof {
namespace {

/// Soft targets carry the roots of teacher and corpus in their own metadata (records/soft_targets.h), an index that of its corpus
/// (data/span_index.h). Each must be an input of the statement, in a slot whose content enters in that way.
void check_roots(const ArtifactNode& node, const char* name, std::vector<Fault>& faults) {
  const SafetensorsFile file(node.path / name);
  for (const auto& [key, what, entry] :
       {std::tuple{"teacher_root", "teacher", Entry::outputs}, {"corpus_root", "corpus", Entry::documents}}) {
    const auto said = file.metadata().find(key);
    if (said == file.metadata().end()) continue;
    std::string named;
    bool found = false;
    for (const std::string& slot : node.slots_of(entry)) {
      const std::string root = node.lineage()->inputs.at(slot).root.hex();
      found |= said->second == root;
      named += (named.empty() ? "sha256:" : ", sha256:") + root;
    }
    if (!found)
      faults.push_back({name,
                        fmt::format("was made with {} sha256:{}, but the statement names {}", what, said->second.substr(0, 64),
                                    named.empty() ? "none" : named),
                        "one of the two is false: make it again"});
  }
}

/// What the targets record of themselves against the signed metric; recorded rows are named, because no audit can compute them again.
void check_evidence(const ArtifactNode& node, ContentCheck& check) {
  const std::string_view evidence = evidence_name(read_soft_targets_origin(node.path).evidence);
  const Json& metrics = node.lineage()->metrics;
  const std::string_view otherwise = evidence_name(Evidence::re_derivable);  // statements of 0.1 do not record it
  if ((metrics.contains("evidence") ? metrics["evidence"] : Json(otherwise)) != Json(evidence))
    check.faults.push_back({kSoftTargetsFile, fmt::format("states that its rows are {}, which the statement denies", evidence),
                            "one of the two is false: make it again"});
  const std::string& stage = node.lineage()->stage;
  if (evidence != evidence_name(Evidence::recorded) && (stage == "capture" || stage == "import-targets"))
    check.faults.push_back({kSoftTargetsFile, fmt::format("states that its rows are {}, but what '{}' writes is only recorded", evidence, stage),
                            "one of the two is false: make it again"});
  if (evidence == evidence_name(Evidence::recorded))
    check.notes.push_back("holds recorded rows of a teacher that is out of reach: no audit can compute them again");
}

/// A statement that calls an artifact by another kind would switch off the checks of its content.
void check_own_files(const ArtifactNode& node, const LineageKind& kind, ContentCheck& check) {
  for (const FileRecord& file : node.lineage()->files)
    if (kind.is_foreign_file(file.name))
      check.faults.push_back({file.name, fmt::format("does not belong into an artifact of lineage kind '{}'", kind.name),
                              "its statement names another kind than the one it was made as: make it again"});
  if (kind.origin == Origin::outside) {
    std::string ours;
    for (const FileRecord& file : node.lineage()->files)
      if (file.name == kStepRecordsFile || file.name == kSoftTargetsFile || file.name == kSoftTargetsPartFile) ours += (ours.empty() ? "" : ", ") + file.name;
    if (!ours.empty()) check.notes.push_back(fmt::format("comes from outside with {}: nothing here shows how it was made", ours));
  }
  if (!kind.trains && node.lineage()->metrics.contains("step_chain"))
    check.faults.push_back({"",
                            fmt::format("signs a chain of training steps as lineage kind '{}', which does not train", kind.name),
                            "its statement names another kind than the one it was made as: make it again"});
}

/// Inputs that every artifact of the kind has, and what is bound to them. Without, nothing shows that it was made as the kind requires.
void check_inputs(const RunFolder& run, const ArtifactNode& node, const LineageKind& kind, std::vector<Fault>& faults) {
  for (const auto& [slot, parent] : node.parents) {
    const LineageKind* of = parent < 0 ? nullptr : run.nodes[size_t(parent)].kind();
    std::vector<Role> wanted;
    if (const std::optional<Role> known = role_in_slot(slot)) wanted = {*known};
    else if (kind.other_slots) wanted = kind.other_roles;
    if (of && !wanted.empty() && std::ranges::find(wanted, of->role) == wanted.end()) {
      std::vector<std::string_view> names;
      for (const Role role : wanted) names.push_back(role_name(role));
      faults.push_back({"",
                        fmt::format("names '{}' as its input '{}', which is {} and not {}", run.nodes[size_t(parent)].name, slot,
                                    role_name(of->role), fmt::join(names, " or ")),
                        "its statement is false: make it again"});
    }
  }
  for (const std::string_view slots : kind.required) {
    bool found = false;
    for (std::string_view rest = slots; !rest.empty() && !found;) {
      const size_t bar = std::min(rest.find('|'), rest.size());
      const std::string_view slot = rest.substr(0, bar);
      found = slot == "*" ? std::ranges::any_of(node.lineage()->inputs, [&](const auto& input) { return !kind.has_rule(input.first); })
                          : node.lineage()->inputs.contains(std::string(slot));
      rest.remove_prefix(std::min(bar + 1, rest.size()));
    }
    if (!found)
      faults.push_back({"",
                        fmt::format("is '{}', but its statement names no input '{}'", kind.name, slots),
                        "its statement is incomplete: make it again"});
  }
}

/// The one parent whose content enters in this way; nullptr where it is not here or does not hold, which is reported elsewhere.
const ArtifactNode* sound_parent(const RunFolder& run, const ArtifactNode& node, Entry entry) {
  for (const std::string& slot : node.slots_of(entry))
    if (const int parent = node.parents.at(slot); parent >= 0 && run.nodes[size_t(parent)].check.faults.empty())
      return &run.nodes[size_t(parent)];
  return nullptr;
}

/// Proofs bind their trees to the corpus by its first file (provenance/corpus_proof.h).
void check_first_file(const ArtifactNode& node, std::vector<Fault>& faults) {
  const std::vector<FileRecord>& files = node.lineage()->files;
  const bool committed = std::ranges::any_of(files, [](const FileRecord& f) { return f.name == "commitment.json"; });
  if (committed && files.front().name != "commitment.json")
    faults.push_back({files.front().name,
                      "comes before commitment.json, which is the first file of a corpus, so proofs could hold "
                      "another commitment",
                      "remove it, or make the corpus again"});
}

std::string text_of(const Json& object, const char* name) {
  return object.contains(name) && object[name].is_string() ? object[name].get<std::string>() : "";
}

/// The option of the statement; nothing where it has none, or "auto".
std::optional<DType> dtype_option(const Lineage& lineage) {
  const std::string option = text_of(lineage.config, "dtype");
  for (const auto& [word, type] : {std::pair{"f32", DType::f32}, {"bf16", DType::bf16}, {"f16", DType::f16}})
    if (option == word) return type;
  return std::nullopt;
}

/// The type of the weights by the signed metric (formats/weight_dtype.h), else by the option of version 0.1; nothing where the
/// statement has neither.
std::optional<DType> signed_dtype(const Lineage& lineage) {
  if (const auto type = dtype_from_name(text_of(lineage.metrics, "dtype"))) return type;
  return dtype_option(lineage);
}

/// Stored types of the weights against the signed one; where none is signed, all but the routers must have the same. Returns
/// whether any weight was rounded when it was stored.
bool check_dtypes(const ArtifactNode& node, std::vector<Fault>& faults) {
  const Checkpoint checkpoint = open_checkpoint(node.path);
  std::optional<DType> wanted = signed_dtype(*node.lineage());
  bool rounded = false, named = false;
  for (const TensorInfo& t : checkpoint.tensors->tensors()) {
    rounded |= t.dtype != DType::f32;
    const bool always_f32 = is_always_f32(t.name);
    if (!always_f32 && !wanted) wanted = t.dtype;
    const DType expected = always_f32 ? DType::f32 : *wanted;
    if (t.dtype == expected || std::exchange(named, true)) continue;
    faults.push_back({"",
                      fmt::format("stores {} as {}, but by its statement it is {}", t.name, dtype_name(t.dtype), dtype_name(expected)),
                      "weights were changed afterwards: make it again"});
  }
  return rounded;
}

/// What a line of steps.jsonl has beyond its record: measurements next to the training, which no record holds.
bool is_measured(const std::string& name) { return name == "held_out" || name == "reward"; }

/// steps.jsonl has the content of the records, for readers of text.
void check_lines(const fs::path& file, const StepRecords& records, std::vector<Fault>& faults) {
  const std::string text = read_file(file);
  size_t at = 0;
  for (const StepRecord& record : records.steps()) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) break;
    const Json line = parse_json(std::string_view(text).substr(at, end - at), file, int64_t(at));
    const Json said = step_log_line(records.format(), record);
    const auto differs = [&](const std::string& name) {
      faults.push_back({"steps.jsonl", fmt::format("step {}: '{}' differs from {}", record.step, name, kStepRecordsFile),
                        "one of the two was changed after it was written"});
    };
    if (!line.is_object()) return differs("step");
    for (const auto& [name, value] : said.items())
      if (!line.contains(name) || line[name] != value) return differs(name);
    for (const auto& [name, value] : line.items())
      if (!said.contains(name) && !is_measured(name)) return differs(name);
    at = end + 1;
  }
  if (at != text.size() || std::count(text.begin(), text.end(), '\n') != int64_t(records.steps().size()))
    faults.push_back(
        {"steps.jsonl", fmt::format("does not have one line for each record of {}", kStepRecordsFile), "restore it"});
}

/// Weights that were averaged, had adapters merged into them, or were rounded when they were written, after the last step record: the statement has their digest. (Statements of
/// earlier programs have no dtype and no digest.) That they are those of the last step only audit replay shows.
void check_rounded_weights(const ArtifactNode& node, ContentCheck& check) {
  const Json& metrics = node.lineage()->metrics;
  check.notes.push_back(
      "has rounded, averaged or adapted weights: that they are those of the last step is shown by audit replay, which always makes the "
      "last segment");
  if (!metrics.contains(kPublishedWeights)) {
    if (metrics.contains("dtype"))
      check.faults.push_back({"", "its weights are rounded, averaged or adapted, but its statement has no digest of them",
                              "its statement was changed: make it again"});
    return;
  }
  if (metrics[kPublishedWeights] != digest_of_checkpoint(node.path).hex())
    check.faults.push_back({"", "its weights are not those that training published, by their digest in the statement",
                            "weights were changed afterwards: make it again"});
}

/// The metrics of a training that its last record has, too.
void check_last_step(const Lineage& lineage, const StepRecords& records, std::vector<Fault>& faults) {
  const Json& metrics = lineage.metrics;
  if (records.steps().empty()) return;
  const StepRecord& last = records.steps().back();
  const Json line = step_log_line(records.format(), last);
  const auto fault = [&](const std::string& name) {
    faults.push_back({"", fmt::format("signs the metric '{}', which is not that of its last step record", name),
                      "its statement was changed: make it again"});
  };
  // calibrate has neither, and statements of earlier programs, which have no dtype either, need not have them.
  const bool required = lineage.stage != "calibrate" && metrics.contains("dtype");
  if ((required || metrics.contains("tokens")) && (!metrics.contains("tokens") || metrics["tokens"] != last.tokens_seen)) fault("tokens");
  if (!required && !metrics.contains("final")) return;
  if (!metrics.contains("final") || !metrics["final"].is_object() || metrics["final"].empty()) return fault("final");
  for (const auto& [name, value] : metrics["final"].items())
    if (!is_measured(name) && (!line.contains(name) || line[name] != value)) fault("final." + name);
}

/// The option of the statement, where it is no "auto", against the metric.
void check_signed_dtype(const Lineage& lineage, std::vector<Fault>& faults) {
  const std::optional<DType> asked = dtype_option(lineage), made = signed_dtype(lineage);
  if (!asked || asked == made) return;
  faults.push_back({"",
                    fmt::format("signs weights of type {}, but its option dtype is {}", made ? dtype_name(*made) : "unknown",
                                dtype_name(*asked)),
                    "its statement was changed: make it again"});
}

/// Metrics that repeat an option: readers may take either.
void check_repeated_options(const Lineage& lineage, std::vector<Fault>& faults) {
  if (!lineage.config.is_object() || lineage.format < 2) return;
  for (const auto& [metric, option] : {std::pair{"batch_size", "batch-size"}, {"seed", "seed"}, {"order_seed", "order-seed"}, {"order-seed", "order-seed"}})
    if (lineage.metrics.contains(metric) && (!lineage.config.contains(option) || lineage.metrics[metric] != lineage.config[option]))
      faults.push_back({"", fmt::format("signs the metric '{}', which is not its option '{}'", metric, option), "its statement was changed: make it again"});
}

/// The KL that an option asked for, against the one that was measured with the chosen experts, before tuning.
void check_target_kl(const Lineage& lineage, std::vector<Fault>& faults) {
  const auto number = [](const Json& in, const char* name) { return in.contains(name) && in[name].is_number() ? in[name].get<double>() : 0.0; };
  const double target = number(lineage.config, "target-kl"), measured = number(lineage.metrics, "kl_before");
  if (lineage.stage == "calibrate" && target > 0 && number(lineage.config, "top-k") == 0 && !(measured <= 1.01 * target))  // the search may multiply in another type
    faults.push_back({"", fmt::format("signs the option 'target-kl' as {}, but a KL of {} with the experts that were chosen", target, measured),
                      "its statement was changed: make it again"});
}

/// The records of a training against the signed chain, the readable log and the weights that were published.
void check_steps(const ArtifactNode& node, ContentCheck& check) {
  std::vector<Fault>& faults = check.faults;
  const Json& metrics = node.lineage()->metrics;
  const bool there = fs::exists(node.path / kStepRecordsFile);
  if (there != metrics.contains("step_chain")) {
    faults.push_back({kStepRecordsFile,
                      there ? "is there, but the statement signs no chain" : "is missing, but the statement signs its chain",
                      "its statement was changed: make it again"});
    return;
  }
  if (!there) {
    const Json& every = node.lineage()->config.value("digest-every", Json());
    if (every.is_number() && every != 0 && metrics.value("steps", Json()) != 0)  // -1: as many as the stage chooses
      faults.push_back({kStepRecordsFile, "is missing, though its option 'digest-every' has them written", "its statement was changed: make it again"});
    else
      check.notes.push_back("has no step records: nothing here shows that its weights are those of the training; audit recompute, which makes all of it again, does");
    return;
  }
  const StepRecords records = read_step_records(node.path);
  if (metrics["step_chain"] != records.chain().hex())
    faults.push_back(
        {kStepRecordsFile, "does not end in the chain that the statement signs", "records were changed: make it again"});
  if (!metrics.contains("steps") || metrics["steps"] != records.steps().size())
    faults.push_back({kStepRecordsFile,
                      fmt::format("has {} records, which is not the number in the statement", records.steps().size()),
                      "make it again"});
  check_lines(node.path / "steps.jsonl", records, faults);
  check_last_step(*node.lineage(), records, faults);
  const Json& config = node.lineage()->config;
  const auto positive = [&](const char* option) { return config.contains(option) && config[option].is_number() && config[option] > 0; };
  const bool averaged = positive("ema") || positive("lora-rank");
  const bool rounded = check_dtypes(node, check.faults);
  if (rounded || averaged) return check_rounded_weights(node, check);
  const bool undone = tuning_was_undone(*node.lineage());
  const Digest& wanted = undone ? records.initial_weights() : records.weights_after(int64_t(records.steps().size()));
  if (digest_of_checkpoint(node.path) != wanted)
    faults.push_back({"", "its weights are not those that training ended with, by the last step record",
                      "weights were changed afterwards: make it again"});
}

/// Measurements are in a file and in the metrics, and readers may take either.
void check_evaluation(const ArtifactNode& node, ContentCheck& check) {
  const Json& metrics = node.lineage()->metrics;
  if (node.lineage()->stage == "arena") {
    if (!metrics.contains("arena") || read_json(node.path / kArenaFile) != metrics["arena"])
      check.faults.push_back({kArenaFile, "differs from the metric 'arena' in the statement", "one of the two was changed: make it again"});
    return;
  }
  if (node.lineage()->format < 2) {
    check.notes.push_back(fmt::format("has a statement of format 1, which does not name the figures in {}", kEvaluationFile));
    return;
  }
  const Json stored = read_json(node.path / kEvaluationFile);
  for (const auto& [name, value] : stored.items())
    if (!metrics.contains(name) || metrics[name] != value) {
      check.faults.push_back({kEvaluationFile, fmt::format("'{}' differs from the metric in the statement", name),
                              "one of the two was changed: make it again"});
      return;
    }
}

/// How rows are encoded, by the file and by the options of the statement.
void check_encoding(const ArtifactNode& node, std::vector<Fault>& faults) {
  const SafetensorsFile file(soft_targets_file(node.path));
  const Json& config = node.lineage()->config;
  const auto stated = [&](const char* entry, const char* option) {
    const auto found = file.metadata().find(entry);
    if (found == file.metadata().end() || !config.contains(option)) return;
    const Json& value = config[option];
    const std::string wanted = value.is_string()         ? value.get<std::string>()
                               : value.is_number_float() ? fmt::format("{}", value.get<double>())
                                                         : dump_text(value);
    if (found->second != wanted)
      faults.push_back({kSoftTargetsFile,
                        fmt::format("has {} {}, but the option '{}' of the statement is {}", entry, found->second.substr(0, 80), option,
                                    wanted.substr(0, 80)),
                        "one of the two is false: make it again"});
  };
  const auto kind = file.metadata().find("kind");
  stated("kind", "mode");
  stated("count", kind != file.metadata().end() && kind->second == "top-k" ? "k" : "draws");
  stated("temperature", "temperature");
  stated("batch_windows", "batch-windows");
  const int64_t windows = read_soft_targets_origin(node.path).blocks, length = metadata_integer(file, "window_length", 1, int64_t{1} << 24);
  const Json& metrics = node.lineage()->metrics;
  for (const auto& [metric, there] : {std::pair{"windows", std::optional(windows)}, {"tokens", checked_mul(windows, length)}})
    if (metrics.contains(metric) && (!there || metrics[metric] != *there))
      faults.push_back({kSoftTargetsFile, fmt::format("has {} windows of {} tokens, but the statement signs the metric '{}' as {}", windows, length, metric,
                                                      dump_text(metrics[metric]).substr(0, 80)),
                        "one of the two is false: make it again"});
}

/// The order of training is drawn from the corpus root, the seed and, where there is one, the beacon: it may not be chosen.
void check_order(const ArtifactNode& node, std::vector<Fault>& faults) {
  const SoftTargetsOrigin origin = read_soft_targets_origin(node.path);
  const std::vector<std::string> corpora = node.slots_of(Entry::documents);
  if (corpora.size() != 1) {
    faults.push_back({kSoftTargetsFile,
                      fmt::format("trains in an order drawn from one corpus, but the statement names {}", corpora.size()),
                      "its statement is incomplete: make it again"});
    return;
  }
  const Json& config = node.lineage()->config;
  const auto configured = [&](const char* option, const Json& otherwise) {
    return config.is_object() && config.contains(option) ? config[option] : otherwise;
  };
  if (configured("seed", origin.seed) != Json(origin.seed) ||
      configured("order-beacon", origin.order_beacon) != Json(origin.order_beacon))
    faults.push_back({kSoftTargetsFile, "was made with another seed or order beacon than the statement names",
                      "one of the two is false: make it again"});
  check_encoding(node, faults);
  Digest expected;
  try {
    expected = order_key(node.lineage()->inputs.at(corpora[0]).root, origin.seed, origin.order_beacon);
  } catch (const UsageError& e) {
    throw FormatError(node.path / kSoftTargetsFile, -1, e.what());
  }
  if (origin.order_key != expected)
    faults.push_back({kSoftTargetsFile,
                      fmt::format("trains in the order of key {}, but corpus, seed and beacon draw {}", origin.order_key.hex(),
                                  expected.hex()),
                      "the order was chosen, not drawn: make it again"});
}

/// Rows that have no entries are those of masked labels: a teacher's answer to a trained one may not be left out.
void check_masked_rows(const RunFolder& run, const ArtifactNode& node, ContentCheck& check) {
  const ArtifactNode* parent = sound_parent(run, node, Entry::documents);
  const SafetensorsFile file(soft_targets_file(node.path));
  const auto version = file.metadata().find("format_version");
  if (!parent || version == file.metadata().end() || version->second == "1") return;
  const bool is_part = file.metadata().contains("all_blocks");
  const SoftTargets targets = is_part ? SoftTargets::part(node.path) : SoftTargets(node.path);
  const Corpus corpus(parent->path);
  const int64_t windows = corpus.windows(Split::train), first = is_part ? targets.origin().part->first_block : 0;
  if (targets.window_length() != corpus.window_length() || targets.origin().all_blocks() > windows) return;
  const TrainingOrder order(targets.order_key(), windows, targets.origin().all_blocks());
  const std::string fault = targets.mask_fault(
      [&](int64_t block, std::span<float> mask) { corpus.read_mask(Split::train, order.window_of_block(first + block), mask); });
  if (!fault.empty()) check.faults.push_back({kSoftTargetsFile, fault, "it was changed, or made for another corpus: make it again"});
}

}  // namespace

ContentCheck check_content(const RunFolder& run, const ArtifactNode& node, const CorpusSalt* salt) {
  ContentCheck check;
  try {
    const LineageKind* kind = node.kind();
    if (!kind) return check;
    check_own_files(node, *kind, check);
    check_inputs(run, node, *kind, check.faults);
    if (kind->role == Role::targets) {
      check_roots(node, soft_targets_file(node.path).filename().c_str(), check.faults);
      check_order(node, check.faults);
      check_evidence(node, check);
      check_masked_rows(run, node, check);
    }
    if (kind->role == Role::index) {
      check_roots(node, "documents.safetensors", check.faults);
      if (const ArtifactNode* corpus = sound_parent(run, node, Entry::documents)) check_index_content(node, *corpus, check);
    }
    if (kind->role == Role::corpus) {
      CommitmentCheck commitment = check_commitment(node.path, salt);
      check.faults.insert(check.faults.end(), commitment.faults.begin(), commitment.faults.end());
      check_first_file(node, check.faults);
      if (commitment.values_unchecked)
        check.notes.push_back(
            "is private: its trees hold together, but that they are of these documents is checked only with its secret (--salt)");
      check_corpus_content(node, sound_parent(run, node, Entry::tokenizer), check);
    }
    check_repeated_options(*node.lineage(), check.faults);
    check_target_kl(*node.lineage(), check.faults);
    if (kind->is_model() && kind->origin == Origin::inputs) check_signed_dtype(*node.lineage(), check.faults);
    if (kind->role == Role::evaluation) check_evaluation(node, check);
    if (kind->trains) check_steps(node, check);
    else if (kind->is_model() && node.lineage()->metrics.contains("dtype")) check_dtypes(node, check.faults);
  } catch (const FormatError& e) {
    check.faults.push_back({"", text_within(e, node.path), "make it again"});
  } catch (const IoError& e) {  // a statement may leave out a file that its kind must have
    check.faults.push_back({"", text_within(e, node.path), "restore it, or make it again"});
  }
  return check;
}

}  // namespace overproof
