#include "provenance/corpus_proof.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <algorithm>

#include "core/error.h"
#include "core/private_file.h"
#include "provenance/json_fields.h"
#include "provenance/merkle.h"

namespace overproof {
namespace {

constexpr size_t kSecretBytes = 32;
constexpr size_t kMostPath = 63;  // trees have fewer than 2^63 leaves
constexpr const char* kFormat = "urn:overproof:corpus-proof:v1";
constexpr const char* kConsistencyFormat = "urn:overproof:corpus-consistency:v1";
constexpr size_t kMostConsistencyPath = 2 * kMostPath;
constexpr int kCommitmentVersion = 1;

Digest hmac(std::string_view secret, std::string_view label, const Digest* document) {
  std::string message(label);
  if (document) message.append(reinterpret_cast<const char*>(document->bytes.data()), document->bytes.size());
  Digest digest;
  unsigned length = 0;
  OVERPROOF_CHECK(HMAC(EVP_sha256(), secret.data(), int(secret.size()), reinterpret_cast<const unsigned char*>(message.data()),
                       message.size(), digest.bytes.data(), &length) &&
                  length == digest.bytes.size());
  return digest;
}

int64_t whole_number(const Json& object, const char* name, const fs::path& origin) {
  const Json& value = json_field(object, name, origin);
  if (!value.is_number_integer() || value < 0 || (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(INT64_MAX)))
    throw FormatError(origin, -1, fmt::format("'{}' is no whole number", name));
  return value.get<int64_t>();
}

Json hex_list(const std::vector<Digest>& digests) {
  Json list = Json::array();
  for (const Digest& digest : digests) list.push_back(digest.hex());
  return list;
}

Commitment::Tree read_tree(const Json& object, const char* name, const fs::path& origin) {
  const Json& tree = json_field(object, name, origin);
  expect_json_fields(tree, {"size", "root"}, origin);
  return {whole_number(tree, "size", origin), json_digest(tree, "root", origin)};
}

std::optional<Digest> lower_hex(std::string_view text) {
  if (text.size() != 64 || text.find_first_not_of("0123456789abcdef") != std::string_view::npos) return std::nullopt;
  return Digest::from_hex(text);
}

std::vector<Digest> read_path(const Json& object, size_t most, const fs::path& origin) {
  const Json& list = json_list(object, "path", origin);
  if (list.size() > most) throw FormatError(origin, -1, "a path is longer than any tree is high");
  std::vector<Digest> path;
  for (const Json& hash : list) {
    const auto digest = hash.is_string() ? lower_hex(hash.get_ref<const std::string&>()) : std::nullopt;
    if (!digest) throw FormatError(origin, -1, "a hash of a path is no SHA-256");
    path.push_back(*digest);
  }
  return path;
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
    return *leaves[0].value < value && value < *leaves[1].value ? "" : "the document does not stand between its two leaves";
  }
  const ProvenLeaf& leaf = leaves[0];
  const bool before_all = leaf.index == 0 && value < *leaf.value, after_all = leaf.index == tree.size - 1 && *leaf.value < value;
  return before_all || after_all ? "" : "its leaf is not at the end of the tree that the document would stand beyond";
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

Digest CorpusSalt::document_salt(const Digest& document) const { return hmac(secret_, "document", &document); }
Digest CorpusSalt::sorted_salt() const { return hmac(secret_, "sorted", nullptr); }
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
  const Json json = parse_json(text, origin);
  expect_json_fields(json, {"format_version", "documents", "sorted", "sorted_salt_sha256"}, origin);
  if (const int64_t version = whole_number(json, "format_version", origin); version != kCommitmentVersion)
    throw FormatError(origin, -1, fmt::format("a commitment of format {} cannot be read; {} can", version, kCommitmentVersion));
  Commitment commitment{read_tree(json, "documents", origin), read_tree(json, "sorted", origin), {}};
  if (json.contains("sorted_salt_sha256")) commitment.sorted_salt_digest = json_digest(json, "sorted_salt_sha256", origin);
  if (commitment.documents.size != commitment.sorted.size) throw FormatError(origin, -1, "its two trees have different sizes");
  return commitment;
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
  Json json = {{"format", kFormat},
               {"kind", present ? "presence" : "absence"},
               {"tree", tree == CorpusTree::documents ? "documents" : "sorted"},
               {"document_sha256", document.hex()},
               {"leaves", list},
               {"checkpoint", checkpoint}};
  if (salt) json["salt"] = salt->hex();
  return json_dump(json) + "\n";
}

CorpusProof CorpusProof::parse(std::string_view text, const fs::path& origin) {
  const Json json = parse_json(text, origin);
  expect_json_fields(json, {"format", "kind", "tree", "document_sha256", "leaves", "checkpoint", "salt"}, origin);
  expect_json_text(json, "format", kFormat, origin);
  CorpusProof proof;
  const std::string &kind = json_text(json, "kind", origin), &tree = json_text(json, "tree", origin);
  if (kind != "presence" && kind != "absence") throw FormatError(origin, -1, "'kind' is neither 'presence' nor 'absence'");
  if (tree != "documents" && tree != "sorted") throw FormatError(origin, -1, "'tree' is neither 'documents' nor 'sorted'");
  proof.present = kind == "presence";
  proof.tree = tree == "documents" ? CorpusTree::documents : CorpusTree::sorted;
  proof.document = json_digest(json, "document_sha256", origin);
  if (json.contains("salt")) proof.salt = json_digest(json, "salt", origin);
  for (const Json& item : json_list(json, "leaves", origin)) {
    if (proof.leaves.size() == 2) throw FormatError(origin, -1, "it has more than two leaves");
    expect_json_fields(item, {"index", "path", "value"}, origin);
    ProvenLeaf leaf;
    leaf.index = whole_number(item, "index", origin);
    if (item.contains("value")) leaf.value = json_digest(item, "value", origin);
    leaf.path = read_path(item, kMostPath, origin);
    proof.leaves.push_back(std::move(leaf));
  }
  proof.checkpoint = json_text(json, "checkpoint", origin);
  require_spelling(proof.text(), text, origin);
  return proof;
}

std::string corpus_proof_fault(const CorpusProof& proof, const TreeHead& tree, const CorpusOrigin& origin) {
  if (origin.tree != proof.tree) return "its checkpoint is of the other tree";
  if (origin.is_private != proof.salt.has_value())
    return origin.is_private ? "it reveals no salt, but the corpus is private" : "it has a salt, but the corpus is not private";
  // The salt of the sorted tree was committed to before anybody asked; else a document could be hidden by another salt.
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
  check.fault = signature_fault(proof.checkpoint, check.origin.name, key, origin);
  if (check.holds()) check.fault = corpus_proof_fault(proof, tree, check.origin);
  return check;
}

std::string ConsistencyProof::text() const {
  return json_dump({{"format", kConsistencyFormat}, {"older", older}, {"checkpoint", checkpoint}, {"path", hex_list(path)}}) +
         "\n";
}

bool ConsistencyProof::is_named_by(const Json& json) {
  return json.is_object() && json.contains("format") && json["format"] == kConsistencyFormat;
}

ConsistencyProof ConsistencyProof::parse(std::string_view text, const fs::path& origin) {
  const Json json = parse_json(text, origin);
  expect_json_fields(json, {"format", "older", "checkpoint", "path"}, origin);
  expect_json_text(json, "format", kConsistencyFormat, origin);
  ConsistencyProof proof{json_text(json, "older", origin), json_text(json, "checkpoint", origin),
                         read_path(json, kMostConsistencyPath, origin)};
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
