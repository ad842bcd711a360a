#include "audit/prove.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

std::string plural(int64_t n, const char* what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); }

std::string hex_of(const Digest& digest) { return "sha256:" + digest.hex(); }

Json consistency_json(const ConsistencyCheck& check, const std::string& signer) {
  return {{"corpus", hex_of(check.origin.corpus)},
          {"documents", check.newer.size},
          {"older", {{"corpus", hex_of(check.older_origin.corpus)}, {"documents", check.older.size}}},
          {"signer", signer}};
}

Answer consistency_answer(const MadeConsistency& made) {
  const ConsistencyCheck& check = made.check;
  const std::string file = made.file.string(), corpus = hex_of(check.origin.corpus);
  Json json = {{"out", file}, {"kind", "consistency"}};
  json.update(consistency_json(check, check.origin.name));
  return {json,
          fmt::format("{}: proof that corpus '{}' ({}, {}) begins with all of corpus {} ({})\n"
                      "  to check it: overproof audit check-proof {} --checkpoint-key KEY.note.pub --older OLDER --corpus {}\n",
                      printable(file), printable(made.corpus), corpus, plural(check.newer.size, "document"),
                      hex_of(check.older_origin.corpus), plural(check.older.size, "document"), printable(file), corpus)};
}

/// Whose note key it is. A note key is made in a moment; only what binds it to a known signing key makes a proof convict.
std::string key_question(const CheckedProof& checked) {
  if (!checked.signing_key.empty())
    return fmt::format("  the note key is that of the signing key {}, by its signed record\n", checked.signing_key);
  return "  not checked: whose note key it is (pass --public-key with the signer's key, and --record with the run's "
         "audits/checkpoint-CORPUS.json)\n";
}

Answer checked_consistency(const CheckProofConfig& config, const CheckedProof& checked) {
  const ConsistencyCheck& check = *checked.consistency;
  Answer answer{{{"holds", check.holds()}, {"kind", "consistency"}, {"fault", check.fault}}, {}, check.holds() ? 0 : 4};
  if (!check.holds()) {
    answer.text = fmt::format("does not hold: {}\n", printable(check.fault));
    return answer;
  }
  answer.json.update(consistency_json(check, checked.signer));
  answer.text = fmt::format("holds: {} committed that corpus {} of {} begins with all of corpus {} of {}\n",
                            printable(checked.signer), hex_of(check.origin.corpus), plural(check.newer.size, "document"),
                            hex_of(check.older_origin.corpus), plural(check.older.size, "document"));
  if (config.older.empty())
    answer.text += "  not checked: that the older checkpoint is the one you were given (pass --older FILE)\n";
  if (config.corpus.empty())
    answer.text +=
        "  not checked: that the model was made from the newer corpus (pass --corpus with the root in the model's statement)\n";
  answer.text += key_question(checked);
  answer.json["signing_key"] = checked.signing_key;
  return answer;
}

/// What a proof that holds leaves open.
std::string open_questions(const CheckProofConfig& config, const CheckedProof& checked) {
  std::string text;
  if (config.document.empty()) text += "  not checked: that this digest is your document's (pass --document FILE)\n";
  if (config.corpus.empty())
    text += "  not checked: that the model was made from this corpus (pass --corpus with the root in the model's statement)\n";
  if (!checked.check.bound)
    text += fmt::format(
        "  not checked: that the signed tree is the corpus's; a proof of format 1 does not bind them. Compare its root "
        "{} with the corpus's commitment.json, or ask for a new proof\n",
        checked.check.tree_root.hex());
  if (!checked.proof->present)
    text +=
        "  not shown here: that the signed tree is sorted and complete ('audit verify' of the corpus shows it). A proof that "
        "this document is present would convict the signer\n";
  return text + key_question(checked);
}

}  // namespace

