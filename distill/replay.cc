#include "distill/replay.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/rng.h"
#include "distill/checkpoint.h"
#include "distill/training_run.h"
#include "provenance/run_folder.h"

namespace overproof {
namespace {

constexpr size_t kMostFaults = 20;

/// The trained artifact, its statement, and its parents, all of whose files were digested just now.
struct Subject {
  std::string name;
  fs::path path;
  Lineage lineage;
  std::map<std::string, InputArtifact> inputs;
};

void add_faults(const std::string& name, const ArtifactCheck& check, Replay& result) {
  for (const Fault& fault : check.faults)
    result.faults.push_back(fmt::format("{}{}{}: {}", name, fault.file.empty() ? "" : "/", fault.file, fault.what));
}

const ArtifactNode& choose(const RunFolder& run, const ReplayConfig& config) {
  const ArtifactNode* node = nullptr;
  std::vector<std::string> trained;
  for (const ArtifactNode& n : run.nodes) {
    if (run.single ? n.path == run.path : n.name == config.artifact) node = &n;
    if (n.lineage() && (n.lineage()->stage == "distill" || n.lineage()->stage == "calibrate")) trained.push_back(n.name);
  }
  if (!node)
    throw UsageError(fmt::format("{}: has no artifact '{}'; {}", run.path.string(), config.artifact,
                                 trained.empty()
                                     ? "nothing in it was trained"
                                     : fmt::format("trained were {}; name one with --artifact", fmt::join(trained, ", "))));
  if (!node->lineage() || (node->lineage()->stage != "distill" && node->lineage()->stage != "calibrate"))
    throw UsageError(fmt::format(
        "{}: was not trained by distill or calibrate, so it has no steps; audit recompute makes other artifacts again",
        node->path.string()));
  return *node;
}

/// Nothing when a file is not what was signed: then there is nothing to go on from.
std::optional<Subject> open_subject(const RunFolder& run, const ArtifactNode& node, const PublicKey* trusted, Replay& result) {
  Subject subject{node.name, node.path, *node.lineage(), {}};
  result.artifact = node.name;
  result.root = subject.lineage.root;
  add_faults(node.name, check_artifact(node.path, VerifyFiles::yes, trusted), result);
  for (const auto& [slot, index] : node.parents) {
    const Dependency& wanted = subject.lineage.inputs.at(slot);
    if (index < 0)
      throw UsageError(fmt::format("{}: was trained with '{}' (as '{}', sha256:{}), which is not beside it", node.path.string(),
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
  from_json(options, lineage.config, origin.string());
  for (const Option& o : options)
    if (!lineage.config.contains(o.name))
      result.notes.push_back(fmt::format("the statement does not say '{}': taken as {}", o.name, o.text()));
  return config;
}

/// The training, ready to make its first step, and what digests its state.
struct Session {
  std::unique_ptr<TrainingRun> run;
  std::unique_ptr<StateDigester> digester;
  int64_t at() const { return run->trainer().steps_done(); }
};

Session begin(const Subject& subject, Replay& result) {
  Session session;
  const Inputs inputs(subject.inputs);
  const fs::path origin = subject.path / "claims.jsonl";
  if (subject.lineage.stage == "distill")
    session.run = std::make_unique<Distillation>(recorded_config<DistillConfig>(subject.lineage, origin, result), inputs);
  else
    session.run = std::make_unique<RouterCalibration>(recorded_config<CalibrateConfig>(subject.lineage, origin, result), inputs);
  session.digester = std::make_unique<StateDigester>(session.run->student(), session.run->trainer());
  return session;
}

/// A record whose computed numbers are those of `from`: what is left to compare follows from inputs and configuration alone.
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

  /// Everything that needs no training. False when the records are of another kind of training, so that no step can be compared.
  bool check_all_steps() {
    const StepFormat& format = records_.format();
    if (format.ranks != 1) {
      result_.faults.push_back(fmt::format("{} processes are recorded to have trained together, but the statement names one", format.ranks));
      return false;
    }
    if (const std::vector<std::string> terms = session_.run->terms(); !same_terms(terms)) {
      result_.faults.push_back(fmt::format("the step records have the loss terms {}, the configuration has {}",
                                           fmt::join(format.terms, ", "), fmt::join(terms, ", ")));
      return false;
    }
    fault_if(session_.digester->weights() != records_.initial_weights(),
             "the step records do not begin with the weights of the parent");
    const int64_t planned = session_.run->steps(), steps = result_.steps;
    fault_if(planned != steps, fmt::format("{} steps are recorded, but the configuration asks for {}", steps, planned));
    Progress progress("check", steps, "steps");
    int64_t unequal = 0;
    for (int64_t s = 0; s < steps; ++s) {
      throw_if_interrupted();
      const StepRecord& recorded = records_.steps()[size_t(s)];
      StepRecord plan = with_results_of(session_.run->plan(s), recorded);
      plan.batch = session_.run->batch_root(s);
      if (const std::string field = first_difference(format, recorded, plan); !field.empty()) {
        if (++unequal <= 3) result_.faults.push_back(difference_of(recorded, plan, field));
      } else {
        ++result_.steps_planned_equal;
      }
      progress.update(s + 1);
    }
    if (unequal > 3) result_.faults.push_back(fmt::format("and {} more steps like these", unequal - 3));
    return true;
  }

  /// The weights that were published against those that the records end with.
  void check_final_weights() {
    const Checkpoint published = open_checkpoint(subject_.path);
    const auto& infos = published.tensors->tensors();
    const bool exact = std::all_of(infos.begin(), infos.end(), [](const TensorInfo& t) { return t.dtype == DType::f32; });
    if (!exact) {
      result_.notes.push_back(
          "the published weights are rounded, so they are compared only after the last segment was made again");
      return;
    }
    const Json& metrics = subject_.lineage.metrics;
    const bool undone = metrics.contains("tuning_kept") && metrics["tuning_kept"] == false;
    const Digest& wanted = undone ? records_.initial_weights() : records_.weights_after(result_.steps);
    fault_if(digest_of_checkpoint(subject_.path) != wanted,
             undone ? "the published weights are not those before the tuning, which was undone"
                    : "the published weights are not those that the last step record names");
  }

  void bitwise(const std::vector<int64_t>& drawn, const std::vector<int64_t>& ends) {
    Progress progress("replay", int64_t(drawn.size()), "segments");
    for (const int64_t number : drawn) {
      ReplayedSegment segment{number, ends[size_t(number)], ends[size_t(number) + 1]};
      if (!equal_from_nearest(segment, ends)) clean_ = false;
      result_.segments.push_back(segment);
      progress.update(int64_t(result_.segments.size()), segment.equal ? "equal" : "NOT equal");
    }
    if (clean_ && session_.at() == result_.steps && result_.steps > 0) check_rounded_weights();
  }

  /// Where the weights of the run are there to be compared: at the beginning, at kept states, at the end.
  std::vector<int64_t> ends_with_weights(const std::vector<int64_t>& ends) {
    std::vector<int64_t> list;
    for (const int64_t end : ends) {
      std::string fault;
      if (end == 0 || end == result_.steps || load_kept(end, fault)) list.push_back(end);
      else if (!fault.empty()) note_bad_state(end, fault);
    }
    clean_ = list.size() <= 2 && bad_states_.empty();  // else what was read last is still there
    return list;
  }

  void within_tolerance(const std::vector<int64_t>& drawn, const std::vector<int64_t>& ends) {
    Progress progress("replay", int64_t(drawn.size()), "segments");
    for (const int64_t number : drawn) {
      ReplayedSegment segment{number, ends[size_t(number)], ends[size_t(number) + 1]};
      measure(segment, ends);
      clean_ = false;  // the state is not exactly the recorded one: the next is taken up anew
      result_.segments.push_back(segment);
      progress.update(int64_t(result_.segments.size()), fmt::format("difference {:.2g}", segment.weight_difference));
    }
  }

 private:
  /// Version 1 has a cross-entropy of 0 also where none was computed.
  bool same_terms(const std::vector<std::string>& terms) const {
    const std::vector<std::string>& recorded = records_.format().terms;
    if (records_.format().version > 1) return terms == recorded;
    return std::ranges::all_of(terms, [&](const std::string& name) { return std::ranges::find(recorded, name) != recorded.end(); });
  }

  std::string difference_of(const StepRecord& recorded, const StepRecord& made, const std::string& field) const {
    const StepFormat& format = records_.format();
    return fmt::format("step {}: {} is recorded as {}, and comes out as {}", recorded.step, field,
                       field_text(format, recorded, field), field_text(format, made, field));
  }

  void fault_if(bool wrong, const std::string& what) {
    if (wrong) result_.faults.push_back(what);
  }

  void begin_anew() {
    Replay ignored;
    session_ = {};  // its memory is given back first
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

  /// Brings the training to a recorded state at or before `step`, the last there is.
  void take_up(int64_t step, const std::vector<int64_t>& ends) {
    const int64_t current = clean_ && session_.at() <= step ? session_.at() : 0;
    for (auto end = std::upper_bound(ends.begin(), ends.end(), step); end != ends.begin() && *(end - 1) > current;) {
      --end;
      std::string fault;
      if (load_kept(*end, fault)) {
        clean_ = true;
        return;
      }
      if (fault.empty()) continue;
      clean_ = false;  // half a state may have been read
      note_bad_state(*end, fault);
    }
    if (!clean_ || session_.at() > step) begin_anew();
  }

  /// Makes steps up to `end` and compares all that is recorded of them. False at the first difference.
  bool equal_from_nearest(ReplayedSegment& segment, const std::vector<int64_t>& ends) {
    take_up(segment.first_step, ends);
    segment.from_step = session_.at();
    while (session_.at() < segment.end_step) {
      throw_if_interrupted();
      StepRecord made;
      try {
        made = with_terms_in_order(session_.run->step(), session_.run->terms(), records_.format().terms);
      } catch (const UsageError& e) {  // it diverges: what was recorded did not
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
        if (made.step < segment.first_step) segment.difference += ", on the way to this segment";
        return false;
      }
    }
    return segment.equal = true;
  }

  /// The published weights where they were rounded on saving: ours are rounded the same way.
  void check_rounded_weights() {
    const Checkpoint published = open_checkpoint(subject_.path);
    const Json& metrics = subject_.lineage.metrics;
    if (metrics.contains("tuning_kept") && metrics["tuning_kept"] == false) return;
    std::vector<TensorDigest> ours;
    bool rounded = false;
    for (const NamedTensor& t : stored_weights(session_.run->student())) {
      const TensorInfo* info = published.tensors->find(t.name);
      const bool round = info && info->dtype == DType::bf16;
      rounded |= round;
      const at::Tensor values = round ? t.tensor.to(at::kBFloat16).to(at::kFloat) : t.tensor;
      ours.push_back({t.name, DType::f32, values.sizes().vec(),
                      sha256(std::span(static_cast<const uint8_t*>(values.const_data_ptr()), size_t(values.nbytes())))});
    }
    if (rounded)
      fault_if(digest_of_tensors(std::move(ours)) != digest_of_checkpoint(subject_.path),
               "the published weights are not those of the last step, rounded");
  }

  static std::vector<NamedTensor> copy_of(const Decoder& model) {
    std::vector<NamedTensor> copy = stored_weights(model);
    for (NamedTensor& t : copy) t.tensor = t.tensor.clone();
    return copy;
  }

  /// The recorded weights after `steps_done` steps; nothing when they are not there, or not what the record says.
  std::optional<std::vector<NamedTensor>> recorded_weights(int64_t steps_done) {
    if (steps_done == result_.steps) {
      if (digest_of_checkpoint(subject_.path) != records_.weights_after(steps_done)) return std::nullopt;
      return copy_of(Decoder(open_checkpoint(subject_.path)));
    }
    std::string fault;
    if (!load_kept(steps_done, fault)) return std::nullopt;
    return copy_of(session_.run->student());
  }

  void measure(ReplayedSegment& segment, const std::vector<int64_t>& ends) {
    take_up(segment.first_step, ends);
    segment.from_step = session_.at();
    if (segment.from_step != segment.first_step) {  // ends are where states are, so a state was there but did not hold
      segment.difference = "the state it begins with does not hold";
      return;
    }
    const std::vector<NamedTensor> before = copy_of(session_.run->student());
    while (session_.at() < segment.end_step) {
      throw_if_interrupted();
      try {
        session_.run->step();
      } catch (const UsageError& e) {
        segment.difference = e.what();
        return;
      }
    }
    const std::vector<NamedTensor> made = copy_of(session_.run->student());
    const auto recorded = recorded_weights(segment.end_step);
    if (!recorded) {
      segment.difference = "the weights it ends with are not what its record names";
      return;
    }
    double difference = 0, movement = 0;
    for (size_t i = 0; i < made.size(); ++i) {
      difference += (made[i].tensor - (*recorded)[i].tensor).square().sum(at::kDouble).item<double>();
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

double parse_tolerance(const std::string& text) {
  if (text == "bitwise") return 0;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value > 0 && value < 1))
    throw UsageError(fmt::format("option 'tolerance': '{}' is neither bitwise nor a number between 0 and 1", text));
  return value;
}

/// The records, held against the signed chain. Nothing when they are broken.
std::optional<StepRecords> open_records(const Subject& subject, Replay& result) {
  if (!fs::exists(subject.path / kStepRecordsFile))
    throw UsageError(
        fmt::format("{}: keeps no step records (digest-every = 0, or an earlier version), so there are no segments to draw; "
                    "audit recompute makes it again whole",
                    subject.path.string()));
  try {
    StepRecords records = read_step_records(subject.path);
    result.steps = int64_t(records.steps().size());
    result.chain = records.chain().hex();
    const Json& metrics = subject.lineage.metrics;
    if (!metrics.contains("step_chain") || metrics["step_chain"] != result.chain)
      result.faults.push_back("the step records do not end in the chain that was signed");
    return records;
  } catch (const FormatError& e) {
    result.faults.push_back(e.what());
    return std::nullopt;
  }
}

}  // namespace

std::vector<int64_t> draw_segments(int64_t total, int64_t count, std::string_view seed, const Digest& root) {
  Sha256 hash;
  hash.update("overproof replay draw v1");
  if (seed.empty())
    throw UsageError("option 'seed' is missing: take it from public randomness, drawn after the run was published");
  for (char c : seed) {
    if (c >= 'A' && c <= 'F') c = char(c - 'A' + 'a');
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')) || seed.size() > 1024)
      throw UsageError(fmt::format("option 'seed': '{}' is not hex digits", seed.substr(0, 80)));
    hash.update(&c, 1);
  }
  hash.update(root.bytes.data(), root.bytes.size());
  const Digest key = hash.finish();
  uint64_t word = 0;
  for (int i = 7; i >= 0; --i) word = word << 8 | key.bytes[size_t(i)];
  Rng rng(word, "audit/replay");
  // Floyd's sampling: each set of that size is equally likely, and nothing as long as the list is needed.
  std::set<int64_t> drawn;
  for (int64_t j = total - std::min(count, total); j < total; ++j)
    if (const int64_t pick = int64_t(rng.below(uint64_t(j) + 1)); !drawn.insert(pick).second) drawn.insert(j);
  return {drawn.begin(), drawn.end()};
}

double caught_exactly(int64_t total, int64_t drawn, int64_t forged) {
  double missed = 1;
  for (int64_t i = 0; i < drawn && missed > 0; ++i) missed *= std::max(0.0, double(total - forged - i)) / double(total - i);
  return 1 - missed;
}

bool Replay::holds() const {
  return faults.empty() && std::all_of(segments.begin(), segments.end(), [](const ReplayedSegment& s) { return s.equal; });
}

Json Replay::to_json() const {
  Json list = Json::array(), odds = Json::array();
  for (const ReplayedSegment& s : segments) {
    Json item = {{"segment", s.number},
                 {"first_step", s.first_step},
                 {"end_step", s.end_step},
                 {"from_step", s.from_step},
                 {"equal", s.equal}};
    if (!s.difference.empty()) item["difference"] = s.difference;
    if (s.weight_difference >= 0) item["weight_difference"] = s.weight_difference;
    list.push_back(item);
  }
  const int64_t drawn = int64_t(segments.size());
  for (const double f : {0.01, 0.05, 0.1}) {
    const int64_t forged = std::max<int64_t>(1, std::llround(std::ceil(f * double(segments_total) - 1e-9)));
    odds.push_back({{"forged_fraction", f},
                    {"caught_at_least", 1 - std::pow(1 - f, double(drawn))},
                    {"forged_segments", forged},
                    {"caught", segments_total > 0 ? caught_exactly(segments_total, drawn, forged) : 0.0}});
  }
  return {{"artifact", artifact},
          {"root", "sha256:" + root.hex()},
          {"seed", seed},
          {"holds", holds()},
          {"mode", tolerance > 0 ? "tolerance" : "bitwise"},
          {"tolerance", tolerance},
          {"steps", steps},
          {"steps_planned_equal", steps_planned_equal},
          {"step_chain", chain},
          {"segments_total", segments_total},
          {"segments", list},
          {"odds", odds},
          {"faults", faults},
          {"notes", notes}};
}

Replay replay(const ReplayConfig& config, const fs::path& folder) {
  Replay result;
  result.tolerance = parse_tolerance(config.tolerance);
  result.seed = config.seed;
  if (config.segments > 0) draw_segments(1, 0, config.seed, {});  // a bad seed is said before anything long begins
  const auto trusted = config.trust.key();
  const RunFolder run = load_run(folder, VerifyFiles::no, trusted.get());
  const auto subject = open_subject(run, choose(run, config), trusted.get(), result);
  if (!subject) return result;
  auto records = open_records(*subject, result);
  if (!records) return result;

  // Sums inside libtorch may depend on the number of threads by their last bit.
  const int64_t threads = thread_count(), recorded = subject->lineage.threads;
  if (result.tolerance == 0 && recorded > 0 && recorded != threads) {
    result.notes.push_back(fmt::format("made again with {} threads, as it was made", recorded));
    set_thread_count(recorded);
  }
  prepare_torch();
  Session session;
  try {
    session = begin(*subject, result);
  } catch (const IoError&) {
    throw;
  } catch (const Interrupted&) {
    throw;
  } catch (const Error& e) {  // inputs and configuration are what was signed, so this is a finding
    result.faults.push_back(fmt::format("the training cannot be built from what is signed: {}", e.what()));
    return result;
  }
  const std::vector<int64_t> ends = records->segment_ends();
  Replayer replayer(*subject, std::move(*records), std::move(session), result);
  const bool comparable = replayer.check_all_steps();
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
