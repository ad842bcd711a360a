#pragma once
// An artifact is a folder of files with two signatures: model.sig for other tools (OpenSSF Model Signing), claims.jsonl with the
// lineage. Neither is part of the root, so signing does not change the identity of the files.

#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/stage.h"
#include "provenance/keys.h"
#include "provenance/statement.h"

namespace overproof {

struct ArtifactRecord {
  Digest root;
  std::vector<FileRecord> files;  ///< in OMS order; a single file is called by its file name
};

/// Hashes every file of a folder, or a single file, in parallel. Leaves out what OMS ignores. Throws ProvenanceError on
/// a symbolic link or a special file, IoError, and UsageError when there are no files.
/// Files of `known` (name, size, and a digest taken while they were read) are not read again.
ArtifactRecord scan_artifact(const fs::path& path, const std::vector<FileRecord>& known = {});

/// The regular files of a folder with their sizes, without digests, in OMS order. Leaves out and throws as scan_artifact.
std::vector<FileRecord> list_artifact(const fs::path& folder);

/// Digest over names, sizes and times of change: a cheap sign that an artifact was written to. Not an identity.
Digest stat_fingerprint(const fs::path& path);

/// Writes claims.jsonl and model.sig into a finished folder. `files` are the digests taken while writing; they are not read
/// again. `lineage` needs everything but format, root, statement, files and signer; returns it with them.
Lineage seal_artifact(const fs::path& folder, const std::vector<FileRecord>& files, Lineage lineage, const Key& key);

enum class VerifyFiles {
  no,    ///< signatures and statements only
  size,  ///< and that exactly the listed files are there with their sizes
  yes,   ///< and every digest
};

/// Something that does not hold. `file` is relative to the folder, "" for the artifact as a whole.
struct Fault {
  std::string file, what, remedy;
};

/// An error's text for a fault of `file` in `folder` ("": of all of it), without the path of the folder: what a check found goes
/// into documents about no machine.
std::string text_within(const std::exception& error, const fs::path& folder, std::string_view file = {});

struct ArtifactCheck {
  std::optional<Lineage> lineage;  ///< set when a lineage could be read, even if it does not hold
  bool foreign = false;            ///< signed by another tool: there is no lineage to read
  std::string signer_hint;         ///< of the key that the checks were made with
  bool signatures_hold = false;    ///< all of them, by that key, whatever else is wrong
  std::vector<Fault> faults;
};

/// Checks both signatures, that they agree, and the files. A model.sig made elsewhere, without lineage, is checked alone, by
/// `trusted`: then `lineage` has kind "", and files without sizes. `trusted`: nullptr takes the key named in the statement, which
/// shows that nothing changed since, but not who signed. `known` as for scan_artifact. Input is hostile; only IoError is thrown.
ArtifactCheck check_artifact(const fs::path& folder, VerifyFiles verify, const PublicKey* trusted,
                             const std::vector<FileRecord>& known = {});

/// The lineage of a folder that holds; nothing when the folder was never sealed by seal_artifact(). Throws ProvenanceError on any
/// fault.
std::optional<Lineage> open_artifact(const fs::path& folder, VerifyFiles verify, const PublicKey* trusted,
                                     const std::vector<FileRecord>& known = {});

}  // namespace overproof
