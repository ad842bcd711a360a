#include "audit/content.h"

#include <fmt/format.h>

#include <algorithm>

#include "audit/commitment_check.h"
#include "core/error.h"
#include "core/json.h"
#include "data/corpus.h"
#include "data/order.h"
#include "records/soft_targets.h"
#include "records/step_log.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

/// Soft targets carry the roots of teacher and corpus in their own metadata (records/soft_targets.h), an index that of its corpus
/// (data/span_index.h).
void check_roots(const ArtifactNode& node, const char* name, std::vector<Fault>& faults) {
  const SafetensorsFile file(node.path / name);
  for (const auto& [key, slot] : {std::pair{"teacher_root", "teacher"}, std::pair{"corpus_root", "corpus"}}) {
    const auto said = file.metadata().find(key);
    const auto input = node.lineage()->inputs.find(slot);
    if (said == file.metadata().end() || input == node.lineage()->inputs.end()) continue;
    if (said->second != input->second.root.hex())
      faults.push_back({name,
                        fmt::format("was made with {} sha256:{}, but the statement names sha256:{}", slot,
                                    said->second.substr(0, 64), input->second.root.hex()),
                        "one of the two is false: make it again"});
  }
}

/// The table of documents against their texts, digest by digest, and against the token streams by their counts.
void check_corpus(const ArtifactNode& node) {
  if (!fs::exists(node.path / "tokens.safetensors")) return;
  const Corpus corpus(node.path);
  for_each_text(node.path, [](const Document&, std::string_view) {});
}

/// Proofs bind their trees to the corpus by its first file (provenance/corpus_proof.h).
void check_first_file(const ArtifactNode& node, std::vector<Fault>& faults) {
  const std::vector<FileRecord>& files = node.lineage()->files;
  const bool committed = std::ranges::any_of(files, [](const FileRecord& f) { return f.name == "commitment.json"; });
  if (committed && files.front().name != "commitment.json")
    faults.push_back({files.front().name, "comes before commitment.json, which is the first file of a corpus, so proofs could hold "
                                          "another commitment",
                      "remove it, or make the corpus again"});
}

bool all_f32(const fs::path& artifact) {
  const Checkpoint checkpoint = open_checkpoint(artifact);
  return std::ranges::all_of(checkpoint.tensors->tensors(), [](const TensorInfo& t) { return t.dtype == DType::f32; });
}

/// steps.jsonl has the content of the records, for readers of text.
void check_lines(const fs::path& file, const StepRecords& records, std::vector<Fault>& faults) {
  const std::string text = read_file(file);
  size_t at = 0;
  for (const StepRecord& record : records.steps()) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) break;
    const Json line = parse_json(std::string_view(text).substr(at, end - at), file, int64_t(at));
    const Json said = step_log_line(records.format(), record);
    for (const auto& [name, value] : said.items())
      if (!line.is_object() || !line.contains(name) || line[name] != value) {
        faults.push_back({"steps.jsonl", fmt::format("step {}: '{}' differs from {}", record.step, name, kStepRecordsFile),
                          "one of the two was changed after it was written"});
        return;
      }
    at = end + 1;
  }
  if (at != text.size() || std::count(text.begin(), text.end(), '\n') != int64_t(records.steps().size()))
    faults.push_back(
        {"steps.jsonl", fmt::format("does not have one line for each record of {}", kStepRecordsFile), "restore it"});
}

/// Weights that were rounded when they were written, after the last step record: the statement has their digest. (Statements of
/// earlier programs have no dtype and no digest; audit replay compares such weights.)
void check_rounded_weights(const ArtifactNode& node, std::vector<Fault>& faults) {
  const Json& metrics = node.lineage()->metrics;
  if (!metrics.contains(kPublishedWeights)) {
    if (metrics.contains("dtype"))
      faults.push_back(
          {"", "its weights are rounded, but its statement has no digest of them", "its statement was changed: make it again"});
    return;
  }
  if (metrics[kPublishedWeights] != digest_of_checkpoint(node.path).hex())
    faults.push_back({"", "its weights are not those that training published, by their digest in the statement",
                      "weights were changed afterwards: make it again"});
}

