#include "provenance/artifact.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "core/error.h"
#include "core/hash_files.h"
#include "core/utf8.h"
#include "provenance/claims.h"
#include "provenance/oms.h"
#include "provenance/outside.h"
#include "provenance/signed_json.h"

namespace overproof {
namespace {

constexpr int64_t kMaxBundleBytes = int64_t{256} << 20;
constexpr const char* kRestore = "restore the file from where the artifact was published";
constexpr const char* kMakeAgain = "restore the file, or run its stage again";
constexpr const char* kAskForKey = "check with --public-key whether that signer is one you trust";

struct Listing {
  std::vector<FileRecord> files;     ///< sizes, no digests; in OMS order
  std::vector<std::string> strange;  ///< links, devices, sockets
  std::vector<std::string> ignored;  ///< files and folders that the rules leave out, except those of is_oms_ignored()
};

/// Which files of a folder count, and whether a link to a file is that file.
struct ListingRules {
  std::function<bool(std::string_view)> leaves_out;
  bool follows_links = false;
};

/// Artifacts, and what `sign` signs: links are refused even among what is left out, because other verifiers refuse them.
ListingRules own_rules() { return {is_oms_ignored}; }

/// What comes from outside without a statement. Hidden files are the bookkeeping of download tools and desktops, and stages read
/// none of them.
ListingRules outside_rules() {
  return {[](std::string_view name) {
            const bool hidden = name.substr(name.rfind('/') + 1).starts_with('.');
            return hidden || is_oms_ignored(name);
          },
          true};
}

/// Those that the signer of another tool has signed.
ListingRules signed_rules(const OmsManifest& bundle) {
  return {[&bundle](std::string_view name) {
            return name == kModelSignatureName || std::ranges::any_of(bundle.ignore_paths, [&](const std::string& path) {
                     return name == path || (name.starts_with(path) && name[path.size()] == '/');
                   });
          },
          bundle.allow_symlinks};
}

Listing list_files(const fs::path& folder, const ListingRules& rules = own_rules()) {
  Listing listing;
  std::string ignored_folder;  // the one that the walk is in, with a slash
  try {
    for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::recursive_directory_iterator(); ++entry) {
      const std::string name = entry->path().lexically_relative(folder).generic_string();
      const bool inside = !ignored_folder.empty() && name.starts_with(ignored_folder);
      if (inside || rules.leaves_out(name)) {
        if (!rules.follows_links && entry->is_symlink()) listing.strange.push_back(name);
        if (!inside && !is_oms_ignored(name)) listing.ignored.push_back(name);
        if (!inside && entry->is_directory()) ignored_folder = name + "/";
        if (rules.follows_links) entry.disable_recursion_pending();
        continue;
      }
      const fs::file_status status = entry->symlink_status();
      if (fs::is_regular_file(status)) listing.files.push_back({name, int64_t(entry->file_size()), {}});
      else if (fs::is_symlink(status) && rules.follows_links && entry->is_regular_file())
        listing.files.push_back({name, int64_t(fs::file_size(entry->path())), {}});
      else if (!fs::is_directory(status)) listing.strange.push_back(name);
    }
  } catch (const fs::filesystem_error& e) {
    throw IoError(folder, "cannot list", e.code().value());
  }
  std::sort(listing.files.begin(), listing.files.end(),
            [](const FileRecord& a, const FileRecord& b) { return oms_name_less(a.name, b.name); });
  std::sort(listing.strange.begin(), listing.strange.end());
  std::sort(listing.ignored.begin(), listing.ignored.end());
  return listing;
}

void hash_files(const fs::path& folder, std::vector<FileRecord>& files, const std::vector<FileRecord>& known) {
  std::map<std::string_view, const FileRecord*> digests;
  for (const FileRecord& file : known) digests[file.name] = &file;
  std::vector<FileRecord*> unknown;
  std::vector<FileToHash> to_hash;
  for (FileRecord& file : files) {
    const auto found = digests.find(file.name);
    if (found != digests.end() && found->second->bytes == file.bytes) {
      file.digest = found->second->digest;
      continue;
    }
    unknown.push_back(&file);
    const fs::path path = folder / file.name;
    to_hash.push_back({fs::is_symlink(fs::symlink_status(path)) ? fs::canonical(path) : path, file.bytes});
  }
  const std::vector<Digest> taken = sha256_files(to_hash);
  for (size_t i = 0; i < taken.size(); ++i) unknown[i]->digest = taken[i];
}

/// Reads a file of signatures through `read`; a fault is noted and answered with nothing.
template <class Read>
auto noting_faults(ArtifactCheck& check, const fs::path& folder, std::string_view name, Read read)
    -> std::optional<decltype(read())> {
  try {
    return read();
  } catch (const IoError&) {
    throw;
  } catch (const Error& e) {
    check.faults.push_back({std::string(name), text_within(e, folder, name), kRestore});
    return std::nullopt;
  }
}

/// Compares what is there with what is listed.
void check_files(const fs::path& folder, VerifyFiles verify, ArtifactCheck& check, const std::vector<FileRecord>& known = {},
                 const ListingRules& rules = own_rules()) {
  Listing there = list_files(folder, rules);

  std::map<std::string_view, const FileRecord*> listed;
  for (const FileRecord& file : check.lineage->files) listed[file.name] = &file;
  for (const std::string& name : there.strange) {
    if (rules.follows_links && fs::is_directory(folder / name)) continue;  // its signer did not enter it: not_covered()
    const bool replaced = listed.erase(name) > 0;
    check.faults.push_back({name, "is a symbolic link or a special file; artifacts hold regular files only",
                            replaced ? "put the file itself in its place" : "remove it"});
  }
  std::vector<FileRecord> same_size;
  for (const FileRecord& file : there.files) {
    const auto found = listed.find(file.name);
    if (found == listed.end()) {
      check.faults.push_back({file.name, "is not listed in the statement: it was added after sealing", "remove it"});
      continue;
    }
    if (found->second->bytes >= 0 && found->second->bytes != file.bytes)
      check.faults.push_back({file.name, fmt::format("has {} bytes, expected {}", file.bytes, found->second->bytes), kMakeAgain});
    else same_size.push_back(file);
    listed.erase(found);
  }
  for (const auto& [name, record] : listed) check.faults.push_back({std::string(name), "is missing", kMakeAgain});
  if (verify != VerifyFiles::yes) return;

  listed.clear();
  for (const FileRecord& file : check.lineage->files) listed[file.name] = &file;
  hash_files(folder, same_size, known);
  for (const FileRecord& file : same_size)
    if (const Digest& expected = listed[file.name]->digest; file.digest != expected)
      check.faults.push_back(
          {file.name, fmt::format("has digest sha256:{}, expected sha256:{}", file.digest.hex(), expected.hex()), kMakeAgain});
}

/// The key that the checks use: the trusted one, else the one the statement names.
std::optional<PublicKey> choose_key(const Envelope& claim, const PublicKey* trusted, const fs::path& origin,
                                    ArtifactCheck& check) {
  if (trusted) return trusted->successor(claim.key_id);
  if (check.lineage->signer_pem.empty()) {
    check.faults.push_back({std::string(kClaimsName), "names no signing key", "give the signer's key with --public-key"});
    return std::nullopt;
  }
  auto key = noting_faults(check, origin.parent_path(), kClaimsName,
                           [&] { return PublicKey::from_pem(check.lineage->signer_pem, origin); });
  if (key && key->hint() != claim.key_id)
    check.faults.push_back({std::string(kClaimsName), "is signed by another key than the statement names", {}});
  return key;
}

void check_claims(const std::vector<Envelope>& claims, const PublicKey& key, ArtifactCheck& check) {
  for (size_t i = 0; i < claims.size(); ++i) {
    if (claims[i].key_id == key.hint() && claims[i].verify(key)) continue;
    const bool other = claims[i].key_id != key.hint();
    check.faults.push_back(
        {std::string(kClaimsName),
         other ? fmt::format("line {} is signed by key {}, expected {}", i + 1, claims[i].key_id.substr(0, 64), key.hint())
               : fmt::format("line {}: the signature does not hold for what is signed", i + 1),
         other ? kAskForKey : kRestore});
  }
}

/// Returns whether the signature holds; that it is of the same files is a fault of its own.
bool check_bundle(const OmsManifest& bundle, const PublicKey& key, ArtifactCheck& check) {
  const std::string name(kModelSignatureName);
  if (bundle.key_hint != key.hint())
    check.faults.push_back(
        {name, fmt::format("is signed by key {}, expected {}", bundle.key_hint.substr(0, 64), key.hint()), kAskForKey});
  else if (!bundle.signature_valid) check.faults.push_back({name, "the signature does not hold for what is signed", kRestore});
  const auto same = [](const FileRecord& a, const FileRecord& b) { return a.name == b.name && a.digest == b.digest; };
  const std::vector<FileRecord>& files = check.lineage->files;
  if (!std::equal(files.begin(), files.end(), bundle.files.begin(), bundle.files.end(), same))
    check.faults.push_back(
        {name, fmt::format("signs root sha256:{}, the lineage is about sha256:{}", bundle.root.hex(), check.lineage->root.hex()),
         "one of the two was exchanged: restore both"});
  return bundle.key_hint == key.hint() && bundle.signature_valid;
}

/// A model signed by another tool. Nothing in it names a key, so one must be given.
void check_foreign(const fs::path& folder, VerifyFiles verify, const OmsManifest& bundle, const PublicKey* trusted,
                   ArtifactCheck& check) {
  check.foreign = true;
  check.lineage.emplace();
  check.lineage->name = bundle.model_name;
  check.lineage->root = bundle.root;
  check.lineage->files = bundle.files;
  if (!trusted) {
    check.faults.push_back({std::string(kModelSignatureName), "names no signing key", "give the signer's key with --public-key"});
  } else {
    check.signer_hint = trusted->hint();
    check.signatures_hold = bundle.signature_valid;
    const bool same_key = bundle.key_hint.empty() || bundle.key_hint == trusted->hint();
    if (!bundle.signature_valid)
      check.faults.push_back(
          {std::string(kModelSignatureName),
           same_key ? "the signature does not hold for what is signed"
                    : fmt::format("is signed by key {}, expected {}", bundle.key_hint.substr(0, 64), trusted->hint()),
           same_key ? kRestore : kAskForKey});
  }
  if (verify != VerifyFiles::no) check_files(folder, verify, check, {}, signed_rules(bundle));
}

}  // namespace

