#include "distill/replay.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <type_traits>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/python_json.h"
#include "core/temp_folder.h"
#include "distill/adapter_files.h"
#include "distill/calibration.h"
#include "distill/checkpoint.h"
#include "distill/distillation.h"
#include "distill/pretraining.h"
#include "distill/recorded_choice.h"
#include "distill/trained_files.h"
#include "formats/safetensors_checkpoint.h"
#include "model/compute.h"
#include "provenance/outside.h"
#include "provenance/signers.h"
#include "records/step_log.h"

namespace overproof {
namespace {

/// The trained artifact, its statement, and its parents. All their files have the digests that were signed.
struct Subject {
  std::string name;
  fs::path path;
  Lineage lineage;
  std::map<std::string, InputArtifact> inputs;
  bool from_scratch() const { return lineage.stage == "pretrain"; }
  const fs::path& student() const { return inputs.at("student").path; }
};

void add_faults(const std::string& name, const ArtifactCheck& check, Replay& result) {
  for (const Fault& fault : check.faults)
    result.faults.push_back(fmt::format("{}{}{}: {}", name, fault.file.empty() ? "" : "/", fault.file, fault.what));
}

bool is_trained(const ArtifactNode& node) { return node.lineage() && node.kind() && node.kind()->trains; }

const ArtifactNode& choose(const RunFolder& run, const ReplayConfig& config) {
  const ArtifactNode* node = nullptr;
  std::vector<std::string> trained;
  for (const ArtifactNode& n : run.nodes) {
    if (run.single ? n.path == run.path : n.name == config.artifact) node = &n;
    if (is_trained(n)) trained.push_back(n.name);
  }
  if (!node)
    throw UsageError(fmt::format("{}: has no artifact '{}'; {}", run.path.string(), config.artifact,
                                 trained.empty()
                                     ? "nothing in it was trained"
                                     : fmt::format("trained were {}; name one with --artifact", fmt::join(trained, ", "))));
  if (!is_trained(*node))
    throw UsageError(fmt::format(
        "{}: was not trained by distill, calibrate or pretrain, so it has no steps; audit recompute makes other artifacts again",
        node->path.string()));
  return *node;
}

constexpr std::string_view kOutsideSlots[] = {"tasks", "command"};  // files that distill reads, and of which the statement has the digests

std::string digest_member(std::string_view slot) { return fmt::format("{}-sha256", slot); }

/// The files from outside that the training read, as the auditor gives them.
void bind_files(const StringMap& given, Subject& subject) {
  for (const auto& [slot, path] : given)
    if (!subject.lineage.config.contains(digest_member(slot)))
      throw UsageError(fmt::format("option 'file': '{}' was trained without a file '{}'", subject.name, slot));
  for (const std::string_view slot : kOutsideSlots) {
    const auto recorded = subject.lineage.config.find(digest_member(slot));
    if (recorded == subject.lineage.config.end()) continue;
    const auto file = given.find(std::string(slot));
    if (file == given.end())
      throw UsageError(fmt::format("{}: was trained with a file '{}' (sha256:{}); give it with --file {}=PATH", subject.path.string(), slot,
                                   recorded->is_string() ? recorded->get<std::string>() : "?", slot));
    const Digest root = scan_input(file->second).root;
    if (*recorded != root.hex())
      throw MismatchError(fmt::format("{} is sha256:{}, but '{}' was trained with another file '{}', sha256:{}", file->second, root.hex(), subject.name, slot,
                                      recorded->is_string() ? recorded->get<std::string>() : "?"));
    subject.inputs[std::string(slot)] = {file->second, root};
  }
}

/// Nothing when a file is not what was signed: then there is nothing to replay from.
std::optional<Subject> open_subject(const RunFolder& run, const ArtifactNode& node, const PublicKey* trusted, Replay& result) {
  Subject subject{node.name, node.path, *node.lineage(), {}};
  result.artifact = node.name;
  result.root = subject.lineage.root;
  result.statement = subject.lineage.statement;
  add_faults(node.name, node.check, result);  // of the graph: an input whose statement is not the one that was used
  add_faults(node.name, check_artifact(node.path, VerifyFiles::yes, trusted), result);
  for (const auto& [slot, index] : node.parents) {
    const Dependency& wanted = subject.lineage.inputs.at(slot);
    if (index < 0)
      throw UsageError(fmt::format("{}: was trained with '{}' (as '{}', sha256:{}), which is not next to it", node.path.string(),
                                   wanted.name, slot, wanted.root.hex()));
    const ArtifactNode& parent = run.nodes[size_t(index)];
    add_faults(parent.name, check_artifact(parent.path, VerifyFiles::yes, trusted), result);
    subject.inputs[slot] = {parent.path, wanted.root};
  }
  if (!result.faults.empty()) return std::nullopt;
  return subject;
}

template <class Config>
Config recorded_config(const Lineage& lineage, const fs::path& origin, Replay& result) {
  Config config;
  Options options = options_of(config);
  Json recorded = lineage.config;
  for (const std::string_view slot : kOutsideSlots) recorded.erase(digest_member(slot));  // content, not an option
  if constexpr (std::is_same_v<Config, CalibrateConfig>) use_recorded_choice(recorded, lineage.metrics);
  from_json(options, recorded, origin);
  for (const Option& o : options)
    if (!lineage.config.contains(o.name))
      result.notes.push_back(fmt::format("the statement does not record '{}': {} is assumed", o.name, o.text()));
  return config;
}

/// The training, ready to make its first step, and the digester of its state.
struct Session {
  std::unique_ptr<Training> run;
  DType dtype = DType::f32;  ///< of the weights that are published
  double repetition_penalty = 0;
  std::unique_ptr<StateDigester> digester;
  bool may_stop_early = false;  ///< by the configuration
  int64_t at() const { return run->trainer().steps_done(); }
};

Session begin(const Subject& subject, Replay& result) {
  Session session;
  const Inputs inputs(subject.inputs);
  const fs::path origin = subject.path / "claims.jsonl";
  const auto build = [&](const auto& config, auto make) {
    const WeightDType asked = config.training.dtype;
    session.dtype = subject.from_scratch() ? pretrained_dtype(asked) : written_dtype(asked, open_checkpoint(subject.student()));
    session.repetition_penalty = config.training.repetition_penalty;
    if constexpr (requires { config.patience; }) session.may_stop_early = config.patience > 0;
    session.run = std::make_unique<Training>(make(config, inputs).training);
  };
  if (subject.lineage.stage == "distill")
    build(recorded_config<DistillConfig>(subject.lineage, origin, result), make_distillation);
  else if (subject.from_scratch())
    build(recorded_config<PretrainConfig>(subject.lineage, origin, result), make_pretraining);
  else
    build(recorded_config<CalibrateConfig>(subject.lineage, origin, result), make_calibration);
  session.digester = std::make_unique<StateDigester>(session.run->student(), session.run->trainer());
  return session;
}

/// A plan with the computed numbers of `from`: what remains to compare follows from inputs and configuration alone.
StepRecord with_results_of(StepRecord plan, const StepRecord& from) {
  plan.loss = from.loss;
  plan.terms = from.terms;
  plan.grad_norm = from.grad_norm;
  plan.balance = from.balance;
  return plan;
}

class Replayer {
 public:
  Replayer(const Subject& subject, StepRecords records, Session session, Replay& result)
      : subject_(subject),
        records_(std::move(records)),
        session_(std::move(session)),
        result_(result),
        kept_(subject.path.parent_path() / kKeptFolder) {}

