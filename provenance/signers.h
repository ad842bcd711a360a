#pragma once
// Whose signatures an answer about a run rests on.

#include "core/answer.h"
#include "provenance/key_rotation.h"
#include "provenance/run_folder.h"

namespace overproof {

/// The keys whose signatures the run's artifacts have, as hints, each once.
std::vector<std::string> signers_of(const RunFolder& run);

/// Throws ProvenanceError when artifacts of the run are signed by several keys and none of them is named as trusted: a part of it
/// may have been exchanged.
void require_one_signer(const RunFolder& run, const PublicKey* trusted);

/// The hint of the key that a statement whose signature holds is signed with. `trusted`: the key that it was checked with; nullptr: the one that
/// it names. Throws FormatError when it names none that can be read.
std::string signer_of(const Lineage& lineage, const PublicKey* trusted, const fs::path& folder);

/// "signed by key 1234... (named by --public-key)", or that it was not checked whose key it is. `hints`: of the keys that were seen.
std::string signature_seen(const std::vector<std::string>& hints, bool trusted);

/// Where a key is named as trusted: checks that the model at `path`, a folder or a file in one, is signed by it and unchanged, and prints whose
/// it is on standard error. Throws ProvenanceError when it is not, or has no signature.
void require_signed(const fs::path& path, const TrustOptions& trust);

/// Adds to an answer about a run, or one artifact in it, whose signatures its statements have: as last line, and as "signers" and
/// "signer_trusted".
Answer with_signers(Answer answer, const fs::path& folder, const TrustOptions& trust);

}  // namespace overproof