/// The records of a training against the signed chain, the readable log and the weights that were published.
void check_steps(const ArtifactNode& node, std::vector<Fault>& faults) {
  const Json& metrics = node.lineage()->metrics;
  const bool there = fs::exists(node.path / kStepRecordsFile);
  if (there != metrics.contains("step_chain")) {
    faults.push_back({kStepRecordsFile,
                      there ? "is there, but the statement signs no chain" : "is missing, but the statement signs its chain",
                      "its statement was changed: make it again"});
    return;
  }
  if (!there) return;
  const StepRecords records = read_step_records(node.path);
  if (metrics["step_chain"] != records.chain().hex())
    faults.push_back(
        {kStepRecordsFile, "does not end in the chain that the statement signs", "records were changed: make it again"});
  if (!metrics.contains("steps") || metrics["steps"] != records.steps().size())
    faults.push_back({kStepRecordsFile,
                      fmt::format("has {} records, which is not the number in the statement", records.steps().size()),
                      "make it again"});
  check_lines(node.path / "steps.jsonl", records, faults);
  if (!all_f32(node.path)) return check_rounded_weights(node, faults);
  const bool undone = metrics.contains("tuning_kept") && metrics["tuning_kept"] == false;
  const Digest& wanted = undone ? records.initial_weights() : records.weights_after(int64_t(records.steps().size()));
  if (digest_of_checkpoint(node.path) != wanted)
    faults.push_back({"", "its weights are not those that training ended with, by the last step record",
                      "weights were changed afterwards: make it again"});
}

/// The order of training is drawn from the corpus root, the seed and, where there is one, the beacon: it may not be chosen.
void check_order(const ArtifactNode& node, std::vector<Fault>& faults) {
  const SoftTargetsOrigin origin = read_soft_targets_origin(node.path);
  const auto corpus = node.lineage()->inputs.find("corpus");
  if (corpus == node.lineage()->inputs.end()) return;
  const Json& config = node.lineage()->config;
  const auto configured = [&](const char* option, const Json& otherwise) {
    return config.is_object() && config.contains(option) ? config[option] : otherwise;
  };
  if (configured("seed", origin.seed) != Json(origin.seed) || configured("order-beacon", origin.order_beacon) != Json(origin.order_beacon))
    faults.push_back({kSoftTargetsFile, "was made with another seed or order beacon than the statement names",
                      "one of the two is false: make it again"});
  Digest expected;
  try {
    expected = order_key(corpus->second.root, origin.seed, origin.order_beacon);
  } catch (const UsageError& e) {
    throw FormatError(node.path / kSoftTargetsFile, -1, e.what());
  }
  if (origin.order_key != expected)
    faults.push_back({kSoftTargetsFile,
                      fmt::format("trains in the order of key {}, but corpus, seed and beacon draw {}", origin.order_key.hex(),
                                  expected.hex()),
                      "the order was chosen, not drawn: make it again"});
}

}  // namespace

ContentCheck check_content(const ArtifactNode& node, const CorpusSalt* salt) {
  ContentCheck check;
  try {
    const LineageKind* kind = node.kind();
    if (!kind) return check;
    if (kind->role == Role::targets) {
      check_roots(node, kSoftTargetsFile, check.faults);
      check_order(node, check.faults);
    }
    if (kind->role == Role::index) check_roots(node, "documents.safetensors", check.faults);
    if (kind->role == Role::corpus) {
      CommitmentCheck commitment = check_commitment(node.path, salt);
      check.faults = std::move(commitment.faults);
      check_first_file(node, check.faults);
      if (commitment.values_unchecked)
        check.notes.push_back(
            "is private: its trees hold together, but that they are of these documents is checked only with its secret (--salt)");
      check_corpus(node);
    }
    if (kind->trains) check_steps(node, check.faults);
  } catch (const FormatError& e) {
    check.faults.push_back({"", e.what(), "make it again"});
  } catch (const IoError& e) {  // a statement may leave out a file that its kind must have
    check.faults.push_back({"", e.what(), "restore it, or make it again"});
  }
  return check;
}

}  // namespace overproof