  /// Checks of every step that need no training. False when the records are of another kind of training, so that no step can be
  /// compared.
  bool check_all_steps() {
    const StepFormat& format = records_.format();
    if (format.ranks != session_.run->ranks()) {
      result_.faults.push_back(fmt::format("the step records name {} processes that trained together, a replay has {}",
                                           format.ranks, session_.run->ranks()));
      return false;
    }
    if (const std::vector<std::string> terms = session_.run->terms(); !same_terms(terms)) {
      result_.faults.push_back(fmt::format("the step records have the loss terms {}, the configuration has {}",
                                           fmt::join(format.terms, ", "), fmt::join(terms, ", ")));
      return false;
    }
    fault_if(format.salted_batches != session_.run->salts_batches(),
             "the batch roots are salted, or not, unlike the corpus");
    fault_if(session_.digester->weights() != records_.initial_weights(),
             "the step records do not begin with the weights of the parent, or with those that the seed draws");
    const int64_t planned = session_.run->steps(), steps = result_.steps;
    fault_if(session_.may_stop_early ? steps > planned : planned != steps,
             fmt::format("{} steps are recorded, but the configuration has {}", steps, planned));
    if (steps < planned && session_.may_stop_early)
      result_.notes.push_back(
          fmt::format("the training stopped after {} of {} steps by its held-out loss, which a replay does not measure again",
                      steps, planned));
    Progress progress("check", steps, "steps");
    int64_t unequal = 0, written = 0;
    for (int64_t s = 0; s < steps; ++s) {
      throw_if_interrupted();
      const StepRecord& recorded = records_.steps()[size_t(s)];
      StepRecord plan = with_results_of(session_.run->plan(s), recorded);
      if (session_.run->follows(s)) {
        plan.batch = session_.run->batch_root(s);
      } else {  // compared where the step is made again
        plan.batch = recorded.batch;
        plan.weight = recorded.weight;
        ++written;
      }
      if (const std::string field = first_difference(format, recorded, plan); !field.empty()) {
        if (++unequal <= 3) result_.faults.push_back(difference_of(recorded, plan, field));
      } else {
        ++result_.steps_planned_equal;
      }
      progress.update(s + 1);
    }
    if (unequal > 3) result_.faults.push_back(fmt::format("and {} more steps like these", unequal - 3));
    if (written > 0)
      result_.notes.push_back(fmt::format("the student wrote the batches of {} of {} steps, which are compared in segments that are made again only",
                                          written, steps));
    return true;
  }

