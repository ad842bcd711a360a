#include "pipeline/run_stage.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <chrono>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/progress_note.h"
#include "core/real_path.h"
#include "core/utf8.h"
#include "pipeline/file_lock.h"
#include "pipeline/lineage_events.h"
#include "pipeline/replace_folder.h"
#include "pipeline/scratch.h"
#include "pipeline/version.h"
#include "provenance/artifact.h"
#include "provenance/corpus_proof.h"
#include "provenance/outside.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

/// One input of the run: its place, and its identity once the files are digested.
struct BoundInput {
  fs::path path;
  bool outside = false;          ///< a file from outside (Slot::Kind::file): it has no statement of ours
  std::string recorded;          ///< of a file from outside: recorded_outside()
  Digest root;                   ///< what the statement claims until the stage has digested the files, where `fingerprint` is set
  std::optional<Digest> statement;    ///< Lineage::statement; none where it has no statement of ours
  std::optional<Digest> fingerprint;  ///< of an input that the stage digests: names, sizes and times before it ran
  std::string signer = {};            ///< hint of the key that its statement is signed with
};

/// Everything that decides what a stage makes.
struct Prepared {
  std::map<std::string, BoundInput> inputs;
  std::map<std::string, Dependency> dependencies;
  Json config;
  std::string key;
};

enum class Digests { now, while_streamed };

std::string logical_name(const fs::path& path) {
  const fs::path clean = path.has_filename() ? path : path.parent_path();
  return clean.filename().string();
}

/// Fills in what follows from the inputs' roots.
void identify(const StageRequest& request, Prepared& p) {
  Options options = request.instance->options();
  p.config = to_json(options);
  Json roots = Json::object(), statements = Json::object();
  for (const auto& [slot, input] : p.inputs) {
    roots[slot] = input.outside ? input.recorded : input.root.hex();
    if (input.outside) p.config[slot + "-sha256"] = input.recorded;  // recorded with the options: it is not an artifact
    else p.dependencies[slot] = {logical_name(input.path), input.root, input.statement};
    if (input.statement) statements[slot] = input.statement->hex();
  }
  const Json identity = {{"stage", request.spec->name},
                         {"version", kVersion},
                         {"config", p.config},
                         {"inputs", roots},
                         {"statements", statements}};
  p.key = sha256(identity.dump()).hex();
}

bool is_signed(const fs::path& path) {
  std::error_code error;
  return fs::exists(path / "claims.jsonl", error) || fs::exists(path / "model.sig", error);
}

/// A folder from outside that is signed, by this program or another tool: the hint of the key, which `trusted` must be.
std::string check_signed_outside(const fs::path& path, VerifyFiles verify, const PublicKey& trusted, const std::vector<FileRecord>& known) {
  const ArtifactCheck check = check_artifact(path, verify, &trusted, known);
  if (check.faults.empty() && check.signatures_hold) {
    if (check.foreign) require_covered(path);
    return check.signer_hint;
  }
  const Fault fault = check.faults.empty() ? Fault{"model.sig", "the signature does not hold", {}} : check.faults.front();
  throw ProvenanceError(fmt::format("{}: {}: {}; it must be signed by the key of --public-key, or have no signature", path.string(), fault.file,
                                    fault.what));
}

/// The lineage of an input artifact, and its signer; nothing where it has no statement. Throws as open_artifact, and ProvenanceError
/// where `trusted` is given and did not sign it.
std::optional<Lineage> open_input(BoundInput& input, VerifyFiles verify, const PublicKey* trusted, const std::vector<FileRecord>& known) {
  if (input.outside) {
    if (trusted && is_signed(input.path)) input.signer = check_signed_outside(input.path, verify, *trusted, known);
    return std::nullopt;
  }
  std::optional<Lineage> lineage = open_artifact(input.path, verify, trusted, known);
  if (!lineage && trusted)
    throw ProvenanceError(fmt::format("{}: has no signed statement, so it is not signed by the key of --public-key; import it, or leave the "
                                      "option out",
                                      input.path.string()));
  if (lineage) input.signer = signer_of(*lineage, trusted, input.path);
  return lineage;
}

/// Sets the identity of an input, whose statement, if it has one, must hold for its files. An artifact without a statement is
/// identified by its files. `known`: digests that need not be computed again.
void identify_checked(BoundInput& input, const PublicKey* trusted, const std::vector<FileRecord>& known) {
  const std::optional<Lineage> lineage = open_input(input, VerifyFiles::yes, trusted, known);
  input.root = lineage ? lineage->root : scan_input(input.path, known).root;
  input.statement = lineage ? std::optional(lineage->statement) : std::nullopt;
}

