#include "provenance/corpus_proof.h"

#include <fmt/format.h>
#include <openssl/rand.h>

#include <algorithm>

#include "core/error.h"
#include "core/json_object.h"
#include "core/private_file.h"
#include "provenance/hmac.h"
#include "provenance/signed_json.h"
#include "provenance/merkle.h"

namespace overproof {
namespace {

constexpr size_t kSecretBytes = 32;
constexpr size_t kMostPath = 63;  // trees have fewer than 2^63 leaves
constexpr size_t kMostFiles = size_t{1} << 20;
// The last character is the version of the format: 1 does not bind its trees to the corpus.
constexpr const char* kFormats[] = {"urn:overproof:corpus-proof:v1", "urn:overproof:corpus-proof:v2"};
constexpr const char* kConsistencyFormats[] = {"urn:overproof:corpus-consistency:v1", "urn:overproof:corpus-consistency:v2"};
constexpr size_t kMostConsistencyPath = 2 * kMostPath;
constexpr int kCommitmentVersion = 1;

Digest hmac(std::string_view secret, std::string_view label, std::string_view more = {}) {
  const std::string message = std::string(label) + std::string(more);
  const auto bytes = [](std::string_view text) { return std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()); };
  return hmac_sha256(bytes(secret), bytes(message));
}

std::string_view bytes_of(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size()};
}

Json hex_list(const std::vector<Digest>& digests) {
  Json list = Json::array();
  for (const Digest& digest : digests) list.push_back(digest.hex());
  return list;
}

Commitment::Tree read_tree(const JsonObject& tree) {
  tree.expect_only({"size", "root"});
  return {tree.integer("size", 0, INT64_MAX), tree.digest("root")};
}

std::optional<Digest> lower_hex(std::string_view text) {
  if (text.size() != 64 || text.find_first_not_of("0123456789abcdef") != std::string_view::npos) return std::nullopt;
  return Digest::from_hex(text);
}

/// The version that a proof's "format" names: 1 or 2.
int proof_version(const JsonObject& json, const char* const (&formats)[2]) {
  const std::string format = json.text("format");
  for (int version : {1, 2})
    if (format == formats[version - 1]) return version;
  json.fail("format", fmt::format("is '{}', expected '{}'", format.substr(0, 200), formats[1]));
}

std::vector<Digest> read_digests(const JsonObject& object, const char* name, size_t most) {
  const std::vector<std::string> list = object.texts(name);
  if (list.size() > most) object.fail(name, fmt::format("holds more than {} digests", most));
  std::vector<Digest> digests;
  for (const std::string& hash : list) {
    const auto digest = lower_hex(hash);
    if (!digest) object.fail(name, "holds what is no SHA-256 in lower-case hex");
    digests.push_back(*digest);
  }
  return digests;
}

Json binding_json(const CorpusBinding& binding) {
  return {{"commitment", binding.commitment}, {"files", hex_list(binding.other_files)}};
}

CorpusBinding read_binding(const JsonObject& json) {
  json.expect_only({"commitment", "files"});
  return {json.text("commitment"), read_digests(json, "files", kMostFiles)};
}

/// A proof has one spelling.
void require_spelling(const std::string& canonical, std::string_view text, const fs::path& origin) {
  if (canonical != text)
    throw FormatError(origin, -1, "is not spelled as proofs are: a byte of it was changed, or it was formatted anew");
}

/// Why a note is not signed by the key, under the name that its tree has; "" when it is.
std::string signature_fault(const std::string& note, const std::string& name, const NoteVerifier& key, const fs::path& origin) {
  const std::string spelled = key.text();
  if (!open_note(note, key, origin))
    return fmt::format("its checkpoint does not hold a signature of the note key {}", spelled.substr(0, spelled.rfind('+')));
  return name == key.name() ? "" : "its checkpoint is of a tree that another signer names";
}

bool is_in(const ProvenLeaf& leaf, const Digest& value, const TreeHead& tree) {
  return verify_inclusion(merkle_leaf(value), leaf.index, tree.size, leaf.path, tree.root);
}