  /// Makes configuration, tokenizer and templates again, and where tuning was undone the router counts, and compares all files but
  /// weights, records and counts of a training with those that were signed. JSON files of version 0.1 may be spelled otherwise, and fewer.
  void check_files() {
    const Checkpoint published = open_checkpoint(subject_.path);
    const TempFolder work;
    OutputFolder made(work / "files");
    if (subject_.from_scratch()) write_new_model_files(*session_.run, session_.dtype, subject_.inputs.at("tokenizer").path, session_.repetition_penalty, made);
    else write_model_files(*session_.run, session_.dtype, subject_.student(), session_.repetition_penalty, made);
    if (undone()) write_trained_counts(*session_.run, subject_.student(), /*kept=*/false, made);
    std::map<std::string, Digest> digests;
    for (const FileRecord& file : made.records()) digests[file.name] = file.digest;
    std::set<std::string> elsewhere = {kStepRecordsFile, kStepLogFile};
    const auto& shards = published.tensors->files();
    if (shards.size() > 1) elsewhere.insert(kSafetensorsIndexName);
    if (subject_.lineage.stage == "calibrate" && option_is_on("curve")) {
      elsewhere.insert({"curve.json", "curve.svg"});
      result_.notes.emplace_back("curve.json and curve.svg are measurements before the tuning, which audit recompute makes again");
    }
    if (!undone()) elsewhere.insert(kRouterCountsFile);
    if (session_.run->trainer().adapts()) elsewhere.insert({kAdapterConfigFile, kAdapterFile});
    for (const fs::path& shard : shards) elsewhere.insert(shard.lexically_relative(subject_.path).generic_string());
    const bool old = subject_.lineage.format < 2;
    std::vector<std::string> wrong, otherwise;
    for (const FileRecord& file : subject_.lineage.files) {
      if (elsewhere.contains(file.name)) continue;
      const auto found = digests.find(file.name);
      if (found == digests.end()) wrong.push_back(fmt::format("{}: is signed, but this training does not make it", file.name));
      else if (found->second == file.digest) ++result_.files_equal;
      else if (old && same_values(work / "files" / file.name, subject_.path / file.name))
        otherwise.push_back(fmt::format("{}: has the same values as the one that was made again, in another spelling", file.name));
      else
        wrong.push_back(fmt::format("{}: signed as sha256:{}, made again as sha256:{}", file.name, file.digest.hex(), found->second.hex()));
      if (found != digests.end()) digests.erase(found);
    }
    for (const auto& [name, digest] : digests)
      (old ? otherwise : wrong).push_back(fmt::format("{}: was made again, but is not in the artifact", name));
    result_.counts_equal = undone() && wrong.empty() && has_router_counts(subject_.path);
    result_.faults.insert(result_.faults.end(), wrong.begin(), wrong.end());
    result_.notes.insert(result_.notes.end(), otherwise.begin(), otherwise.end());
  }