/// Sets the identity that an input's statement claims; without a statement, the fingerprint. It only names the scratch folder of an
/// earlier try.
void identify_claimed(BoundInput& input, const PublicKey* trusted) {
  const std::optional<Lineage> lineage = open_input(input, VerifyFiles::size, trusted, {});
  input.root = lineage ? lineage->root : *input.fingerprint;
  input.statement = lineage ? std::optional(lineage->statement) : std::nullopt;
}

/// Digests inputs and checks their statements. An artifact whose files do not match its statement is refused here.
Prepared prepare(const StageRequest& request, Digests digests) {
  Prepared p;
  for (const Option& o : request.instance->options()) o.check();
  for (const auto& [slot, path] : request.inputs) {
    throw_if_interrupted();
    std::error_code error;
    if (!fs::exists(path, error)) throw IoError(path, fmt::format("the input '{}' does not exist", slot), ENOENT);
    const Slot* spec = request.spec->find_slot(slot);  // null: a further model (StageSpec::more_models)
    BoundInput& input = p.inputs[slot];
    input = {path, spec != nullptr && spec->kind == Slot::Kind::file, {}, {}, {}, {}};
    if (digests == Digests::while_streamed && spec != nullptr && spec->streamed) {
      input.fingerprint = stat_fingerprint(path);
      identify_claimed(input, request.trusted);
    } else {
      identify_checked(input, request.trusted, {});
    }
    if (input.outside) input.recorded = recorded_outside(*request.spec, slot, input.root, request.inputs);
  }
  identify(request, p);
  return p;
}

Inputs stage_inputs(const Prepared& p) {
  std::map<std::string, InputArtifact> slots;
  for (const auto& [slot, input] : p.inputs) slots[slot] = {input.path, input.root};
  return Inputs(std::move(slots));
}

/// Replaces claimed roots by those of the bytes that the stage has read. Throws ProvenanceError when an input does not match its
/// statement, or was modified while the stage ran.
void settle(const StageRequest& request, const Outputs& outputs, Prepared& p) {
  for (auto& [slot, input] : p.inputs) {
    if (!input.fingerprint) continue;
    if (stat_fingerprint(input.path) != *input.fingerprint)
      throw ProvenanceError(
          fmt::format("{}: modified while being read; stop other writers and run the command again", input.path.string()));
    identify_checked(input, request.trusted, outputs.input_digests(slot));
  }
  identify(request, p);
}

/// In words, in what an artifact differs from the one that is asked for: "stage distill", or "another learning-rate".
std::string difference(const Lineage& there, const StageRequest& request, const Prepared& prepared) {
  if (there.stage != request.spec->name) return fmt::format("the stage {}", there.stage);
  std::vector<std::string> words;
  for (const auto& [name, value] : prepared.config.items())
    if (!there.config.contains(name) || there.config[name] != value) words.push_back("another " + name);
  for (const auto& [slot, input] : prepared.dependencies) {
    const auto found = there.inputs.find(slot);
    if (found == there.inputs.end() || found->second.root != input.root) words.push_back("another input '" + slot + "'");
  }
  for (const auto& [slot, input] : there.inputs)
    if (!prepared.dependencies.contains(slot)) words.push_back("an input '" + slot + "'");
  return words.empty() ? "another version of this program" : fmt::format("{}", fmt::join(words, ", "));
}

/// The request with the paths that the stage is to see: where links lead, and without slashes at the end.
StageRequest resolved(StageRequest request) {
  for (auto& [slot, path] : request.inputs) path = input_path(path);
  request.out = real_path(request.out);
  if (request.out.filename().empty()) throw UsageError("the output folder has no name");
  const auto check_name = [&](const fs::path& path) {
    if (invalid_utf8_at(logical_name(path)) >= 0)
      throw UsageError(fmt::format("{}: its name is not UTF-8, so that no statement can hold it; rename it", path.string()));
  };
  check_name(request.out);
  for (const auto& [slot, path] : request.inputs) check_name(path);
  return request;
}

/// Refuses what would destroy an input, or what cannot be the output, before anything is read.
void check_places(const StageRequest& request) {
  std::vector<std::pair<std::string, fs::path>> inputs;
  for (const auto& [slot, path] : request.inputs) inputs.emplace_back(slot, path);
  require_apart(request.out, inputs, true);
}