std::string text_within(const std::exception& error, const fs::path& folder, std::string_view file) {
  std::string text = error.what();
  const auto without = [&](const std::string& part) {
    for (size_t at; (at = text.find(part)) != std::string::npos;) text.erase(at, part.size());
  };
  if (!file.empty()) without((folder / file).string() + ": ");
  without(folder.string() + "/");
  without(folder.string() + ": ");
  return text;
}

std::vector<FileRecord> list_artifact(const fs::path& folder) {
  if (!fs::is_directory(folder)) throw IoError(folder, "cannot read the artifact", fs::exists(folder) ? ENOTDIR : ENOENT);
  Listing listing = list_files(folder);
  if (!listing.strange.empty())
    throw ProvenanceError(fmt::format("{}: '{}' is a symbolic link or a special file; artifacts hold regular files only: take a copy "
                                      "made by 'cp -rL'",
                                      folder.string(), listing.strange.front()));
  for (const FileRecord& file : listing.files)
    if (invalid_utf8_at(file.name) >= 0)
      throw FormatError(to_valid_utf8((folder / file.name).string()), -1, "has a name that is not UTF-8, which no statement can hold; rename the file");
  return std::move(listing.files);
}

namespace {

/// A single file is called by its own name, whatever a link to it is called.
ArtifactRecord scan(const fs::path& path, const std::vector<FileRecord>& known, const std::function<std::vector<FileRecord>()>& list) {
  ArtifactRecord record;
  if (fs::is_regular_file(path)) {
    record.files = {{path.filename().string(), int64_t(fs::file_size(path)), {}}};
    hash_files(path.parent_path(), record.files, known);
  } else {
    record.files = list();
    hash_files(path, record.files, known);
  }
  if (record.files.empty()) throw UsageError(fmt::format("{}: holds no files, so there is nothing to digest or sign", path.string()));
  record.root = oms_root(record.files);
  return record;
}

std::vector<FileRecord> list_outside(const fs::path& folder) {
  if (!fs::exists(folder)) throw IoError(folder, "cannot read this input", ENOENT);
  if (!fs::is_directory(folder))
    throw IoError(folder, "is neither a file nor a folder (a pipe or a device?), and an input is read more than once; write it to a file first", 0);
  Listing listing = list_files(folder, outside_rules());
  if (!listing.strange.empty()) {
    const fs::path strange = folder / listing.strange.front();
    const bool link = fs::is_symlink(fs::symlink_status(strange));
    throw FormatError(strange, -1,
                      link && fs::is_directory(strange) ? "is a link to a folder; name a copy of this input made by 'cp -rL'"
                      : link ? "is a link that leads to no file: an interrupted download? Fetch it again"
                             : "is neither a file nor a folder; remove it");
  }
  return std::move(listing.files);
}

}  // namespace

