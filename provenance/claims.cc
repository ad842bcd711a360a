#include "provenance/claims.h"

#include "core/error.h"
#include "core/json.h"
#include "core/json_object.h"
#include "provenance/signed_json.h"

namespace overproof {

std::vector<Envelope> read_claims(const fs::path& file) {
  const std::string text = read_file(file, kMaxClaimsBytes);
  std::vector<Envelope> claims;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) throw FormatError(file, int64_t(begin), "the last line has no end: it was cut off");
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    claims.push_back(Envelope::from_json(parse_json(line, file, int64_t(begin)), file));
    begin = end + 1;
  }
  return claims;
}

void append_claim(const fs::path& file, const Envelope& envelope) {
  // Rewritten rather than extended: a claims file is small, and a crash must not leave half a line.
  std::string text = fs::exists(file) ? read_file(file, kMaxClaimsBytes) : std::string();
  text += json_dump(envelope.to_json());
  text += '\n';
  write_file_atomically(file, text);
}

std::string predicate_type_of(const Envelope& envelope, const fs::path& origin) {
  if (envelope.payload_type != kInTotoPayloadType) return {};
  const Json statement = parse_json(envelope.payload, origin);
  return statement.is_object() ? JsonObject(statement, origin).text("predicateType", "") : "";
}

std::optional<Digest> subject_of(const Envelope& envelope, const fs::path& origin) {
  if (envelope.payload_type != kInTotoPayloadType) return std::nullopt;
  const Json statement = parse_json(envelope.payload, origin);
  if (!statement.is_object()) return std::nullopt;
  const std::vector<JsonObject> subjects = JsonObject(statement, origin).objects_or_empty("subject");
  const auto digest = subjects.empty() ? std::nullopt : subjects.front().find_object("digest");
  return digest && digest->has("sha256") ? std::optional(digest->digest("sha256")) : std::nullopt;
}

std::optional<Envelope> find_claim(const std::vector<Envelope>& claims, std::string_view predicate_type, const fs::path& origin) {
  for (const Envelope& claim : claims)
    if (predicate_type_of(claim, origin) == predicate_type) return claim;
  return std::nullopt;
}

}  // namespace overproof
