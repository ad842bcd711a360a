#include "provenance/signers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/progress_note.h"
#include "core/real_path.h"
#include "provenance/outside.h"

namespace overproof {

std::vector<std::string> signers_of(const RunFolder& run) {
  std::set<std::string> hints;
  for (const ArtifactNode& node : run.nodes)
    if (!node.check.signer_hint.empty()) hints.insert(node.check.signer_hint);
  return {hints.begin(), hints.end()};
}

void require_one_signer(const RunFolder& run, const PublicKey* trusted) {
  const std::vector<std::string> hints = signers_of(run);
  if (!trusted && hints.size() > 1)
    throw ProvenanceError(fmt::format("{}: is signed by {} keys ({}); name the one you trust with --public-key", run.path.string(),
                                      hints.size(), fmt::join(hints, ", ")));
}

std::string signer_of(const Lineage& lineage, const PublicKey* trusted, const fs::path& folder) {
  if (trusted && lineage.signer_pem.empty()) return trusted->hint();
  const std::string named = PublicKey::from_pem(lineage.signer_pem, folder).hint();
  return trusted ? trusted->successor(named).hint() : named;
}

std::string signature_seen(const std::vector<std::string>& hints, bool trusted) {
  if (hints.empty()) return "signed by no key that could be read";
  const std::string keys = fmt::format("signed by {} {}", hints.size() == 1 ? "key" : "keys", fmt::join(hints, ", "));
  return keys + (trusted ? ", named by --public-key" : "; whose it is was not checked (--public-key names the signer you trust)");
}

void require_signed(const fs::path& path, const TrustOptions& trust) {
  const auto trusted = trust.key();
  if (!trusted) return;
  const fs::path folder = fs::is_directory(path) ? path : real_path(path).parent_path();
  const auto refuse = [&](const std::string& what) { throw ProvenanceError(fmt::format("{}: {}", path.string(), what)); };
  if (!fs::exists(folder / "model.sig")) refuse("has no signature (model.sig), so it is not signed by the key of --public-key");
  const ArtifactCheck check = check_artifact(folder, VerifyFiles::yes, trusted.get());
  if (!check.faults.empty() || !check.lineage || !check.signatures_hold)
    refuse(check.faults.empty() ? "its signature does not hold" : fmt::format("{}: {}", check.faults.front().file, check.faults.front().what));
  if (check.foreign) require_covered(folder);
  if (folder != path && std::ranges::none_of(check.lineage->files, [&](const FileRecord& f) { return folder / f.name == real_path(path); }))
    refuse("is no file that the signature next to it covers");
  progress_note(fmt::format("model {}", signature_seen({check.signer_hint}, true)));
}

Answer with_signers(Answer answer, const fs::path& folder, const TrustOptions& trust) {
  if (!run_of(folder)) return answer;  // nothing there is signed, which the answer itself reports
  const auto trusted = trust.key();
  const std::vector<std::string> hints = signers_of(load_run(folder, VerifyFiles::no, trusted.get()));
  if (answer.json.is_object()) {
    answer.json["signers"] = hints;
    answer.json["signer_trusted"] = trusted != nullptr;
  }
  answer.text += signature_seen(hints, trusted != nullptr) + "\n";
  return answer;
}

}  // namespace overproof