ArtifactRecord scan_artifact(const fs::path& path, const std::vector<FileRecord>& known) {
  return scan(path, known, [&] { return list_artifact(path); });
}

ArtifactRecord scan_input(const fs::path& path, const std::vector<FileRecord>& known) {
  if (fs::exists(path / kClaimsName)) return scan_artifact(path, known);
  return scan(path, known, [&] { return list_outside(path); });
}

std::vector<std::string> not_covered(const fs::path& folder) {
  const fs::path file = folder / kModelSignatureName;
  const OmsManifest bundle = read_oms_bundle(read_file(file, kMaxBundleBytes), file, nullptr);
  Listing there = list_files(folder, signed_rules(bundle));
  for (std::string& name : there.strange)
    if (bundle.allow_symlinks && fs::is_directory(folder / name)) there.ignored.push_back(std::move(name));
  return std::move(there.ignored);
}

void require_covered(const fs::path& folder) {
  const auto is_harmless = [&](const std::string& name) {
    if (name.starts_with('.') || is_oms_ignored(name)) return true;
    const std::string type = fs::path(name).extension().string();
    return !fs::is_directory(folder / name) && (type == ".md" || type == ".png" || type == ".jpg" || type == ".jpeg" || type == ".svg");
  };
  for (const std::string& name : not_covered(folder))
    if (!is_harmless(name))
      throw ProvenanceError(fmt::format("{}: its signature does not cover '{}', which its signer left out and loaders may read, so it does not show whose "
                                        "model this is; remove that file, or ask for a signature of all of them",
                                        folder.string(), name));
}