Answer audit_prove(const ProveConfig& config, const fs::path& folder) {
  if (config.document.empty() == config.older.empty())
    throw UsageError(
        "audit prove: give --document (a text file, a digest or a document's name), or --older (a checkpoint), and not both");
  if (config.out.empty()) throw UsageError("audit prove: --out is empty");
  if (!config.older.empty()) return with_signers(consistency_answer(prove_consistency(config, folder)), folder, config.trust);
  const MadeProof made = prove_document(config, folder);
  const CorpusProof& proof = made.proof;
  const std::string file = made.file.string(), document = hex_of(proof.document), corpus = hex_of(made.check.origin.corpus);
  Answer answer{
      {{"out", file},
       {"kind", proof.present ? "presence" : "absence"},
       {"document", document},
       {"corpus", corpus},
       {"tree", tree_name(proof.tree)},
       {"documents", made.head.size},
       {"signer", made.check.origin.name}},
      fmt::format("{}: proof that {} is {} corpus '{}' ({}, {})\n"
                  "  to check it: overproof audit check-proof {} --checkpoint-key KEY.note.pub --document FILE --corpus {}\n",
                  printable(file), document, proof.present ? "in" : "not in", printable(made.corpus), corpus,
                  plural(made.head.size, "document"), printable(file), corpus)};
  if (!proof.present && made.check.origin.is_private)
    answer.text +=
        "  it reveals the salt of the sorted tree: the holder of this proof can test guessed texts against the two values in it, "
        "and against all others that become known\n";
  return with_signers(std::move(answer), folder, config.trust);
}

Answer audit_check_proof(const CheckProofConfig& config, const fs::path& file) {
  const CheckedProof checked = check_proof(config, file);
  if (checked.consistency) return checked_consistency(config, checked);
  const ProofCheck& check = checked.check;
  const CorpusProof& proof = *checked.proof;
  Answer answer{{{"holds", check.holds()},
                 {"kind", proof.present ? "presence" : "absence"},
                 {"document", hex_of(proof.document)},
                 {"fault", check.fault}},
                {},
                check.holds() ? 0 : 4};
  if (!check.holds()) {
    answer.text = fmt::format("does not hold: {}\n", printable(check.fault));
    return answer;
  }
  answer.json.update({{"corpus", hex_of(check.origin.corpus)},
                      {"documents", check.documents},
                      {"signer", checked.signer},
                      {"tree_root", check.tree_root.hex()},
                      {"bound_to_corpus", check.bound},
                      {"signing_key", checked.signing_key},
                      {"private", check.origin.is_private}});
  answer.text =
      fmt::format("holds: {} committed that {} is {} corpus {} of {}\n", printable(checked.signer), hex_of(proof.document),
                  proof.present ? "in" : "not in", hex_of(check.origin.corpus), plural(check.documents, "document")) +
      open_questions(config, checked);
  return answer;
}

Answer audit_checkpoint(const CheckpointConfig& config, const fs::path& folder) {
  const SignedCheckpoints made = sign_checkpoints(config, folder);
  Answer answer{{{"corpus", hex_of(made.corpus.root)},
                 {"note_key", made.note_key},
                 {"documents", made.notes[0]},
                 {"sorted", made.notes[1]},
                 {"published", config.publish.string()}},
                {}};
  for (const CorpusTree tree : {CorpusTree::documents, CorpusTree::sorted})
    answer.text += fmt::format("{}:\n{}\n", printable(made.files[size_t(tree)].string()), made.notes[size_t(tree)]);
  answer.text += fmt::format("public note key: {}\n", made.note_key);
  if (!config.publish.empty())
    answer.text += fmt::format("{}: {} as static files{}\n", printable(config.publish.string()),
                               made.sorted_held_back ? "the documents tree" : "both trees",
                               made.sorted_held_back
                                   ? "; the sorted tree of a private corpus is held back, because absence proofs reveal its salt"
                                   : "");
  return answer;
}

Answer audit_salt(const SaltConfig& config) {
  if (config.out.empty()) throw UsageError("audit salt: --out is missing");
  CorpusSalt::create(config.out);
  return {{{"out", config.out.string()}},
          fmt::format("{}: keep it as you keep your signing key; without it nothing about the corpus can be proved\n",
                      printable(config.out.string()))};
}

}  // namespace overproof
