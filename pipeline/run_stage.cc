#include "pipeline/run_stage.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "pipeline/lineage_events.h"
#include "pipeline/version.h"
#include "provenance/artifact.h"

namespace overproof {
namespace {

/// Everything that decides what a stage makes.
struct Prepared {
  std::map<std::string, InputArtifact> inputs;
  std::map<std::string, Dependency> dependencies;
  Json config;
  std::string key;
  std::map<std::string, Digest> glances;  ///< of inputs that the stage digests: what they looked like; their root is a guess yet
};

enum class Digests { now, while_streamed };

std::string logical_name(const fs::path& path) {
  const fs::path clean = path.has_filename() ? path : path.parent_path();
  return clean.filename().string();
}

bool is_outside(const StageSpec& spec, const std::string& slot) {
  return std::any_of(spec.slots.begin(), spec.slots.end(),
                     [&](const Slot& s) { return s.name == slot && s.kind == Slot::Kind::file; });
}

bool is_streamed(const StageSpec& spec, const std::string& slot) {
  return std::any_of(spec.slots.begin(), spec.slots.end(), [&](const Slot& s) { return s.name == slot && s.streamed; });
}

/// Fills in what follows from the inputs' roots.
void identify(const StageRequest& request, Prepared& p) {
  Options options = request.instance->options();
  p.config = to_json(options);
  Json roots = Json::object();
  for (const auto& [slot, input] : p.inputs) {
    roots[slot] = input.root.hex();
    if (is_outside(*request.spec, slot))
      p.config[slot + "-sha256"] = input.root.hex();  // content, recorded beside the options; it is no artifact
    else p.dependencies[slot] = {logical_name(input.path), input.root};
  }
  const Json identity = {{"stage", request.spec->name}, {"version", kVersion}, {"config", p.config}, {"inputs", roots}};
  p.key = sha256(identity.dump()).hex();
}

/// The root of an input whose statement, if it has one, holds for its files. `known`: digests that need not be taken again.
Digest checked_root(const StageRequest& request, const std::string& slot, const fs::path& path,
                    const std::vector<FileRecord>& known) {
  // Outside files have no statement of ours; an artifact made by hand is taken for what its files are.
  std::optional<Lineage> lineage;
  if (!is_outside(*request.spec, slot)) lineage = open_artifact(path, VerifyFiles::yes, nullptr, known);
  return lineage ? lineage->root : scan_artifact(path, known).root;
}

/// What an input that will be digested later says it is; without a statement, what it looks like. Good enough to name the
/// folder of an earlier try, and no more.
Digest claimed_root(const StageRequest& request, const std::string& slot, const fs::path& path, const Digest& glance) {
  std::optional<Lineage> lineage;
  if (!is_outside(*request.spec, slot)) lineage = open_artifact(path, VerifyFiles::size, nullptr);
  return lineage ? lineage->root : glance;
}

/// Hashes inputs and checks their statements. An artifact whose files do not match its statement stops here.
Prepared prepare(const StageRequest& request, Digests digests) {
  Prepared p;
  for (const Option& o : request.instance->options()) o.check();
  for (const auto& [slot, path] : request.inputs) {
    throw_if_interrupted();
    std::error_code error;
    if (!fs::exists(path, error)) throw IoError(path, fmt::format("the input '{}' is not there", slot), ENOENT);
    if (digests == Digests::while_streamed && is_streamed(*request.spec, slot)) {
      const Digest glance = p.glances[slot] = glance_at_artifact(path);
      p.inputs[slot] = {path, claimed_root(request, slot, path, glance)};
    } else {
      p.inputs[slot] = {path, checked_root(request, slot, path, {})};
    }
  }
  identify(request, p);
  return p;
}

/// Replaces the guesses by what the stage has read. Throws ProvenanceError when an input is not what its statement says, or
/// did not stay what it was.
void settle(const StageRequest& request, const Outputs& outputs, Prepared& p) {
  for (const auto& [slot, glance] : p.glances) {
    const fs::path& path = p.inputs[slot].path;
    if (glance_at_artifact(path) != glance)
      throw ProvenanceError(
          fmt::format("{}: was changed while it was read; let nobody write to it and run the same command again", path.string()));
    p.inputs[slot].root = checked_root(request, slot, path, outputs.input_digests(slot));
  }
  identify(request, p);
}

std::optional<Lineage> intact(const fs::path& out, const std::string& key) {
  std::error_code error;
  if (!fs::exists(out / "claims.jsonl", error)) return std::nullopt;
  const ArtifactCheck check = check_artifact(out, VerifyFiles::yes, nullptr);
  if (!check.faults.empty() || !check.lineage || check.lineage->stage_key != key) return std::nullopt;
  return check.lineage;
}

/// Two runs into one folder would tear each other's work apart.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& file) : file_(file), fd_(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ < 0) throw IoError(file.parent_path(), "cannot write here", errno);
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      ::close(fd_);
      throw UsageError(fmt::format("{}: another overproof is making this artifact right now", file.parent_path().string()));
    }
  }
  ~FolderLock() {
    ::unlink(file_.c_str());
    ::close(fd_);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  fs::path file_;
  int fd_;
};

