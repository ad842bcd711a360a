#include "provenance/signers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "core/error.h"
#include "core/json.h"

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

std::string signature_seen(const std::vector<std::string>& hints, bool trusted) {
  if (hints.empty()) return "signed by no key that could be read";
  const std::string keys = fmt::format("signed by {} {}", hints.size() == 1 ? "key" : "keys", fmt::join(hints, ", "));
  return keys + (trusted ? ", named by --public-key" : "; whose it is was not checked (--public-key names the signer you trust)");
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
