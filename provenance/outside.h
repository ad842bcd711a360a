#pragma once
// What comes from outside: inputs without a statement of ours, and signatures of other tools.

#include <string>
#include <vector>

#include "provenance/artifact.h"

namespace overproof {

/// scan_artifact() of an input, which may be from outside: without a statement, hidden files are left out and a link to a file is that
/// file, so that a cache of downloads, whose files are links, has the identity of a plain copy. Throws FormatError for a link that
/// leads nowhere or to a folder.
ArtifactRecord scan_input(const fs::path& path, const std::vector<FileRecord>& known = {});

/// Files and folders of a folder signed by another tool that its signature does not cover, because its signer left them out. Throws as
/// read_oms_bundle.
std::vector<std::string> not_covered(const fs::path& folder);

/// Throws ProvenanceError where the signature of another tool leaves out something that a loader may read: all but hidden files, Markdown and pictures.
/// To be called before a signature is taken for that of the model.
void require_covered(const fs::path& folder);

}  // namespace overproof