/// Why the leaves do not show that `value` is absent; "" if they do.
std::string absence_fault(const std::vector<ProvenLeaf>& leaves, const Digest& value, const TreeHead& tree) {
  if (tree.size == 0)
    return !leaves.empty()                    ? "it shows leaves of an empty tree"
           : tree.root != merkle_empty_root() ? "the root is not that of an empty tree"
                                              : "";
  if (leaves.empty() || leaves.size() > 2) return "it does not show the document's neighbours";
  for (const ProvenLeaf& leaf : leaves) {
    if (!leaf.value) return "a neighbour has no value";
    if (!is_in(leaf, *leaf.value, tree)) return fmt::format("leaf {} is not in the signed tree", leaf.index);
  }
  if (leaves.size() == 2) {
    if (leaves[0].index + 1 != leaves[1].index) return "its two leaves are no neighbours";
    return *leaves[0].value < value && value < *leaves[1].value ? "" : "the document is not between its two leaves";
  }
  const ProvenLeaf& leaf = leaves[0];
  const bool before_all = leaf.index == 0 && value < *leaf.value, after_all = leaf.index == tree.size - 1 && *leaf.value < value;
  return before_all || after_all ? "" : "its leaf is not at the end of the tree where the document would be";
}

}  // namespace

CorpusSalt CorpusSalt::from_bytes(std::string_view secret, const fs::path& origin) {
  if (secret.size() != kSecretBytes)
    throw FormatError(origin, -1,
                      fmt::format("has {} bytes; the secret of a private corpus has {}: make one with 'overproof audit salt'",
                                  secret.size(), kSecretBytes));
  CorpusSalt salt;
  salt.secret_ = secret;
  return salt;
}

CorpusSalt CorpusSalt::read(const fs::path& file) {
  return from_bytes(read_private_file(file, 4096, "the corpus's secret"), file);
}

void CorpusSalt::create(const fs::path& file) {
  std::string secret(kSecretBytes, '\0');
  if (RAND_priv_bytes(reinterpret_cast<unsigned char*>(secret.data()), int(secret.size())) != 1)
    throw ProvenanceError("cannot make a secret: the system gives no random bytes");
  if (!create_private_file(file, secret, "the corpus's secret"))
    throw UsageError(fmt::format(
        "{}: is there already; a corpus committed under it could no longer be proved if it were replaced", file.string()));
}

Digest CorpusSalt::document_salt(const Digest& document) const { return hmac(secret_, "document", bytes_of(document)); }
Digest CorpusSalt::sorted_salt() const { return hmac(secret_, "sorted"); }
Digest CorpusSalt::file_salt(std::string_view file) const { return hmac(secret_, "file", file); }
Digest CorpusSalt::batch_salt() const { return hmac(secret_, "batch"); }
Digest CorpusSalt::salt(CorpusTree tree, const Digest& document) const {
  return tree == CorpusTree::documents ? document_salt(document) : sorted_salt();
}

Digest corpus_leaf_value(const Digest& document, const std::optional<Digest>& salt) {
  if (!salt) return document;
  Sha256 hash;
  hash.update("overproof salted leaf v1");
  hash.update(salt->bytes.data(), salt->bytes.size());
  hash.update(document.bytes.data(), document.bytes.size());
  return hash.finish();
}

std::string Commitment::text() const {
  Json json = {{"format_version", kCommitmentVersion}};
  for (const auto& [name, tree] : {std::pair{"documents", &documents}, std::pair{"sorted", &sorted}})
    json[name] = {{"size", tree->size}, {"root", tree->root.hex()}};
  if (sorted_salt_digest) json["sorted_salt_sha256"] = sorted_salt_digest->hex();
  return json.dump(1) + "\n";
}

Commitment Commitment::parse(std::string_view text, const fs::path& origin) {
  const Json parsed = parse_json(text, origin);
  const JsonObject json(parsed, origin);
  json.expect_only({"format_version", "documents", "sorted", "sorted_salt_sha256"});
  json.integer("format_version", kCommitmentVersion, kCommitmentVersion);
  Commitment commitment{read_tree(json.object("documents")), read_tree(json.object("sorted")), {}};
  if (json.has("sorted_salt_sha256")) commitment.sorted_salt_digest = json.digest("sorted_salt_sha256");
  if (commitment.documents.size != commitment.sorted.size) json.fail("the two trees have different sizes");
  return commitment;
}

std::string corpus_binding_fault(const CorpusBinding& binding, const TreeHead& tree, const CorpusOrigin& origin) {
  Sha256 root;
  const Digest first = sha256(binding.commitment);
  root.update(first.bytes.data(), first.bytes.size());
  for (const Digest& file : binding.other_files) root.update(file.bytes.data(), file.bytes.size());
  if (root.finish() != origin.corpus) return "its commitment and files are not those of the corpus that its checkpoint names";
  const Commitment commitment = Commitment::parse(binding.commitment, "commitment.json");
  return corpus_tree_head(commitment, origin.tree, origin.corpus, origin.name).text() == tree.text()
             ? ""
             : "its checkpoint is of another tree than the corpus commits to";
}

