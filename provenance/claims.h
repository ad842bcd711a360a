#pragma once
// claims.jsonl: signed statements about an artifact, one DSSE envelope a line. The first is its lineage; others may be
// appended later without touching the artifact; they are no lineage.

#include <optional>
#include <string>
#include <vector>

#include "provenance/dsse.h"

namespace overproof {

inline constexpr int64_t kMaxClaimsBytes = int64_t{256} << 20;

/// All envelopes of a claims file, in order; nothing is verified. Throws FormatError naming the offset of a bad line.
std::vector<Envelope> read_claims(const fs::path& file);

/// Appends one line, whole or not at all. The file is made when missing.
void append_claim(const fs::path& file, const Envelope& envelope);

/// The predicate type of an envelope's in-toto statement; "" when it holds none.
std::string predicate_type_of(const Envelope& envelope, const fs::path& origin);

/// SHA-256 of the first subject of an envelope's in-toto statement; nothing where it has none.
std::optional<Digest> subject_of(const Envelope& envelope, const fs::path& origin);

/// The first envelope with that predicate type.
std::optional<Envelope> find_claim(const std::vector<Envelope>& claims, std::string_view predicate_type, const fs::path& origin);

}  // namespace overproof
