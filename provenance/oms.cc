#include "provenance/oms.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/json_object.h"
#include "provenance/dsse.h"
#include "provenance/signed_json.h"

namespace overproof {
namespace {

constexpr std::string_view kMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json";
constexpr std::string_view kSignatureType = "https://model_signing/signature/v1.0";
constexpr std::array<std::string_view, 6> kIgnored = {".git",       ".gitattributes", ".github",
                                                      ".gitignore", kClaimsName,      kModelSignatureName};

Digest root_of_sorted(const std::vector<FileRecord>& files) {
  Sha256 hash;
  for (const FileRecord& file : files) hash.update(file.digest.bytes.data(), file.digest.bytes.size());
  return hash.finish();
}

void sort_by_name(std::vector<FileRecord>& files) {
  std::sort(files.begin(), files.end(), [](const FileRecord& a, const FileRecord& b) { return oms_name_less(a.name, b.name); });
}

OmsManifest read_statement(const JsonObject& statement) {
  statement.expect_text("_type", kInTotoStatement);
  statement.expect_text("predicateType", kSignatureType);
  const std::vector<JsonObject> subjects = statement.objects("subject");
  if (subjects.size() != 1) statement.fail("subject", "must hold exactly one subject");
  const JsonObject predicate = statement.object("predicate"), serialization = predicate.object("serialization");
  serialization.expect_text("method", "files");
  serialization.expect_text("hash_type", "sha256");

  OmsManifest manifest;
  for (const Json& path : serialization.list_or_empty("ignore_paths")) {
    if (!path.is_string() || path.get_ref<const std::string&>().empty())
      serialization.fail("ignore_paths", "must be a list of paths");
    manifest.expects_claims |= path == kClaimsName;
    manifest.ignore_paths.push_back(path.get<std::string>());
  }
  manifest.allow_symlinks = serialization.flag("allow_symlinks", false);
  manifest.model_name = subjects[0].text("name");
  manifest.root = subjects[0].object("digest").digest("sha256");
  for (const JsonObject& resource : predicate.objects("resources")) {
    const std::string name = resource.text("name");
    // "." is how a signature of a single file names that file.
    if (name != "." && !is_safe_relative_name(name)) resource.fail("name", fmt::format("'{}' leaves the folder", name));
    resource.expect_text("algorithm", "sha256");
    manifest.files.push_back({name, -1, resource.digest("digest")});
  }
  // Their writer sorts and their reader hashes in the order listed: both must hold, or two readers see two roots.
  for (size_t i = 1; i < manifest.files.size(); ++i)
    if (!oms_name_less(manifest.files[i - 1].name, manifest.files[i].name))
      predicate.fail("resources", fmt::format("lists '{}' out of order or twice", manifest.files[i].name));
  if (root_of_sorted(manifest.files) != manifest.root) statement.fail("the root digest is not that of the files listed");
  return manifest;
}

}  // namespace

bool oms_name_less(std::string_view a, std::string_view b) {
  // Comparing part by part is comparing bytes with '/' below everything else.
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    const auto rank = [](char c) { return c == '/' ? -1 : int(static_cast<unsigned char>(c)); };
    return rank(x) < rank(y);
  });
}

bool is_oms_ignored(std::string_view name) {
  const std::string_view first = name.substr(0, name.find('/'));
  return std::find(kIgnored.begin(), kIgnored.end(), first) != kIgnored.end();
}

Digest oms_root(std::vector<FileRecord> files) {
  if (files.empty()) throw UsageError("an artifact without files has no identity");
  sort_by_name(files);
  return root_of_sorted(files);
}

std::string make_oms_bundle(const std::string& model_name, const std::vector<FileRecord>& files, const Key& key,
                            OmsRoomFor room) {
  std::vector<FileRecord> sorted = files;
  sort_by_name(sorted);
  Json resources = Json::array();
  for (const FileRecord& file : sorted)
    resources.push_back({{"name", file.name}, {"algorithm", "sha256"}, {"digest", file.digest.hex()}});
  Json ignored = Json::array();
  for (const std::string_view name : kIgnored)
    if (name != kClaimsName || room == OmsRoomFor::claims) ignored.push_back(name);
  const Json statement = {
      {"_type", kInTotoStatement},
      {"subject", Json::array({{{"name", model_name}, {"digest", {{"sha256", oms_root(files).hex()}}}}})},
      {"predicateType", kSignatureType},
      {"predicate",
       {{"serialization", {{"method", "files"}, {"hash_type", "sha256"}, {"allow_symlinks", false}, {"ignore_paths", ignored}}},
        {"resources", resources}}}};
  const Envelope envelope = sign_envelope(kInTotoPayloadType, json_dump(statement), key, "");
  const Json bundle = {
      {"mediaType", kMediaType},
      {"verificationMaterial", {{"publicKey", {{"hint", key.public_key().hint()}}}, {"tlogEntries", Json::array()}}},
      {"dsseEnvelope", envelope.to_json()}};
  return json_dump(bundle);
}

OmsManifest read_oms_bundle(std::string_view bundle_text, const fs::path& origin, const PublicKey* key) {
  const Json json = parse_json(bundle_text, origin);
  const JsonObject bundle(json, origin);
  bundle.expect_text("mediaType", kMediaType);
  bundle.expect_only({"mediaType", "verificationMaterial", "dsseEnvelope"});
  const JsonObject material = bundle.object("verificationMaterial"), public_key = material.object("publicKey");
  material.expect_only({"publicKey", "tlogEntries"});
  public_key.expect_only({"hint", "rawBytes", "keyDetails"});
  const std::string hint = public_key.text("hint", "");

  const Envelope envelope = Envelope::from_json(bundle.at("dsseEnvelope"), origin);
  if (envelope.payload_type != kInTotoPayloadType)
    bundle.fail("dsseEnvelope", fmt::format("has a payload of type '{}', expected '{}'", envelope.payload_type, kInTotoPayloadType));
  const Json statement = parse_json(envelope.payload, origin);
  OmsManifest manifest = read_statement(JsonObject(statement, origin));
  manifest.key_hint = hint;
  manifest.signature_valid = key && (hint.empty() || hint == key->hint()) && envelope.verify(*key);
  return manifest;
}

}  // namespace overproof
