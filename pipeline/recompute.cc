#include "pipeline/recompute.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "audit/content.h"
#include "core/config.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/printable.h"
#include "core/temp_folder.h"
#include "distill/recorded_choice.h"
#include "model/compute.h"
#include "pipeline/run_stage.h"
#include "pipeline/version.h"
#include "provenance/lineage_kinds.h"
#include "provenance/outside.h"
#include "provenance/run_folder.h"
#include "provenance/signers.h"
#include "records/step_log.h"

namespace overproof {
namespace {

using Status = Recomputed::Status;

/// Sets the number of threads, and puts the earlier number back.
class ThreadCount {
 public:
  explicit ThreadCount(int64_t threads) : before_(thread_count()) {
    if (threads > 0) set_thread_count(threads);
  }
  ~ThreadCount() { set_thread_count(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int64_t before_;
};

/// The options of `instance` as they were when an artifact was made. Throws FormatError for one that the stage does not have.
void configure(const Lineage& lineage, const StageSpec& spec, StageInstance& instance) {
  Json options = lineage.config;
  for (const Slot& slot : spec.slots)
    if (slot.kind == Slot::Kind::file) options.erase(slot.name + "-sha256");  // content, not an option
  // What "auto" was on the machine that made the artifact; here it may be another.
  if (options.value("compute", Json()) == "auto" && lineage.metrics.contains(kComputeMetric))
    options["compute"] = lineage.metrics[kComputeMetric];
  if (spec.name == "calibrate") use_recorded_choice(options, lineage.metrics);
  Options list = instance.options();
  from_json(list, options, "the statement of " + lineage.name);
}

/// A training without step records, which audit replay has no segments of.
bool is_unsampled(const ArtifactNode& node) {
  return node.kind()->shown_by == ShownBy::replay &&
         std::ranges::none_of(node.lineage()->files, [](const FileRecord& file) { return file.name == kStepRecordsFile; });
}

/// Whether this artifact of the run is to be made again.
bool is_selected(const RecomputeConfig& config, const RunFolder& run, const ArtifactNode& node, const std::string& stage) {
  const auto listed = [&](std::string_view name) {
    return std::find(config.stages.begin(), config.stages.end(), name) != config.stages.end();
  };
  if (run.single) return node.path == run.path;
  if (config.stages.empty()) return node.kind() && (node.kind()->shown_by == ShownBy::recompute || is_unsampled(node));
  return listed(stage) || listed("all");
}

class Recomputer {
 public:
  Recomputer(const RecomputeConfig& config, const RunFolder& run, const PublicKey* trusted)
      : config_(config), run_(run), trusted_(trusted), work_(config.work.empty() ? fs::temp_directory_path() : config.work) {
    for (const std::string& s : config.stages)
      if (s != "all") find_stage(s, "option 'stages'");
  }

  Recomputed make_again(const ArtifactNode& node) {
    const Lineage& lineage = *node.lineage();
    Recomputed result{node.name, lineage.stage, lineage.root, Status::not_made, {}, lineage.statement};
    StageRequest request;
    std::unique_ptr<StageInstance> instance;
    try {
      request.spec = &find_stage(lineage.stage, node.name);
      instance = request.spec->make();
      request.instance = instance.get();
      if (!is_asked(node, *request.spec, result)) return result;
      const auto only_recorded = [&] {
        result.details.push_back("is what a server answered, which is recorded only; nothing is sent to make it again");
        return result;
      };
      if (request.spec->asks_server) return only_recorded();
      if (!bind_inputs(node, *request.spec, request, result)) return result;
      configure(lineage, *request.spec, *instance);
      if (instance->asks_server()) return only_recorded();
    } catch (const UsageError& e) {  // a stage that this version does not have
      result.details.push_back(e.what());
      return result;
    } catch (const FormatError& e) {  // an option that it does not have
      result.details.push_back(e.what());
      return result;
    }
    if (!is_sound(node)) {
      result.status = Status::differs;
      result.details.push_back("its files do not match its statement; see audit verify");
      return result;
    }
    request.out = work_.path() / node.name;
    compare(node, request, result);
    work_.empty();
    return result;
  }

  void require_all_files_used() const {
    for (const auto& [slot, path] : config_.file)
      if (!used_.contains(slot))
        throw UsageError(fmt::format("option 'file': no artifact that was made again has an input '{}'", slot));
  }

 private:
  bool is_asked(const ArtifactNode& node, const StageSpec& spec, Recomputed& result) const {
    if (is_selected(config_, run_, node, spec.name)) return true;
    const ShownBy shown_by = node.kind() ? node.kind()->shown_by : ShownBy::nothing;
    const char* sampled = shown_by == ShownBy::rows     ? "; audit rows samples it"
                          : shown_by == ShownBy::replay ? "; audit replay samples it"
                                                        : "";
    result.status = Status::left;
    result.details.push_back(fmt::format("'{}' is not among --stages{}", spec.name, sampled));
    return false;
  }

  /// Binds verified parents, and files from outside that have the recorded digests.
  bool bind_inputs(const ArtifactNode& node, const StageSpec& spec, StageRequest& request, Recomputed& result) {
    for (const auto& [slot, input] : node.lineage()->inputs) {
      const int parent = node.parents.at(slot);
      if (parent < 0) {
        result.details.push_back(fmt::format("its input '{}' ({}, sha256:{}) is missing", slot, input.name, input.root.hex()));
        return false;
      }
      if (!is_sound(run_.nodes[size_t(parent)])) {
        result.details.push_back(
            fmt::format("its input '{}' does not match its statement; see audit verify", run_.nodes[size_t(parent)].name));
        return false;
      }
      request.inputs[slot] = run_.nodes[size_t(parent)].path;
    }
    for (const Slot& slot : spec.slots) {
      if (slot.kind != Slot::Kind::file) continue;
      const Json& config = node.lineage()->config;
      const auto signed_digest = config.find(slot.name + "-sha256");
      if (signed_digest == config.end()) continue;  // was not given
      const std::string recorded = signed_digest->is_string() ? signed_digest->get<std::string>() : dump_text(*signed_digest);
      const std::string own = node.name + "." + slot.name;
      const auto given = config_.file.contains(own) ? config_.file.find(own) : config_.file.find(slot.name);
      if (given == config_.file.end()) {
        if (node.kind()->role == Role::corpus) return check_own_texts(node, slot.name, recorded, result), false;
        result.details.push_back(fmt::format("its input '{}' comes from outside (sha256:{}); give it with --file {}=PATH",
                                             slot.name, recorded, slot.name));
        return false;
      }
      used_.insert(given->first);
      const auto files = given_files(node, spec);
      if (config.contains(slot.hidden_by + "-sha256") && !files.contains(slot.hidden_by)) {
        result.details.push_back(fmt::format("its input '{}' is recorded under the secret '{}'; give that, too, with --file {}=PATH",
                                             slot.name, slot.hidden_by, slot.hidden_by));
        return false;
      }
      const Digest root = scan_input(given->second).root;
      if (const std::string found = recorded_outside(spec, slot.name, root, files);
          found != recorded && root.hex() != recorded) {
        result.status = Status::differs;
        result.details.push_back(fmt::format("{}: is sha256:{}, but '{}' was made from sha256:{}",
                                             fs::path(given->second).filename().string(), found, node.name, recorded));
        return false;
      }
      request.inputs[slot.name] = given->second;
    }
    return true;
  }

  /// The files from outside that were given for the slots of an artifact.
  std::map<std::string, fs::path> given_files(const ArtifactNode& node, const StageSpec& spec) const {
    std::map<std::string, fs::path> files;
    for (const Slot& slot : spec.slots)
      for (const std::string& name : {slot.name, node.name + "." + slot.name})
        if (const auto given = config_.file.find(name); given != config_.file.end()) files[slot.name] = given->second;
    return files;
  }

  /// A corpus without its source: all that follows from the texts in it is made again from them.
  void check_own_texts(const ArtifactNode& node, const std::string& slot, const std::string& recorded, Recomputed& result) {
    if (!is_sound(node)) {
      result.status = Status::differs;
      result.details.emplace_back("its files do not match its statement; see audit verify");
      return;
    }
    const ContentCheck check = check_content(run_, node, nullptr);
    for (const Fault& fault : check.faults)
      result.details.push_back(fmt::format("{}{}{}", fault.file, fault.file.empty() ? "" : ": ", fault.what));
    result.status = check.faults.empty() ? Status::left : Status::differs;
    result.details.push_back(
        fmt::format("its tokens, table, licences, sums and trees were made again from the texts in it. Its input '{}' comes from outside "
                    "(sha256:{}); with --file {}=PATH the whole artifact is made again",
                    slot, recorded, slot));
  }

  bool is_sound(const ArtifactNode& node) {
    const auto known = sound_.find(node.path);
    if (known != sound_.end()) return known->second;
    return sound_[node.path] = check_artifact(node.path, VerifyFiles::yes, trusted_).faults.empty();
  }

  void compare(const ArtifactNode& node, const StageRequest& request, Recomputed& result) {
    // The number of threads may change the last bit of sums inside libtorch.
    const ThreadCount threads(node.lineage()->threads);
    try {
      run_stage(request, key_);
    } catch (const IoError&) {
      throw;
    } catch (const Interrupted&) {
      throw;
    } catch (const Error& e) {  // the statement claims that it was made
      result.status = Status::differs;
      result.details.push_back(
          fmt::format("cannot be made again from the inputs in its statement: {}", text_within(e, run_.path)));
      return;
    }
    const Lineage& signed_one = *node.lineage();
    const auto made = check_artifact(request.out, VerifyFiles::no, nullptr).lineage;
    OVERPROOF_CHECK(made.has_value());
    std::map<std::string, const FileRecord*> files;
    for (const FileRecord& f : made->files) files[f.name] = &f;
    for (const FileRecord& f : signed_one.files) {
      const auto found = files.find(f.name);
      if (found == files.end()) result.details.push_back(fmt::format("{}: is signed, but was not made again", f.name));
      else if (found->second->digest != f.digest)
        result.details.push_back(
            fmt::format("{}: signed as sha256:{}, made again as sha256:{}", f.name, f.digest.hex(), found->second->digest.hex()));
      if (found != files.end()) files.erase(found);
    }
    for (const auto& [name, file] : files)
      result.details.push_back(fmt::format("{}: was made again, but is not in the artifact", name));
    for (const auto& [name, value] : made->metrics.items())
      if (!signed_one.metrics.contains(name) || signed_one.metrics[name] != value)
        result.details.push_back(fmt::format("metric '{}': signed as {}, made again as {}", name,
                                             signed_one.metrics.value(name, Json()).dump().substr(0, 80),
                                             value.dump().substr(0, 80)));
    for (const auto& [name, value] : signed_one.metrics.items())
      if (!made->metrics.contains(name))
        result.details.push_back(fmt::format("metric '{}': is signed, but was not made again", name));
    if (made->kind != signed_one.kind)
      result.details.push_back(fmt::format("lineage kind: signed as '{}', the stage makes '{}'", signed_one.kind, made->kind));
    result.status = result.details.empty() && made->root == signed_one.root ? Status::equal : Status::differs;
  }

  const RecomputeConfig& config_;
  const RunFolder& run_;
  const PublicKey* trusted_;
  TempFolder work_;
  std::set<std::string> used_;
  std::map<fs::path, bool> sound_;
  Key key_ = Key::generate();  // of artifacts that are compared and deleted
};

/// A note when another build made the run: it may round differently, so a difference need not be a forgery.
std::optional<std::string> other_build(const RunFolder& run) {
  const auto ours = builder_versions();
  for (const ArtifactNode& node : run.nodes)
    if (node.lineage() && !node.check.foreign)
      for (const auto& [name, version] : node.lineage()->builder)
        if (const auto mine = ours.find(name); mine != ours.end() && mine->second != version)
          return fmt::format("'{}' was made with {} {}, this program has {}: the bytes may differ", node.name, name, version,
                             mine->second);
  return std::nullopt;
}

const char* name_of(Status status) {
  return status == Status::equal     ? "equal"
         : status == Status::differs ? "differs"
         : status == Status::left    ? "left"
                                     : "not made again";
}

std::string text_of(const Recomputation& r) {
  std::string text;
  std::map<Status, int> counts;
  for (const Recomputed& a : r.artifacts) {
    ++counts[a.status];
    text += fmt::format("{:<15} {:<16} {:<12} sha256:{}\n", name_of(a.status), printable(a.artifact), printable(a.stage),
                        a.root.hex());
    for (const std::string& line : a.details) text += "                " + printable(line) + "\n";
  }
  for (const std::string& note : r.notes) text += "note: " + printable(note) + "\n";
  text += fmt::format("{} made again byte for byte, {} differ, {} could not be made again, {} left to other checks\n",
                      counts[Status::equal], counts[Status::differs], counts[Status::not_made], counts[Status::left]);
  if (counts[Status::not_made] > 0) text += "Nothing is shown of what could not be made again, so the result does not hold.\n";
  return text;
}

}  // namespace

bool Recomputation::holds() const {
  return std::all_of(artifacts.begin(), artifacts.end(),
                     [](const Recomputed& a) { return a.status == Status::equal || a.status == Status::left; });
}

Json Recomputation::to_json() const {
  Json list = Json::array();
  for (const Recomputed& a : artifacts)
    list.push_back({{"artifact", a.artifact},
                    {"stage", a.stage},
                    {"root", "sha256:" + a.root.hex()},
                    {"status", name_of(a.status)},
                    {"details", a.details}});
  return {{"holds", holds()}, {"artifacts", list}, {"notes", notes}};
}

Recomputation recompute(const RecomputeConfig& config, const fs::path& folder) {
  const auto trusted = config.trust.key();
  const RunFolder run = load_run(folder, VerifyFiles::no, trusted.get());
  require_one_signer(run, trusted.get());
  Recomputation result;
  if (const auto note = other_build(run)) result.notes.push_back(*note);
  Recomputer recomputer(config, run, trusted.get());
  for (const ArtifactNode& node : run.nodes) {
    throw_if_interrupted();
    if (run.single && node.path != run.path) continue;
    if (!node.lineage() || node.check.foreign || !node.check.faults.empty()) {
      result.artifacts.push_back({node.name,
                                  "",
                                  node.lineage() ? node.lineage()->root : Digest{},
                                  Status::not_made,
                                  {node.check.foreign ? "is signed by another tool: its statement has no stage"
                                                      : "its statement does not hold; see audit verify"}});
      continue;
    }
    result.artifacts.push_back(recomputer.make_again(node));
  }
  recomputer.require_all_files_used();
  return result;
}

Needs recompute_needs(const RecomputeConfig& config, const fs::path& folder) {
  const RunFolder run = load_run(folder, VerifyFiles::no, nullptr);
  for (const ArtifactNode& node : run.nodes) {
    if (!node.lineage() || node.check.foreign || !is_selected(config, run, node, node.lineage()->stage)) continue;
    try {
      const StageSpec& spec = find_stage(node.lineage()->stage, node.name);
      const auto instance = spec.make();
      configure(*node.lineage(), spec, *instance);
      if (needs_of(spec, *instance) == Needs::torch) return Needs::torch;
    } catch (const UsageError&) {  // recompute() reports it as not made
    } catch (const FormatError&) {
    }
  }
  return Needs::nothing;
}

Answer audit_recompute(const RecomputeConfig& config, const fs::path& folder) {
  const AuditRecorder recorder(config.record, folder);
  const Recomputation result = recompute(config, folder);
  AuditRecord record{"recompute", {}, result.to_json()};
  for (const Recomputed& a : result.artifacts) record.subjects.push_back({a.artifact, a.root, a.statement});
  const fs::path place = fs::canonical(folder);
  const std::string line = recorder.write(run_of(place) == place ? "run" : place.filename().string(), record);
  return with_signers({result.to_json(), text_of(result) + line, result.holds() ? 0 : 4}, folder, config.trust);
}

}  // namespace overproof