/// Refuses to replace what is at `out`: files that no stage wrote, in any case; a finished artifact of another configuration unless
/// that is asked for.
void check_replaced(const StageRequest& request, const Prepared& prepared) {
  const fs::path& out = request.out;
  std::error_code error;
  if (!fs::exists(out, error) || (fs::is_directory(out, error) && fs::is_empty(out, error))) return;
  const auto refuse = [&](const std::string& what) { throw UsageError(fmt::format("{}: {}", out.string(), what)); };
  if (!fs::exists(out / "claims.jsonl", error)) refuse("exists and is not an artifact of overproof; choose another folder");
  const ArtifactCheck check = check_artifact(out, VerifyFiles::size, nullptr);
  if (!check.lineage) refuse("is an artifact whose statement cannot be read, so that its files may be of any origin; move it elsewhere first");
  std::set<std::string> written = {"claims.jsonl", "model.sig"};
  for (const FileRecord& file : check.lineage->files) written.insert(file.name);
  for (auto entry = fs::recursive_directory_iterator(out); entry != fs::recursive_directory_iterator(); ++entry) {
    const std::string name = entry->path().lexically_relative(out).generic_string();
    if (!fs::is_directory(entry->symlink_status()) && !written.contains(name))
      refuse(fmt::format("holds '{}', which overproof did not write and will not delete; move it elsewhere first", name));
  }
  if (request.force || request.may_replace || !check.faults.empty() || check.lineage->stage_key == prepared.key) return;
  refuse(fmt::format("holds a finished artifact of {}; give --force to replace it, or choose another folder",
                     difference(*check.lineage, request, prepared)));
}

/// The artifact at `out` where it is the one that is asked for. Throws ProvenanceError where that is signed by neither `trusted` nor `own`.
std::optional<Lineage> intact(const fs::path& out, const std::string& key, const PublicKey* trusted, const PublicKey* own) {
  std::error_code error;
  if (!fs::exists(out / "claims.jsonl", error)) return std::nullopt;
  const ArtifactCheck check = check_artifact(out, VerifyFiles::yes, nullptr);
  if (!check.faults.empty() || !check.lineage || check.lineage->stage_key != key) return std::nullopt;
  if (trusted && trusted->successor(check.signer_hint).hint() != check.signer_hint && (!own || own->hint() != check.signer_hint))
    throw ProvenanceError(fmt::format("{}: is finished, but signed by key {}, which is neither that of --public-key nor your own; --force makes "
                                      "it again",
                                      out.string(), check.signer_hint));
  return check.lineage;
}

/// Removes the temporary folder unless it was moved into place.
struct Temporary {
  fs::path path;
  ~Temporary() {
    std::error_code ignored;
    if (!path.empty()) fs::remove_all(path, ignored);
  }
};

/// Removes the scratch folder where nothing was left in it to resume from.
struct EmptyScratch {
  fs::path path;
  ~EmptyScratch() {
    std::error_code ignored;
    std::vector<fs::path> folders = {path};
    for (const auto& entry : fs::recursive_directory_iterator(path, ignored))
      if (entry.is_directory(ignored)) folders.push_back(entry.path());
    for (auto folder = folders.rbegin(); folder != folders.rend(); ++folder) fs::remove(*folder, ignored);  // only when it is empty
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

std::vector<LineageDataset> input_datasets(const Prepared& p) {
  std::vector<LineageDataset> list;
  for (const auto& [slot, input] : p.inputs)
    list.push_back({input.outside ? "outside/" + logical_name(input.path) : openlineage_name(input.path),
                    "sha256:" + (input.outside ? input.recorded : input.root.hex()), "", -1, -1});
  return list;
}

LineageEvent stage_event(const StageRequest& request, const Prepared& p, const fs::path& out) {
  LineageEvent event;
  event.job = openlineage_name(out);
  event.stage = request.spec->name;
  event.kind = request.spec->kind;
  event.version = kVersion;
  event.help = request.spec->help;
  event.config = p.config;
  event.inputs = input_datasets(p);
  return event;
}

/// Runs the stage, seals its artifact and moves it into place. Returns the files of the artifact.
std::vector<FileRecord> make_artifact(const StageRequest& request, const Key& key, const fs::path& out, Prepared& prepared,
                                      StageResult& result);

}  // namespace

std::string recorded_outside(const StageSpec& spec, const std::string& slot, const Digest& root,
                             const std::map<std::string, fs::path>& inputs) {
  const Slot* found = spec.find_slot(slot);
  const auto secret = found && !found->hidden_by.empty() ? inputs.find(found->hidden_by) : inputs.end();
  return secret == inputs.end() ? root.hex() : CorpusSalt::read(secret->second).file_salt(slot + "/" + root.hex()).hex();
}

bool is_unchanged(const StageRequest& asked, const Key* key) {
  const StageRequest request = resolved(asked);
  check_places(request);
  for (const auto& [slot, path] : request.inputs) {
    std::error_code error;
    if (!fs::exists(path, error)) return false;
  }
  return intact(request.out, prepare(request, Digests::now).key, key ? request.trusted : nullptr, key ? &key->public_key() : nullptr)
      .has_value();
}

StageResult run_stage(const StageRequest& asked, const Key& key) {
  const auto started = std::chrono::steady_clock::now();
  std::error_code error;
  const StageRequest request = resolved(asked);
  check_places(request);
  // An existing artifact may be the requested one, which is known when its inputs are digested.
  const bool may_keep = !request.force && fs::exists(request.out / "claims.jsonl", error);
  Prepared prepared = prepare(request, may_keep ? Digests::now : Digests::while_streamed);
  StageResult result;
  std::set<std::string> signers;
  for (const auto& [slot, input] : prepared.inputs)
    if (!input.signer.empty()) signers.insert(input.signer);
  result.signers = {signers.begin(), signers.end()};
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count(); };
  const fs::path& out = request.out;
  fs::create_directories(out.parent_path(), error);
  if (error) throw IoError(out.parent_path(), "cannot create this folder", error.value());
  const std::string name = out.filename().string();
  const FileLock lock(out.parent_path() / ("." + name + ".lock"), FileLock::Busy::fails, out,
                      "another overproof process is already building this artifact");
  restore_previous(out);

