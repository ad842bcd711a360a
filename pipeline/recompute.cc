#include "pipeline/recompute.h"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/config.h"
#include "core/parallel.h"
#include "core/printable.h"
#include "core/temp_folder.h"
#include "pipeline/run_stage.h"
#include "pipeline/version.h"
#include "provenance/run_folder.h"

namespace overproof {
namespace {

using Status = Recomputed::Status;

class Recomputer {
 public:
  Recomputer(const RecomputeConfig& config, const RunFolder& run, const PublicKey* trusted)
      : run_(run),
        trusted_(trusted),
        work_(config.work.empty() ? fs::temp_directory_path() : fs::path(config.work)),
        stages_(split_list(config.stages)) {
    for (const std::string& s : stages_)
      if (s != "all") find_stage(s, "option 'stages'");
    for (const std::string& item : split_list(config.file)) {
      const size_t equals = item.find('=');
      if (equals == std::string::npos || equals == 0) throw UsageError(fmt::format("option 'file': '{}' is not SLOT=PATH", item));
      files_[item.substr(0, equals)] = item.substr(equals + 1);
    }
  }

  Recomputed make_again(const ArtifactNode& node) {
    const Lineage& lineage = *node.lineage();
    Recomputed result{node.name, lineage.stage, lineage.root, Status::not_made, {}};
    StageRequest request;
    std::unique_ptr<StageInstance> instance;
    try {
      request.spec = &find_stage(lineage.stage, node.name);
      instance = request.spec->make();
      request.instance = instance.get();
      if (!is_asked(node, *request.spec, result) || !bind_inputs(node, *request.spec, request, result)) return result;
      configure(lineage, *request.spec, *instance);
    } catch (const UsageError& e) {  // of a stage or an option that this build does not know
      result.details.push_back(e.what());
      return result;
    }
    if (!is_sound(node)) {
      result.status = Status::differs;
      result.details.push_back("its files are not those that were signed; see audit verify");
      return result;
    }
    request.out = work_.path() / node.name;
    compare(node, request, result);
    work_.empty();
    return result;
  }

  void require_all_files_used() const {
    for (const auto& [slot, path] : files_)
      if (!used_.contains(slot))
        throw UsageError(fmt::format("option 'file': nothing that was made again takes an input '{}'", slot));
  }

 private:
  bool is_asked(const ArtifactNode& node, const StageSpec& spec, Recomputed& result) const {
    const bool listed =
        std::count(stages_.begin(), stages_.end(), spec.name) + std::count(stages_.begin(), stages_.end(), "all") > 0;
    if (listed || (run_.single && node.path == run_.path)) return true;
    const char* sampled = spec.name == "teach"                                 ? "; audit rows samples it"
                          : spec.name == "distill" || spec.name == "calibrate" ? "; audit replay samples it"
                                                                               : "";
    result.details.push_back(fmt::format("'{}' is not among --stages{}", spec.name, sampled));
    return false;
  }

  /// Verified parents, and files from outside whose digests are the recorded ones.
  bool bind_inputs(const ArtifactNode& node, const StageSpec& spec, StageRequest& request, Recomputed& result) {
    for (const auto& [slot, input] : node.lineage()->inputs) {
      const int parent = node.parents.at(slot);
      if (parent < 0) {
        result.details.push_back(fmt::format("its input '{}' ({}, sha256:{}) is not here", slot, input.name, input.root.hex()));
        return false;
      }
      if (!is_sound(run_.nodes[size_t(parent)])) {
        result.details.push_back(
            fmt::format("its input '{}' is not what its statement says; see audit verify", run_.nodes[size_t(parent)].name));
        return false;
      }
      request.inputs[slot] = run_.nodes[size_t(parent)].path;
    }
    for (const Slot& slot : spec.slots) {
      if (slot.kind != Slot::Kind::file) continue;
      const std::string recorded = node.lineage()->config.value(slot.name + "-sha256", std::string());
      if (recorded.empty()) continue;  // was not given
      const std::string own = node.name + "." + slot.name;
      const auto given = files_.contains(own) ? files_.find(own) : files_.find(slot.name);
      if (given == files_.end()) {
        result.details.push_back(fmt::format("its input '{}' came from outside (sha256:{}); give it with --file {}=PATH",
                                             slot.name, recorded, slot.name));
        return false;
      }
      used_.insert(given->first);
      if (const std::string found = scan_artifact(given->second).root.hex(); found != recorded) {
        result.status = Status::differs;
        result.details.push_back(
            fmt::format("{}: is sha256:{}, but '{}' was made of sha256:{}", given->second.string(), found, node.name, recorded));
        return false;
      }
      request.inputs[slot.name] = given->second;
    }
    return true;
  }

  bool is_sound(const ArtifactNode& node) {
    const auto known = sound_.find(node.path);
    if (known != sound_.end()) return known->second;
    return sound_[node.path] = check_artifact(node.path, VerifyFiles::yes, trusted_).faults.empty();
  }

  static void configure(const Lineage& lineage, const StageSpec& spec, StageInstance& instance) {
    Json options = lineage.config;
    for (const Slot& slot : spec.slots)
      if (slot.kind == Slot::Kind::file) options.erase(slot.name + "-sha256");  // content, no option
    Options list = instance.options();
    from_json(list, options, "the statement of " + lineage.name);
  }