std::string CorpusOrigin::text() const {
  std::string tree_name = tree == CorpusTree::documents ? "documents" : "sorted";
  if (is_private) tree_name += tree == CorpusTree::documents ? "-salted" : "-" + sorted_salt_digest->hex();
  return fmt::format("{}/{}/{}", name, corpus.hex(), tree_name);
}

CorpusOrigin CorpusOrigin::parse(std::string_view text, const fs::path& origin) {
  const auto fail = [&]() {
    throw FormatError(origin, -1, fmt::format("'{}' is not the tree of a corpus (NAME/ROOT/TREE)", text.substr(0, 400)));
  };
  const size_t second = text.rfind('/'),
               first = second == std::string_view::npos || second == 0 ? std::string_view::npos : text.rfind('/', second - 1);
  if (first == std::string_view::npos || first == 0) fail();
  CorpusOrigin parsed;
  parsed.name = text.substr(0, first);
  const auto root = lower_hex(text.substr(first + 1, second - first - 1));
  if (!root) fail();
  parsed.corpus = *root;
  const std::string_view tree = text.substr(second + 1);
  parsed.tree = tree.starts_with("documents") ? CorpusTree::documents : CorpusTree::sorted;
  parsed.is_private = tree == "documents-salted" || tree.starts_with("sorted-");
  if (parsed.is_private && parsed.tree == CorpusTree::sorted) {
    parsed.sorted_salt_digest = lower_hex(tree.substr(7));
    if (!parsed.sorted_salt_digest) fail();
  }
  if (parsed.text() != text) fail();
  return parsed;
}

TreeHead corpus_tree_head(const Commitment& commitment, CorpusTree tree, const Digest& corpus_root, const std::string& name) {
  const CorpusOrigin origin{name, corpus_root, tree, commitment.is_private(), commitment.sorted_salt_digest};
  return {origin.text(), commitment.tree(tree).size, commitment.tree(tree).root};
}

std::string CorpusProof::text() const {
  Json list = Json::array();
  for (const ProvenLeaf& leaf : leaves) {
    Json item = {{"index", leaf.index}, {"path", hex_list(leaf.path)}};
    if (leaf.value) item["value"] = leaf.value->hex();
    list.push_back(item);
  }
  Json json = {{"format", kFormats[corpus ? 1 : 0]},
               {"kind", present ? "presence" : "absence"},
               {"tree", tree == CorpusTree::documents ? "documents" : "sorted"},
               {"document_sha256", document.hex()},
               {"leaves", list},
               {"checkpoint", checkpoint}};
  if (salt) json["salt"] = salt->hex();
  if (corpus) json["corpus"] = binding_json(*corpus);
  return json_dump(json) + "\n";
}

CorpusProof CorpusProof::parse(std::string_view text, const fs::path& origin) {
  const Json parsed = parse_json(text, origin);
  const JsonObject json(parsed, origin);
  json.expect_only({"format", "kind", "tree", "document_sha256", "leaves", "checkpoint", "salt", "corpus"});
  CorpusProof proof;
  if (proof_version(json, kFormats) == 2) proof.corpus = read_binding(json.object("corpus"));
  const std::string kind = json.text("kind"), tree = json.text("tree");
  if (kind != "presence" && kind != "absence") json.fail("kind", "is neither 'presence' nor 'absence'");
  if (tree != "documents" && tree != "sorted") json.fail("tree", "is neither 'documents' nor 'sorted'");
  proof.present = kind == "presence";
  proof.tree = tree == "documents" ? CorpusTree::documents : CorpusTree::sorted;
  proof.document = json.digest("document_sha256");
  if (json.has("salt")) proof.salt = json.digest("salt");
  for (const JsonObject& item : json.objects("leaves")) {
    if (proof.leaves.size() == 2) json.fail("leaves", "holds more than two");
    item.expect_only({"index", "path", "value"});
    ProvenLeaf leaf;
    leaf.index = item.integer("index", 0, INT64_MAX);
    if (item.has("value")) leaf.value = item.digest("value");
    leaf.path = read_digests(item, "path", kMostPath);
    proof.leaves.push_back(std::move(leaf));
  }
  proof.checkpoint = json.text("checkpoint");
  require_spelling(proof.text(), text, origin);
  return proof;
}