  /// Compares the published weights with those that the records end with.
  void check_final_weights() {
    const Checkpoint published = open_checkpoint(subject_.path);
    const auto& infos = published.tensors->tensors();
    const bool exact = std::all_of(infos.begin(), infos.end(), [](const TensorInfo& t) { return t.dtype == DType::f32; });
    if (!exact || session_.run->trainer().publishes_others()) return check_published(published);
    const Digest& wanted = undone() ? records_.initial_weights() : records_.weights_after(result_.steps);
    fault_if(digest_of_checkpoint(subject_.path) != wanted,
             undone() ? "the published weights are not those before the tuning, which was undone"
                      : "the published weights are not those of the last step record");
  }

  /// The segments between `ends` that are made again: those drawn by the seed, and the last.
  static std::vector<ReplayedSegment> with_last(const std::vector<int64_t>& drawn, const std::vector<int64_t>& ends) {
    std::vector<ReplayedSegment> segments;
    for (const int64_t number : drawn) segments.push_back({.number = number});
    const int64_t last = int64_t(ends.size()) - 2;
    if (drawn.empty() || drawn.back() != last) segments.push_back({.number = last, .drawn = false});
    for (ReplayedSegment& s : segments) s.first_step = ends[size_t(s.number)], s.end_step = ends[size_t(s.number) + 1];
    return segments;
  }

  /// Weights that were rounded when they were written, against the digest that was signed for them, and where tuning was undone
  /// against the parent's, rounded in the same way. Called before the first step.
  void check_published(const Checkpoint& published) {
    const Digest found = digest_of_checkpoint(subject_.path);
    const Json& metrics = subject_.lineage.metrics;
    if (metrics.contains(kPublishedWeights))
      fault_if(metrics[kPublishedWeights] != found.hex(),
               "the published weights are not those that the statement has the digest of");
    bool rounded = false;
    if (undone())
      fault_if(digest_rounded_as(session_.run->student(), *published.tensors, rounded) != found,
               "the published weights are not those before the tuning, which was undone");
    else
      result_.notes.push_back(
          "the published weights are rounded, averaged or adapted: that they follow from the last step is compared once the last segment "
          "is made again");
  }

  void bitwise(const std::vector<int64_t>& drawn, const std::vector<int64_t>& ends) {
    const std::vector<ReplayedSegment> segments = with_last(drawn, ends);
    Progress progress("replay", int64_t(segments.size()), "segments");
    for (ReplayedSegment segment : segments) {
      if (!equal_from_nearest(segment, ends)) clean_ = false;
      result_.segments.push_back(segment);
      progress.update(int64_t(result_.segments.size()), segment.equal ? "equal" : "NOT equal");
    }
    if (!clean_ || session_.at() != result_.steps || result_.steps == 0) return;
    check_rounded_weights();
    check_counts();
  }

