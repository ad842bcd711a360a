#include "provenance/key_rotation.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/config.h"
#include "provenance/json_fields.h"

namespace overproof {
namespace {

constexpr std::string_view kStatementType = "https://in-toto.io/Statement/v1";
constexpr std::string_view kPredicateType = "urn:overproof:key-rotation:v1";
constexpr int64_t kMostBytes = 64 << 10;

/// What the new key signs.
std::string acceptance(std::string_view from, std::string_view to) {
  return fmt::format("overproof key rotation v1\nfrom {}\nto {}\n", from, to);
}

}  // namespace

std::string make_rotation(const Key& from, const Key& to) {
  const PublicKey &old_key = from.public_key(), &new_key = to.public_key();
  if (old_key == new_key) throw UsageError("the new key is the old one");
  const Json statement = {{"_type", kStatementType},
                          {"subject", Json::array({{{"name", "public key"}, {"digest", {{"sha256", new_key.hint()}}}}})},
                          {"predicateType", kPredicateType},
                          {"predicate",
                           {{"from", old_key.hint()},
                            {"to", new_key.pem()},
                            {"accepted", base64_encode(to.sign(acceptance(old_key.hint(), new_key.hint())))}}}};
  return json_dump(sign_envelope(kInTotoPayloadType, json_dump(statement), from, old_key.hint()).to_json()) + "\n";
}

KeyRotation read_rotation(std::string_view text, const fs::path& origin) {
  Envelope envelope = Envelope::from_json(parse_json(text, origin), origin);
  if (envelope.payload_type != kInTotoPayloadType) throw FormatError(origin, -1, "holds no in-toto statement");
  const Json statement = parse_json(envelope.payload, origin);
  expect_json_fields(statement, {"_type", "subject", "predicateType", "predicate"}, origin);
  expect_json_text(statement, "_type", kStatementType, origin);
  expect_json_text(statement, "predicateType", kPredicateType, origin);
  const Json& predicate = json_field(statement, "predicate", origin);
  expect_json_fields(predicate, {"from", "to", "accepted"}, origin);
  const std::string from = json_digest(predicate, "from", origin).hex();
  PublicKey to = PublicKey::from_pem(json_text(predicate, "to", origin), origin);
  const Json& subjects = json_list(statement, "subject", origin);
  if (subjects.size() != 1 || json_digest(json_field(subjects[0], "digest", origin), "sha256", origin).hex() != to.hint())
    throw FormatError(origin, -1, "its subject is not the new key");
  if (envelope.key_id != from) throw FormatError(origin, -1, "is not signed by the key that it leads on from");
  if (!to.verify(acceptance(from, to.hint()), base64_decode(json_text(predicate, "accepted", origin), origin)))
    throw FormatError(origin, -1, "the new key's own signature does not hold: its owner did not agree");
  return {from, std::move(to), std::move(envelope)};
}

PublicKey with_rotations(PublicKey trusted, const std::vector<fs::path>& files) {
  std::vector<KeyRotation> left;
  for (const fs::path& file : files) left.push_back(read_rotation(read_file(file, kMostBytes), file));
  std::vector<PublicKey> known = {trusted};
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t i = 0; i < left.size(); ++i) {
      const auto from = std::ranges::find(known, left[i].from, [](const PublicKey& key) { return key.hint(); });
      if (from == known.end()) continue;
      if (!left[i].envelope.verify(*from))
        throw ProvenanceError(fmt::format("the rotation from key {} to {}: the signature does not hold for what is signed",
                                          left[i].from, left[i].to.hint()));
      trusted.add_successor(left[i].to);
      known.push_back(left[i].to);
      left.erase(left.begin() + ptrdiff_t(i));
      moved = true;
      break;
    }
  }
  if (!left.empty())
    throw ProvenanceError(fmt::format(
        "the rotation from key {} to {} does not lead on from key {}, which you trust; give all rotations between them",
        left[0].from, left[0].to.hint(), trusted.hint()));
  return trusted;
}

std::shared_ptr<const PublicKey> TrustOptions::key() const {
  if (!given() && !rotations.empty()) throw UsageError("--rotations lead on from a key: give it with --public-key");
  if (!given()) return nullptr;
  const std::vector<std::string> files = split_list(rotations);
  return std::make_shared<const PublicKey>(with_rotations(PublicKey::read(public_key), {files.begin(), files.end()}));
}

}  // namespace overproof