std::string corpus_proof_fault(const CorpusProof& proof, const TreeHead& tree, const CorpusOrigin& origin) {
  if (origin.tree != proof.tree) return "its checkpoint is of the other tree";
  if (proof.corpus)
    if (std::string fault = corpus_binding_fault(*proof.corpus, tree, origin); !fault.empty()) return fault;
  if (origin.is_private != proof.salt.has_value())
    return origin.is_private ? "it reveals no salt, but the corpus is private" : "it has a salt, but the corpus is not private";
  // The salt of the sorted tree was committed to before any question; otherwise a document could be hidden by another salt.
  if (origin.sorted_salt_digest && sha256(std::span<const uint8_t>(proof.salt->bytes)) != *origin.sorted_salt_digest)
    return "its salt is not the one that the tree was made with";
  const Digest value = corpus_leaf_value(proof.document, proof.salt);
  if (!proof.present)
    return proof.tree == CorpusTree::sorted ? absence_fault(proof.leaves, value, tree) : "only the sorted tree can show absence";
  if (proof.leaves.size() != 1 || proof.leaves[0].value) return "presence is shown by one leaf, the document's own";
  return is_in(proof.leaves[0], value, tree) ? "" : "the document's leaf is not in the signed tree";
}

ProofCheck check_corpus_proof(const CorpusProof& proof, const NoteVerifier& key, const fs::path& origin) {
  ProofCheck check;
  const TreeHead tree = TreeHead::parse(unverified_note_text(proof.checkpoint, origin), origin);
  check.origin = CorpusOrigin::parse(tree.origin, origin);
  check.documents = tree.size;
  check.tree_root = tree.root;
  check.bound = proof.corpus.has_value();
  check.fault = signature_fault(proof.checkpoint, check.origin.name, key, origin);
  if (check.holds()) check.fault = corpus_proof_fault(proof, tree, check.origin);
  return check;
}

std::string ConsistencyProof::text() const {
  Json json = {
      {"format", kConsistencyFormats[corpus ? 1 : 0]}, {"older", older}, {"checkpoint", checkpoint}, {"path", hex_list(path)}};
  if (corpus) json["corpus"] = binding_json(*corpus);
  return json_dump(json) + "\n";
}

bool ConsistencyProof::is_named_by(const Json& json) {
  return json.is_object() && json.contains("format") &&
         std::ranges::any_of(kConsistencyFormats, [&](const char* format) { return json["format"] == format; });
}

ConsistencyProof ConsistencyProof::parse(std::string_view text, const fs::path& origin) {
  const Json parsed = parse_json(text, origin);
  const JsonObject json(parsed, origin);
  json.expect_only({"format", "older", "checkpoint", "path", "corpus"});
  const int version = proof_version(json, kConsistencyFormats);
  ConsistencyProof proof{json.text("older"), json.text("checkpoint"), read_digests(json, "path", kMostConsistencyPath)};
  if (version == 2) proof.corpus = read_binding(json.object("corpus"));
  require_spelling(proof.text(), text, origin);
  return proof;
}

ConsistencyCheck consistency_of(const ConsistencyProof& proof, const fs::path& origin) {
  ConsistencyCheck check;
  check.older = TreeHead::parse(unverified_note_text(proof.older, origin), origin);
  check.newer = TreeHead::parse(unverified_note_text(proof.checkpoint, origin), origin);
  check.older_origin = CorpusOrigin::parse(check.older.origin, origin);
  check.origin = CorpusOrigin::parse(check.newer.origin, origin);
  if (check.older_origin.tree != CorpusTree::documents || check.origin.tree != CorpusTree::documents)
    check.fault = "only the tree in the table's order can be added to, and a checkpoint is of the sorted one";
  else if (check.older_origin.is_private != check.origin.is_private)
    check.fault = "one of the corpora is private, the other is not, so their leaves are never the same";
  else if (check.older.size > check.newer.size)
    check.fault = fmt::format("the older corpus has {} documents, the newer one {}", check.older.size, check.newer.size);
  else if (!verify_consistency(check.older.size, check.newer.size, check.older.root, check.newer.root, proof.path))
    check.fault = "the newer tree does not begin with the older one";
  else if (proof.corpus) check.fault = corpus_binding_fault(*proof.corpus, check.newer, check.origin);
  return check;
}

ConsistencyCheck check_consistency(const ConsistencyProof& proof, const NoteVerifier& older_key, const NoteVerifier& key,
                                   const fs::path& origin) {
  ConsistencyCheck check = consistency_of(proof, origin);
  std::string fault = signature_fault(proof.older, check.older_origin.name, older_key, origin);
  if (fault.empty()) fault = signature_fault(proof.checkpoint, check.origin.name, key, origin);
  if (!fault.empty()) check.fault = fault;
  return check;
}

}  // namespace overproof