  /// Steps done where recorded weights are available: at the beginning, at kept states, at the end unless tuning was undone.
  std::vector<int64_t> ends_with_weights(const std::vector<int64_t>& ends) {
    std::vector<int64_t> list;
    for (const int64_t end : ends) {
      std::string fault;
      if (end == 0 || (end == result_.steps && !undone()) || load_kept(end, fault)) list.push_back(end);
      else if (!fault.empty()) note_bad_state(end, fault);
    }
    clean_ = list.size() <= 2 && bad_states_.empty();  // else the trainer holds the state that was read last
    return list;
  }

  void within_tolerance(const std::vector<int64_t>& drawn, const std::vector<int64_t>& ends) {
    const std::vector<ReplayedSegment> segments = with_last(drawn, ends);
    Progress progress("replay", int64_t(segments.size()), "segments");
    for (ReplayedSegment segment : segments) {
      measure(segment, ends);
      clean_ = false;  // the state is not exactly the recorded one
      result_.segments.push_back(segment);
      progress.update(int64_t(result_.segments.size()), fmt::format("difference {:.2g}", segment.weight_difference));
    }
  }

 private:
  /// Version 1 has a cross-entropy of 0 also where none was computed.
  bool same_terms(const std::vector<std::string>& terms) const {
    const std::vector<std::string>& recorded = records_.format().terms;
    if (records_.format().version > 1) return terms == recorded;
    return std::ranges::all_of(terms,
                               [&](const std::string& name) { return std::ranges::find(recorded, name) != recorded.end(); });
  }

  bool option_is_on(const char* name) const {
    const Json& config = subject_.lineage.config;
    return config.contains(name) && config[name] == true;
  }

  /// Whether two JSON files have the same values.
  static bool same_values(const fs::path& a, const fs::path& b) {
    if (!a.filename().string().ends_with(".json")) return false;
    try {
      return parse_python_json(read_file(a), a) == parse_python_json(read_file(b), b);
    } catch (const FormatError&) {
      return false;
    }
  }

  /// Whether calibrate threw its tuning away, so that the published weights are those before it.
  bool undone() const { return tuning_was_undone(subject_.lineage); }

  std::string difference_of(const StepRecord& recorded, const StepRecord& made, const std::string& field) const {
    const StepFormat& format = records_.format();
    return fmt::format("step {}: {} is {} in the record, and {} now", recorded.step, field, field_text(format, recorded, field),
                       field_text(format, made, field));
  }

  void fault_if(bool wrong, const std::string& what) {
    if (wrong) result_.faults.push_back(what);
  }

  void restart() {
    Replay ignored;
    session_ = {};  // frees its memory first
    session_ = begin(subject_, ignored);
    clean_ = true;
  }

  bool load_kept(int64_t steps_done, std::string& fault) {
    return load_kept_state(kept_, session_.run->trainer(), *session_.digester, records_.weights_after(steps_done),
                           records_.optimizer_after(steps_done), steps_done, fault);
  }

  void note_bad_state(int64_t steps_done, const std::string& fault) {
    if (bad_states_.insert(steps_done).second) result_.notes.push_back(fmt::format("a kept state is not used: {}", fault));
  }

  /// Brings the training to the last available state at or before `step`.
  void go_to(int64_t step, const std::vector<int64_t>& ends) {
    const int64_t current = clean_ && session_.at() <= step ? session_.at() : 0;
    for (auto end = std::upper_bound(ends.begin(), ends.end(), step); end != ends.begin() && *(end - 1) > current;) {
      --end;
      std::string fault;
      if (load_kept(*end, fault)) {
        clean_ = true;
        return;
      }
      if (fault.empty()) continue;
      clean_ = false;  // a part of the state may have been read
      note_bad_state(*end, fault);
    }
    if (!clean_ || session_.at() > step) restart();
  }

