#include "provenance/key_rotation.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json_object.h"
#include "core/config.h"
#include "provenance/signed_json.h"

namespace overproof {
namespace {

constexpr std::string_view kRotationType = "urn:overproof:key-rotation:v1";
constexpr int64_t kMostRotationBytes = 64 << 10;

/// What the new key signs.
std::string acceptance(std::string_view from, std::string_view to) {
  return fmt::format("overproof key rotation v1\nfrom {}\nto {}\n", from, to);
}

}  // namespace

std::string make_rotation(const Key& from, const Key& to) {
  const PublicKey &old_key = from.public_key(), &new_key = to.public_key();
  if (old_key == new_key) throw UsageError("the new key is the old one");
  const Json statement = {{"_type", kInTotoStatement},
                          {"subject", Json::array({{{"name", "public key"}, {"digest", {{"sha256", new_key.hint()}}}}})},
                          {"predicateType", kRotationType},
                          {"predicate",
                           {{"from", old_key.hint()},
                            {"to", new_key.pem()},
                            {"accepted", base64_encode(to.sign(acceptance(old_key.hint(), new_key.hint())))}}}};
  return json_dump(sign_envelope(kInTotoPayloadType, json_dump(statement), from, old_key.hint()).to_json()) + "\n";
}

KeyRotation read_rotation(std::string_view text, const fs::path& origin) {
  Envelope envelope = Envelope::from_json(parse_json(text, origin), origin);
  if (envelope.payload_type != kInTotoPayloadType) throw FormatError(origin, -1, "holds no in-toto statement");
  const Json json = parse_json(envelope.payload, origin);
  const JsonObject statement(json, origin);
  statement.expect_only({"_type", "subject", "predicateType", "predicate"});
  statement.expect_text("_type", kInTotoStatement);
  statement.expect_text("predicateType", kRotationType);
  const JsonObject predicate = statement.object("predicate");
  predicate.expect_only({"from", "to", "accepted"});
  const std::string from = predicate.digest("from").hex();
  PublicKey to = PublicKey::from_pem(predicate.text("to"), origin);
  const std::vector<JsonObject> subjects = statement.objects("subject");
  if (subjects.size() != 1 || subjects[0].object("digest").digest("sha256").hex() != to.hint())
    statement.fail("subject", "is not the new key");
  if (envelope.key_id != from) throw FormatError(origin, -1, "is not signed by the key that it starts from");
  if (!to.verify(acceptance(from, to.hint()), base64_decode(predicate.text("accepted"), origin)))
    throw FormatError(origin, -1, "the new key's own signature does not hold: its owner did not agree");
  return {from, std::move(to), std::move(envelope)};
}

PublicKey with_rotations(PublicKey trusted, const std::vector<fs::path>& files) {
  std::vector<KeyRotation> left;
  for (const fs::path& file : files) left.push_back(read_rotation(read_file(file, kMostRotationBytes), file));
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
        "the rotation from key {} to {} does not start from key {}, which you trust, or a successor of it; give all rotations between them",
        left[0].from, left[0].to.hint(), trusted.hint()));
  return trusted;
}

std::shared_ptr<const PublicKey> TrustOptions::key() const {
  if (!given() && !rotations.empty()) throw UsageError("--rotations needs the key that they start from: give it with --public-key");
  if (!given()) return nullptr;
  return std::make_shared<const PublicKey>(with_rotations(PublicKey::read(public_key), {rotations.begin(), rotations.end()}));
}

}  // namespace overproof