  void compare(const ArtifactNode& node, const StageRequest& request, Recomputed& result) {
    // As it was made: sums inside libtorch may depend on the number of threads by their last bit.
    if (node.lineage()->threads > 0) set_thread_count(node.lineage()->threads);
    try {
      run_stage(request, key_);
    } catch (const IoError&) {
      throw;
    } catch (const Interrupted&) {
      throw;
    } catch (const Error& e) {  // it was made once, they say, and cannot be made
      result.status = Status::differs;
      result.details.push_back(fmt::format("cannot be made from what its statement names: {}", e.what()));
      return;
    }
    const Lineage& signed_one = *node.lineage();
    const auto made = check_artifact(request.out, VerifyFiles::no, nullptr).lineage;
    OVERPROOF_CHECK(made.has_value());
    std::map<std::string, const FileRecord*> files;
    for (const FileRecord& f : made->files) files[f.name] = &f;
    for (const FileRecord& f : signed_one.files) {
      const auto found = files.find(f.name);
      if (found == files.end()) result.details.push_back(fmt::format("{}: does not come out", f.name));
      else if (found->second->digest != f.digest)
        result.details.push_back(
            fmt::format("{}: sha256:{} was signed, sha256:{} comes out", f.name, f.digest.hex(), found->second->digest.hex()));
      if (found != files.end()) files.erase(found);
    }
    for (const auto& [name, file] : files)
      result.details.push_back(fmt::format("{}: comes out, but is not in the artifact", name));
    for (const auto& [name, value] : made->metrics.items())
      if (!signed_one.metrics.contains(name) || signed_one.metrics[name] != value)
        result.details.push_back(fmt::format("metric '{}' is signed as {}, and comes out as {}", name,
                                             signed_one.metrics.value(name, Json()).dump().substr(0, 80),
                                             value.dump().substr(0, 80)));
    for (const auto& [name, value] : signed_one.metrics.items())
      if (!made->metrics.contains(name)) result.details.push_back(fmt::format("metric '{}' does not come out", name));
    if (made->kind != signed_one.kind)
      result.details.push_back(fmt::format("its kind is signed as '{}', and is '{}'", signed_one.kind, made->kind));
    result.status = result.details.empty() && made->root == signed_one.root ? Status::equal : Status::differs;
  }

  const RunFolder& run_;
  const PublicKey* trusted_;
  TempFolder work_;
  std::vector<std::string> stages_;
  std::map<std::string, fs::path> files_;
  std::set<std::string> used_;
  std::map<fs::path, bool> sound_;
  Key key_ = Key::generate();  // what is made here is looked at and thrown away
};

/// Another build may round otherwise; then a difference is no finding against the maker.
std::optional<std::string> other_build(const RunFolder& run) {
  const auto ours = builder_versions();
  for (const ArtifactNode& node : run.nodes)
    if (node.lineage() && !node.check.foreign)
      for (const auto& [name, version] : node.lineage()->builder)
        if (const auto mine = ours.find(name); mine != ours.end() && mine->second != version)
          return fmt::format("'{}' was made with {} {}, this is {}: bytes need not come out the same", node.name, name, version,
                             mine->second);
  return std::nullopt;
}

const char* name_of(Status status) {
  return status == Status::equal ? "equal" : status == Status::differs ? "differs" : "not made again";
}

void print(const Recomputation& r, std::ostream& out) {
  std::map<Status, int> counts;
  for (const Recomputed& a : r.artifacts) {
    ++counts[a.status];
    out << fmt::format("{:<15} {:<16} {:<12} sha256:{}\n", name_of(a.status), printable(a.artifact), printable(a.stage),
                       a.root.hex());
    for (const std::string& line : a.details) out << "                " << printable(line) << '\n';
  }
  for (const std::string& note : r.notes) out << "note: " << printable(note) << '\n';
  out << fmt::format("{} made again byte for byte, {} differ, {} not made again\n", counts[Status::equal],
                     counts[Status::differs], counts[Status::not_made]);
}

}  // namespace

bool Recomputation::holds() const {
  return std::none_of(artifacts.begin(), artifacts.end(), [](const Recomputed& a) { return a.status == Status::differs; });
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
                                  {node.check.foreign ? "is signed by another tool, which names no stage"
                                                      : "its statement does not hold; see audit verify"}});
      continue;
    }
    result.artifacts.push_back(recomputer.make_again(node));
  }
  recomputer.require_all_files_used();
  return result;
}

int audit_recompute(const RecomputeConfig& config, const fs::path& folder, bool json, std::ostream& out) {
  const AuditRecorder recorder(config.record, folder);
  const Recomputation result = recompute(config, folder);
  if (json) out << result.to_json().dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  else print(result, out);
  AuditRecord record{"recompute", {}, result.to_json()};
  for (const Recomputed& a : result.artifacts) record.subjects.push_back({a.artifact, a.root});
  const fs::path place = fs::canonical(folder);
  recorder.write(run_of(place) == place ? "run" : place.filename().string(), record, json ? nullptr : &out);
  return result.holds() ? 0 : 4;
}

}  // namespace overproof
