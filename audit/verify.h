#pragma once
// `overproof audit verify`: checks that everything is as it was signed, and that every chain reaches the teacher and the corpus.

#include <string>
#include <vector>

#include "core/answer.h"
#include "core/config.h"
#include "provenance/key_rotation.h"
#include "provenance/run_folder.h"

namespace overproof {

struct VerifyConfig {
  TrustOptions trust;
  fs::path salt;
  template <class V>
  void visit(V&& v) {
    trust.visit(v);
    v("salt", salt, any_value(), "the secret of a private corpus, to compare its commitment with its documents");
  }
};

enum class Severity { note, failure };

struct Finding {
  Severity severity = Severity::failure;
  std::string artifact;  ///< the folder's name; "" for the run as a whole
  std::string file;      ///< inside the artifact; "" for all of it
  std::string what;
  std::string remedy;  ///< "" where nothing is to be done
};

struct Verification {
  RunFolder run;
  std::vector<Finding> findings;
  std::vector<std::string> signers;  ///< key hints, distinct
  int64_t files = 0, bytes = 0;      ///< listed in the statements
  bool holds() const;
};

Verification verify_run(const fs::path& folder, const VerifyConfig& config);

/// Exit code 4 when anything does not hold.
Answer audit_verify(const VerifyConfig& config, const fs::path& folder);

}  // namespace overproof