  /// Makes the steps up to the segment's end and compares all that is recorded of them. False at the first difference.
  bool equal_from_nearest(ReplayedSegment& segment, const std::vector<int64_t>& ends) {
    go_to(segment.first_step, ends);
    segment.from_step = session_.at();
    while (session_.at() < segment.end_step) {
      throw_if_interrupted();
      StepRecord made;
      try {
        made = with_terms_in_order(session_.run->step(), session_.run->terms(), records_.format().terms);
      } catch (const DivergenceError& e) {  // the recorded run did not diverge
        segment.difference = e.what();
        return false;
      }
      made.batch = session_.run->batch_root(made.step);
      const StepRecord& recorded = records_.steps()[size_t(made.step)];
      if (recorded.has_state()) {
        made.weights = session_.digester->weights();
        made.optimizer = session_.digester->optimizer();
      }
      if (const std::string field = first_difference(records_.format(), recorded, made); !field.empty()) {
        segment.difference = difference_of(recorded, made, field);
        if (made.step < segment.first_step) segment.difference += ", before this segment";
        return false;
      }
    }
    return segment.equal = true;
  }

  /// Compares published weights that were averaged, or rounded on saving, with the replayed ones, averaged and rounded the same way.
  void check_rounded_weights() {
    const Checkpoint published = open_checkpoint(subject_.path);
    if (undone()) return;
    Trainer& trainer = session_.run->trainer();
    bool rounded = false;
    trainer.swap_average();
    check_adapters();
    trainer.swap_adapters();
    const Digest ours = digest_rounded_as(session_.run->student(), *published.tensors, rounded);
    trainer.swap_adapters();
    trainer.swap_average();
    if (rounded || trainer.publishes_others())
      fault_if(ours != digest_of_checkpoint(subject_.path),
               fmt::format("the published weights are not the {} weights of the last step",
                           trainer.averages() ? "averaged" : trainer.adapts() ? "adapted" : "rounded"));
  }

  /// Whether two files have the same tensors up to the tolerance, as a share of the stored ones' norm.
  bool are_close(const fs::path& made_file, const fs::path& stored_file) const {
    const SafetensorsFile made(made_file), stored(stored_file);
    if (made.tensors().size() != stored.tensors().size()) return false;
    double difference = 0, size = 0;
    for (const TensorInfo& t : made.tensors()) {
      if (!stored.contains(t.name) || stored.info(t.name).shape != t.shape || stored.info(t.name).dtype != t.dtype) return false;
      const auto a = made.values<float>(t.name), b = stored.values<float>(t.name);
      for (size_t i = 0; i < a.size(); ++i) {
        difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
        size += double(b[i]) * b[i];
      }
    }
    return std::sqrt(difference) <= result_.tolerance * std::sqrt(size);  // false for NaN
  }

  /// Makes the adapters' files again from the state at the end.
  void check_adapters() {
    if (!session_.run->trainer().adapts()) return;
    const TempFolder work;
    OutputFolder made(work / "files");
    write_adapters(session_.run->student(), made);
    for (const FileRecord& file : made.records()) {
      const auto stored = std::ranges::find(subject_.lineage.files, file.name, &FileRecord::name);
      const bool there = stored != subject_.lineage.files.end();
      const bool equal = there && (stored->digest == file.digest || (result_.tolerance > 0 && file.name == kAdapterFile &&
                                                                     are_close(work / "files" / file.name, subject_.path / file.name)));
      result_.files_equal += equal;
      fault_if(!equal, fmt::format("{}: is not what the adapters of this training are", file.name));
    }
  }

  /// After the last step the trainer holds the counts of the whole training: kept states contain them, and their digest covers them.
  void check_counts() {
    if (undone() || subject_.from_scratch()) return;  // compared with the parent's; there is no router
    const TempFolder work;
    OutputFolder made(work / "files");
    write_trained_counts(*session_.run, subject_.student(), /*kept=*/true, made);
    const auto stored = std::ranges::find(subject_.lineage.files, kRouterCountsFile, &FileRecord::name);
    const bool there = stored != subject_.lineage.files.end();
    if (made.records().empty() && !there) return;
    result_.counts_equal = !made.records().empty() && there && made.records().front().digest == stored->digest;
    result_.files_equal += result_.counts_equal;
    fault_if(!result_.counts_equal, fmt::format("{}: is not what the router counts of this training are", kRouterCountsFile));
  }

