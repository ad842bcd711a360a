#include "audit/statement_tool.h"

#include <fmt/format.h>
#include <unistd.h>

#include <optional>

#include "audit/facts.h"
#include "core/error.h"
#include "core/json.h"
#include "core/json_object.h"
#include "core/printable.h"
#include "provenance/claims.h"
#include "provenance/signed_json.h"
#include "provenance/oms.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

constexpr int64_t kMaxBundleBytes = int64_t{256} << 20;

/// The envelope asked for, and the whole text that carries it.
struct Found {
  Envelope envelope;
  std::string carrier;
};

Found find(const ArtifactNode& node, const std::string& type) {
  if (type == "signature") {
    const fs::path file = node.path / kModelSignatureName;
    std::string text = read_file(file, kMaxBundleBytes);
    const Json bundle = parse_json(text, file);
    Envelope envelope = Envelope::from_json(JsonObject(bundle, file).at("dsseEnvelope"), file);
    return {std::move(envelope), std::move(text)};
  }
  const fs::path file = node.path / kClaimsName;
  if (!fs::exists(file))
    throw UsageError(fmt::format("{}: was signed by another tool and has no {}", node.path.string(), kClaimsName));
  const std::string wanted = type == "lineage" ? std::string(kLineagePredicateType) : type;
  const auto claim = find_claim(read_claims(file), wanted, file);
  if (!claim) throw UsageError(fmt::format("{}: holds no statement of type '{}'", file.string(), wanted));
  return {*claim, json_dump(claim->to_json())};
}

}  // namespace

Answer audit_statement(const StatementConfig& config, const fs::path& folder) {
  const auto trusted = config.trust.key();
  const RunFolder run = load_run(folder, VerifyFiles::no, trusted.get());
  require_one_signer(run, trusted.get());
  std::string text;
  Json statements = Json::array();
  for (const ArtifactNode& node : run.nodes) {
    if (run.single && node.path != run.path) continue;
    if (!node.check.faults.empty()) throw ProvenanceError(does_not_hold(node));
    const Found found = find(node, config.type);
    const std::string& bytes = config.envelope ? found.carrier : found.envelope.payload;
    statements.push_back(parse_json(bytes, node.path));
    text += config.pretty ? printable_json(statements.back().dump(1)) : bytes;
    // A single statement goes to a file as it was signed, without a newline that is not signed.
    if (!run.single && !text.ends_with('\n')) text += '\n';
  }
  // A file or a pipe gets the bytes that were signed; a terminal the same JSON without characters that change how it is shown.
  if (config.out.empty() && ::isatty(STDOUT_FILENO)) text = printable_json(text);
  return deliver(text, std::move(statements), config.out);
}

}  // namespace overproof