/// Removes the temporary folder unless the work came to its end.
struct Temporary {
  fs::path path;
  ~Temporary() {
    std::error_code ignored;
    if (!path.empty()) fs::remove_all(path, ignored);
  }
};

void check_all_recorded(const fs::path& folder, const std::vector<FileRecord>& records) {
  std::set<std::string> known;
  for (const FileRecord& r : records) known.insert(r.name);
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (!entry.is_directory()) OVERPROOF_CHECK(known.contains(fs::relative(entry.path(), folder).generic_string()));
}

void remove_siblings(const fs::path& out, const std::string& prefix) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(out.parent_path(), ignored))
    if (entry.path().filename().string().starts_with(prefix)) fs::remove_all(entry.path(), ignored);
}

std::vector<LineageDataset> input_datasets(const StageRequest& request, const Prepared& p) {
  std::vector<LineageDataset> list;
  for (const auto& [slot, input] : p.inputs)
    list.push_back({is_outside(*request.spec, slot) ? "outside/" + logical_name(input.path) : openlineage_name(input.path),
                    "sha256:" + input.root.hex(), "", -1, -1});
  return list;
}

LineageEvent stage_event(const StageRequest& request, const Prepared& p, const fs::path& out) {
  LineageEvent event;
  event.job = openlineage_name(out);
  event.stage = request.spec->name;
  event.kind = request.spec->edge;
  event.version = kVersion;
  event.help = request.spec->help;
  event.config = p.config;
  event.inputs = input_datasets(request, p);
  return event;
}

/// Runs the stage and puts its artifact, sealed, into place. Returns the files it wrote.
std::vector<FileRecord> make_artifact(const StageRequest& request, const Key& key, const fs::path& out, Prepared& prepared,
                                      StageResult& result);

}  // namespace

bool is_unchanged(const StageRequest& request) {
  for (const auto& [slot, path] : request.inputs) {
    std::error_code error;
    if (!fs::exists(path, error)) return false;
  }
  return intact(request.out, prepare(request, Digests::now).key).has_value();
}