Digest stat_fingerprint(const fs::path& path) {
  std::vector<std::string> names = {""};
  if (fs::is_directory(path)) {
    names.clear();
    for (const FileRecord& file : fs::exists(path / kClaimsName) ? list_files(path).files : list_outside(path))
      names.push_back(file.name);
  }
  Json seen = Json::array();
  try {
    for (const std::string& name : names) {
      const fs::path file = name.empty() ? path : path / name;
      seen.push_back({name.empty() ? path.filename().string() : name, fs::file_size(file),
                      fs::last_write_time(file).time_since_epoch().count()});
    }
  } catch (const fs::filesystem_error& e) {
    throw IoError(e.path1(), "cannot read size and time of change", e.code().value());
  }
  return sha256(dump_text(seen));
}

Lineage seal_artifact(const fs::path& folder, const std::vector<FileRecord>& files, Lineage lineage, const Key& key) {
  lineage.files = files;
  std::sort(lineage.files.begin(), lineage.files.end(),
            [](const FileRecord& a, const FileRecord& b) { return oms_name_less(a.name, b.name); });
  for (const FileRecord& file : files)
    if (is_oms_ignored(file.name))
      throw UsageError(fmt::format("'{}' cannot be a file of an artifact: signatures leave it out", file.name));
  lineage.root = oms_root(lineage.files);
  lineage.signer_pem = key.public_key().pem();
  lineage.format = kStatementFormat;
  std::string statement = make_statement(lineage);
  lineage.statement = sha256(statement);
  const Envelope claim = sign_envelope(kInTotoPayloadType, std::move(statement), key, key.public_key().hint());
  write_file_atomically(folder / kModelSignatureName,
                        make_oms_bundle(lineage.name.empty() ? lineage.stage : lineage.name, lineage.files, key));
  write_file_atomically(folder / kClaimsName, json_dump(claim.to_json()) + "\n");
  return lineage;
}