  if (may_keep) {
    if (const auto lineage = intact(out, prepared.key, request.trusted, &key.public_key())) {
      result.status = StageStatus::unchanged;
      result.signer = signer_of(*lineage, nullptr, out);
      result.root = lineage->root;
      result.report.metrics() = lineage->metrics;
      result.seconds = seconds();
      return result;
    }
  }
  StageEvents events(request.events, stage_event(request, prepared, out));
  std::vector<FileRecord> files;
  try {
    files = make_artifact(request, key, out, prepared, result);
  } catch (const std::exception& e) {
    events.fail(e.what(), dynamic_cast<const Interrupted*>(&e) != nullptr);
    throw;
  }
  result.root = check_artifact(out, VerifyFiles::no, nullptr).lineage->root;
  result.signer = key.public_key().hint();
  result.seconds = seconds();
  int64_t bytes = 0;
  for (const FileRecord& file : files) bytes += file.bytes;
  events.complete(input_datasets(prepared),
                  {openlineage_name(out), "sha256:" + result.root.hex(), request.spec->kind, bytes, int64_t(files.size())});
  return result;
}

namespace {

std::vector<FileRecord> make_artifact(const StageRequest& request, const Key& key, const fs::path& out, Prepared& prepared,
                                      StageResult& result) {
  std::error_code error;
  const std::string name = out.filename().string();
  const Json admitted = request.spec->admit ? request.spec->admit(request) : Json();
  check_replaced(request, prepared);
  const fs::path scratch = out.parent_path() / fmt::format(".{}.scratch-{}", name, prepared.key.substr(0, 16));
  Temporary temporary{out.parent_path() / fmt::format(".{}.partial", name)};
  fs::remove_all(temporary.path, error);
  fs::create_directories(temporary.path, error);
  if (!error) fs::create_directories(scratch, error);
  if (error) throw IoError(out.parent_path(), "cannot create a temporary folder here", error.value());

  const EmptyScratch unused{scratch};
  for (const ScratchItem& other : scratch_items(out.parent_path()))
    if (other.artifact == name && other.path != scratch && other.path != temporary.path && other.bytes > 0)
      progress_note(fmt::format("note: {} holds {:.1f} MB of an unfinished run of other options or inputs; this one begins anew, and removes it "
                                "when it is done",
                                other.path.string(), double(other.bytes) * 1e-6));
  const Inputs inputs = stage_inputs(prepared);
  Outputs outputs(temporary.path, scratch, out.parent_path() / kKeptFolder, Digest::from_hex(prepared.key),
                  out.parent_path() / kLogsFolder / name);
  result.report = request.instance->run(inputs, outputs);
  throw_if_interrupted();
  try {
    settle(request, outputs, prepared);
  } catch (const ProvenanceError&) {
    fs::remove_all(scratch, error);  // nothing made of a forged input is resumed
    throw;
  }

  const std::vector<FileRecord> records = outputs.folder().records();
  check_all_recorded(temporary.path, records);
  Lineage lineage;
  lineage.kind = request.spec->kind;
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

  replace_folder(temporary.path, out);
  temporary.path.clear();
  remove_siblings(out, "." + name + ".scratch-");
  return records;
}

}  // namespace

}  // namespace overproof