  static std::vector<NamedTensor> copy_of(const Decoder& model) {
    std::vector<NamedTensor> copy = stored_weights(model);
    for (const AdapterPlace& place : adapter_places(model))
      copy.insert(copy.end(), {{place.module + ".lora_A", place.adapter.a.detach()}, {place.module + ".lora_B", place.adapter.b.detach()}});
    for (NamedTensor& t : copy) t.tensor = t.tensor.clone();
    return copy;
  }

  /// How far `made` is from the values that round to `stored`, elementwise; for F32 from `stored` itself.
  static at::Tensor distance(const at::Tensor& made, const at::Tensor& stored, DType dtype) {
    const at::Tensor apart = (made - stored).abs();
    if (dtype != DType::bf16 && dtype != DType::f16) return apart;
    const at::Tensor narrow = stored.to(scalar_type_of(dtype));
    const at::Tensor next = (narrow.view(at::kShort) + 1).view(scalar_type_of(dtype)).to(at::kFloat);  // larger in magnitude
    return (apart - (next - stored).abs() / 2).clamp_min(0);
  }

  /// The recorded weights after `steps_done` steps; nothing when they are missing or do not have the recorded digest.
  std::optional<std::vector<NamedTensor>> recorded_weights(int64_t steps_done) {
    if (steps_done == result_.steps) {
      const Checkpoint published = open_checkpoint(subject_.path);
      const Digest found = digest_of_checkpoint(subject_.path);
      const Json& metrics = subject_.lineage.metrics;
      if (found != records_.weights_after(steps_done) &&
          !(metrics.contains(kPublishedWeights) && metrics[kPublishedWeights] == found.hex()))
        return std::nullopt;
      return copy_of(Decoder(published));
    }
    std::string fault;
    if (!load_kept(steps_done, fault)) return std::nullopt;
    return copy_of(session_.run->student());
  }

  void measure(ReplayedSegment& segment, const std::vector<int64_t>& ends) {
    go_to(segment.first_step, ends);
    segment.from_step = session_.at();
    if (segment.from_step != segment.first_step) {  // segments begin where states are, so this state was damaged
      segment.difference = "the state at its beginning is damaged";
      return;
    }
    const std::vector<NamedTensor> before = copy_of(session_.run->student());
    while (session_.at() < segment.end_step) {
      throw_if_interrupted();
      try {
        session_.run->step();
      } catch (const DivergenceError& e) {
        segment.difference = e.what();
        return;
      }
    }
    const bool published_now = segment.end_step == result_.steps;
    if (published_now) {  // the state is not used any more
      session_.run->trainer().swap_average();
      check_adapters();
      session_.run->trainer().swap_adapters();
    }
    const std::vector<NamedTensor> made = copy_of(session_.run->student());
    const auto recorded = recorded_weights(segment.end_step);
    if (!recorded) {
      segment.difference = "the weights at its end do not have the recorded digest";
      return;
    }
    double difference = 0, movement = 0;
    std::optional<Checkpoint> published;
    if (published_now) published.emplace(open_checkpoint(subject_.path));
    for (size_t i = 0; i < made.size(); ++i) {
      const TensorInfo* stored = published ? published->tensors->find(made[i].name) : nullptr;
      const at::Tensor apart = distance(made[i].tensor, (*recorded)[i].tensor, stored ? stored->dtype : DType::f32);
      difference += apart.square().sum(at::kDouble).item<double>();
      movement += ((*recorded)[i].tensor - before[i].tensor).square().sum(at::kDouble).item<double>();
    }
    segment.weight_difference = difference == 0 ? 0
                                : movement > 0  ? std::sqrt(difference / movement)
                                                : std::numeric_limits<double>::max();
    segment.equal = segment.weight_difference <= result_.tolerance;
    if (!segment.equal)
      segment.difference = fmt::format("weights differ by {:.3g} of their movement, {:.3g} is allowed", segment.weight_difference,
                                       result_.tolerance);
  }