ArtifactCheck check_artifact(const fs::path& folder, VerifyFiles verify, const PublicKey* trusted,
                             const std::vector<FileRecord>& known) {
  ArtifactCheck check;
  const fs::path claims_file = folder / kClaimsName, bundle_file = folder / kModelSignatureName;
  const auto read_bundle = [&](const PublicKey* key) {
    return noting_faults(check, folder, kModelSignatureName,
                         [&] { return read_oms_bundle(read_file(bundle_file, kMaxBundleBytes), bundle_file, key); });
  };
  if (!fs::exists(fs::symlink_status(claims_file)) && fs::is_regular_file(fs::symlink_status(bundle_file))) {
    auto bundle = read_bundle(trusted);
    if (!bundle) return check;
    if (!bundle->expects_claims) {
      const PublicKey* key = trusted ? &trusted->successor(bundle->key_hint) : nullptr;
      if (key != trusted) bundle = read_bundle(key);
      check_foreign(folder, verify, *bundle, key, check);
      return check;
    }
  }
  for (const fs::path& file : {claims_file, bundle_file})
    if (!fs::is_regular_file(fs::symlink_status(file)))
      check.faults.push_back({file.filename().string(), "is missing", "restore it from where the artifact was published"});
  if (!check.faults.empty()) return check;

  const auto claims = noting_faults(check, folder, kClaimsName, [&] { return read_claims(claims_file); });
  if (!claims) return check;
  const auto claim = noting_faults(check, folder, kClaimsName, [&] {
    auto found = find_claim(*claims, kLineagePredicateType, claims_file);
    if (!found) throw FormatError(claims_file, -1, "holds no lineage statement");
    // Two would let two readers take two different lineages for the artifact's.
    const auto lineages = std::ranges::count_if(
        *claims, [&](const Envelope& e) { return predicate_type_of(e, claims_file) == kLineagePredicateType; });
    if (lineages > 1) throw FormatError(claims_file, -1, fmt::format("holds {} lineage statements, expected one", lineages));
    return *found;
  });
  if (!claim) return check;
  check.lineage = noting_faults(check, folder, kClaimsName, [&] { return read_statement(claim->payload, claims_file); });
  if (!check.lineage) return check;
  noting_faults(check, folder, kClaimsName, [&] {
    for (size_t i = 0; i < claims->size(); ++i)
      if (const auto subject = subject_of((*claims)[i], claims_file); subject && *subject != check.lineage->root)
        throw FormatError(claims_file, -1, fmt::format("line {} is about another artifact, sha256:{}", i + 1, subject->hex()));
    return true;
  });

  const auto key = choose_key(*claim, trusted, claims_file, check);
  if (key) {
    check.signer_hint = key->hint();
    const size_t before = check.faults.size();
    check_claims(*claims, *key, check);
    const bool claims_hold = check.faults.size() == before;
    if (const auto bundle = read_bundle(&*key)) check.signatures_hold = check_bundle(*bundle, *key, check) && claims_hold;
  }
  if (verify != VerifyFiles::no) check_files(folder, verify, check, known);
  return check;
}

std::optional<Lineage> open_artifact(const fs::path& folder, VerifyFiles verify, const PublicKey* trusted,
                                     const std::vector<FileRecord>& known) {
  if (!fs::exists(folder / kClaimsName) && !fs::exists(folder / kModelSignatureName)) return std::nullopt;
  ArtifactCheck check = check_artifact(folder, verify, trusted, known);
  if (check.foreign) return std::nullopt;
  if (!check.faults.empty()) {
    const Fault& fault = check.faults.front();
    throw ProvenanceError(
        fmt::format("{}: {}{}{}", (folder / fault.file).string(), fault.what, fault.remedy.empty() ? "" : "; ", fault.remedy));
  }
  return std::move(check.lineage);
}

}  // namespace overproof
