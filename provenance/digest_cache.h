#pragma once
// Digests of a folder's files, taken again without going through whole files one after the other.
//
// SHA-256 of a file is a chain: the state after each chunk follows from the state before it and the chunk's bytes. A cache holds
// the states between chunks, so all links of the chain can be checked at once, on all cores and lanes, instead of in a row. What
// is compared is computed: a link that does not hold (its bytes changed, or the cache is wrong or forged) breaks the chain, and
// from there on the file is hashed as if there were no cache. The first state is SHA-256's own, so a chain that holds ends in the
// file's digest whatever is in the cache: it can cost time, never give a wrong digest. Every byte is read.
//
// Trusting times of change is another thing, and asked for by name: a file whose size, inode, device and times (mtime and ctime)
// are as noted is not read. ctime cannot be set by who may only write the file; it can by root, by setting the clock, or on the
// disk itself, and a file written through a shared memory map may get its ctime later than its bytes. So only a cache that the
// same key has signed is believed, a file is noted only once its last change is some seconds old, and no verifier takes such
// notes.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"
#include "provenance/artifact.h"
#include "provenance/keys.h"

namespace overproof {

/// Attributes that change when a file is changed, as far as the file system can be trusted.
struct FileStamp {
  int64_t device = 0, inode = 0;
  int64_t modified_s = 0, modified_ns = 0;  ///< mtime
  int64_t changed_s = 0, changed_ns = 0;    ///< ctime
  bool operator==(const FileStamp&) const = default;
};

struct CachedFile {
  int64_t bytes = 0;
  Digest digest;                    ///< believed only with the stamp
  std::vector<Sha256State> states;  ///< after 1, 2, ... chunks
  std::optional<FileStamp> stamp;   ///< none where the last change was too recent to be distinguished from a later one
};

struct DigestCache {
  static constexpr int64_t kChunkBytes = int64_t{4} << 20;
  int64_t chunk_bytes = kChunkBytes;
  std::map<std::string, CachedFile, std::less<>> files;
};

struct CachedScan {
  ArtifactRecord record;
  DigestCache cache;  ///< for the next time
  int64_t bytes = 0;  ///< of all files
  int64_t bytes_hashed = 0;
  int64_t bytes_in_row = 0;   ///< of these, hashed one after the other: behind a change, or new
  size_t files_not_read = 0;  ///< taken over because their stamp is as noted
};

/// Whether a file is a cache, or the beginning of one that was cut, or empty: what a new cache may replace.
bool may_be_digest_cache(const fs::path& file);

/// scan_artifact() by way of a cache. `trust_stamps`: leave files unread whose stamp is as noted. Throws as scan_artifact, and
/// IoError when a file is changed while it is read.
CachedScan scan_with_cache(const fs::path& folder, const DigestCache& cache, bool trust_stamps);

/// The cache as a file: a DSSE envelope around JSON, signed.
void write_digest_cache(const fs::path& file, const DigestCache& cache, const Key& key);

struct StoredCache {
  DigestCache cache;
  bool signed_by_key = false;
};

/// Throws FormatError when it is malformed, IoError. `key`: whose signature is looked for.
StoredCache read_digest_cache(const fs::path& file, const PublicKey& key);

/// The JSON inside. Throws FormatError.
DigestCache parse_digest_cache(std::string_view text, const fs::path& origin);

}  // namespace overproof