StageResult run_stage(const StageRequest& request, const Key& key) {
  const auto started = std::chrono::steady_clock::now();
  std::error_code error;
  // An artifact that is there already may be the one asked for, so its inputs must be known first.
  const bool may_keep = !request.force && fs::exists(request.out / "claims.jsonl", error);
  Prepared prepared = prepare(request, may_keep ? Digests::now : Digests::while_streamed);
  StageResult result;
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count(); };
  const fs::path out = fs::absolute(request.out).lexically_normal();
  for (const auto& [slot, input] : prepared.inputs) {
    if (fs::equivalent(input.path, out, error))
      throw UsageError(fmt::format("{}: is the input '{}', so it cannot be the output", out.string(), slot));
  }
  fs::create_directories(out.parent_path(), error);
  if (error) throw IoError(out.parent_path(), "cannot make this folder", error.value());
  const std::string name = out.filename().string();
  if (name.empty()) throw UsageError("the output folder has no name");
  const FolderLock lock(out.parent_path() / ("." + name + ".lock"));

  if (may_keep) {
    if (const auto lineage = intact(out, prepared.key)) {
      result.status = StageStatus::unchanged;
      result.root = lineage->root;
      result.report.metrics() = lineage->metrics;
      result.seconds = seconds();
      return result;
    }
  }
  if (fs::exists(out, error) && !fs::exists(out / "claims.jsonl", error) && !fs::is_empty(out, error))
    throw UsageError(fmt::format("{}: is there already and is no artifact of ours; name another folder", out.string()));

  StageEvents events(request.events, stage_event(request, prepared, out), prepared.key);
  std::vector<FileRecord> files;
  try {
    files = make_artifact(request, key, out, prepared, result);
  } catch (const std::exception& e) {
    events.fail(e.what(), dynamic_cast<const Interrupted*>(&e) != nullptr);
    throw;
  }
  result.root = check_artifact(out, VerifyFiles::no, nullptr).lineage->root;
  result.seconds = seconds();
  int64_t bytes = 0;
  for (const FileRecord& file : files) bytes += file.bytes;
  events.complete(input_datasets(request, prepared),
                  {openlineage_name(out), "sha256:" + result.root.hex(), request.spec->edge, bytes, int64_t(files.size())});
  return result;
}

namespace {

std::vector<FileRecord> make_artifact(const StageRequest& request, const Key& key, const fs::path& out, Prepared& prepared,
                                      StageResult& result) {
  std::error_code error;
  const std::string name = out.filename().string();
  const Json admitted = request.spec->admit ? request.spec->admit(request) : Json();
  const fs::path scratch = out.parent_path() / fmt::format(".{}.scratch-{}", name, prepared.key.substr(0, 16));
  Temporary temporary{out.parent_path() / fmt::format(".{}.partial", name)};
  fs::remove_all(temporary.path, error);
  fs::create_directories(temporary.path, error);
  if (!error) fs::create_directories(scratch, error);
  if (error) throw IoError(out.parent_path(), "cannot make a temporary folder here", error.value());

  const Inputs inputs(prepared.inputs);
  Outputs outputs(temporary.path, scratch, out.parent_path() / kKeptFolder, Digest::from_hex(prepared.key));
  result.report = request.instance->run(inputs, outputs);
  throw_if_interrupted();
  try {
    settle(request, outputs, prepared);
  } catch (const ProvenanceError&) {
    fs::remove_all(scratch, error);  // what was made of a forged input is worth nothing
    throw;
  }

  const std::vector<FileRecord> records = outputs.folder().records();
  check_all_recorded(temporary.path, records);
  Lineage lineage;
  lineage.kind = request.spec->edge;
  lineage.stage = request.spec->name;
  lineage.name = name;
  lineage.stage_key = prepared.key;
  lineage.config = prepared.config;
  lineage.inputs = prepared.dependencies;
  if (!admitted.is_null()) result.report.metrics()["policy"] = admitted;
  lineage.metrics = result.report.metrics();
  lineage.builder = builder_versions();
  lineage.threads = thread_count();
  seal_artifact(temporary.path, records, lineage, key);
  fsync_folder(temporary.path);

  // An earlier artifact steps aside only when its successor is complete.
  Temporary previous;
  if (fs::exists(out)) {
    previous.path = out.parent_path() / fmt::format(".{}.previous", name);
    fs::remove_all(previous.path, error);
    fs::rename(out, previous.path, error);
    if (error) throw IoError(out, "cannot move the earlier artifact aside", error.value());
  }
  fs::rename(temporary.path, out, error);
  if (error) {
    std::error_code ignored;
    if (!previous.path.empty()) fs::rename(previous.path, out, ignored);
    previous.path.clear();
    throw IoError(out, "cannot move the finished artifact into place", error.value());
  }
  temporary.path.clear();
  fsync_folder(out.parent_path());
  remove_siblings(out, "." + name + ".scratch-");
  return records;
}

}  // namespace

}  // namespace overproof