  const Subject& subject_;
  StepRecords records_;
  Session session_;
  Replay& result_;
  fs::path kept_;
  bool clean_ = true;  ///< the trainer's state is the recorded one, bit for bit
  std::set<int64_t> bad_states_;
};

/// The records, compared with the signed chain. Nothing when they are damaged.
std::optional<StepRecords> open_records(const Subject& subject, Replay& result) {
  if (!fs::exists(subject.path / kStepRecordsFile))
    throw UsageError(
        fmt::format("{}: has no step records (digest-every = 0, or an earlier version), so there are no segments to draw; "
                    "audit recompute replays all of it",
                    subject.path.string()));
  try {
    StepRecords records = read_step_records(subject.path);
    result.steps = int64_t(records.steps().size());
    result.chain = records.chain().hex();
    const Json& metrics = subject.lineage.metrics;
    if (!metrics.contains("step_chain") || metrics["step_chain"] != result.chain)
      result.faults.push_back("the end of the step records is not the signed chain");
    return records;
  } catch (const FormatError& e) {
    result.faults.push_back(text_within(e, subject.path));
    return std::nullopt;
  }
}

}  // namespace

Replay replay(const ReplayConfig& config, const fs::path& folder) {
  Replay result;
  result.tolerance = config.tolerance.value_or(0);
  result.seed = config.seed;
  if (config.segments > 0) draw_segments(1, 0, config.seed, {});  // refuses a bad seed before the long work
  const auto trusted = config.trust.key();
  const RunFolder run = load_run(folder, VerifyFiles::no, trusted.get());
  require_one_signer(run, trusted.get());
  auto subject = open_subject(run, choose(run, config), trusted.get(), result);
  if (!subject) return result;
  bind_files(config.file, *subject);
  auto records = open_records(*subject, result);
  if (!records) return result;

  // Sums inside libtorch may depend on the number of threads by their last bit.
  const int64_t threads = thread_count(), recorded = subject->lineage.threads;
  if (result.tolerance == 0 && recorded > 0 && recorded != threads) {
    result.notes.push_back(fmt::format("replayed with {} threads, the recorded number", recorded));
    set_thread_count(recorded);
  }
  prepare_torch();
  // Throws where this processor lacks what the training was made with: its weights could not be made again.
  const Compute compute = recorded_compute(subject->lineage.metrics, subject->path.string());
  use_compute(compute, 0);
  if (compute == Compute::bf16) result.notes.emplace_back("replayed with products in bf16, as recorded");
  Session session;
  try {
    session = begin(*subject, result);
  } catch (const IoError&) {
    throw;
  } catch (const Interrupted&) {
    throw;
  } catch (const Error& e) {  // inputs and configuration are those that were signed, so this is a finding
    result.faults.push_back(
        fmt::format("the training cannot be built from what was signed: {}", text_within(e, subject->path.parent_path())));
    return result;
  }
  const std::vector<int64_t> ends = records->segment_ends();
  Replayer replayer(*subject, std::move(*records), std::move(session), result);
  const bool comparable = replayer.check_all_steps();
  replayer.check_files();
  replayer.check_final_weights();
  const std::vector<int64_t> spans = result.tolerance > 0 ? replayer.ends_with_weights(ends) : ends;
  result.segments_total = int64_t(spans.size()) - 1;
  if (!comparable || config.segments == 0 || result.segments_total < 1) return result;
  const std::vector<int64_t> drawn = draw_segments(result.segments_total, config.segments, config.seed, result.root);
  if (result.tolerance > 0) replayer.within_tolerance(drawn, spans);
  else replayer.bitwise(drawn, spans);
  return result;
}

}  // namespace overproof
