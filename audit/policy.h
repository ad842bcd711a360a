#pragma once
// `overproof audit policy`, and the check before `export`: which licences and teachers' terms a model inherits from its ancestors,
// and whether the policy allows it to be given away. A policy is a JSON file:
//
//   {"format": 1,
//    "unspecified": "acknowledge",          nothing was recorded about a licence
//    "unlisted": "acknowledge",             a licence that the table (audit/licenses.cc) does not know
//    "unknown-ancestry": "acknowledge",     an ancestor is not here, does not hold, or was signed elsewhere
//    "duties": {"share-alike": "acknowledge", "notice": "allow", ...},
//    "licenses": {"GPL-3.0-only": "deny", "LicenseRef-FHS": "allow", ...}}
//
// Each takes "allow", "acknowledge" (it must be acknowledged by name) or "deny" (only another policy allows it). The action of a
// licence follows from its duties, unless "licenses" names it. Everything may be left out: default_policy() has the defaults.

#include <array>
#include <map>
#include <string>
#include <vector>

#include "audit/facts.h"
#include "core/answer.h"
#include "core/config.h"
#include "provenance/key_rotation.h"

namespace overproof {

enum class Action { allow, acknowledge, deny };

struct Policy {
  Action unspecified = Action::acknowledge, unlisted = Action::acknowledge, unknown_ancestry = Action::acknowledge;
  std::array<Action, kDuties> duties{};
  std::map<std::string, Action> licenses;  ///< by SPDX identifier
};

/// Notices and attribution are allowed: bills of materials carry them. Everything else must be acknowledged.
Policy default_policy();

/// Throws FormatError naming the file and the nearest known name.
Policy read_policy(const fs::path& file);
Json to_json(const Policy& policy);

enum class PolicyState { allowed, satisfied, acknowledged, open, denied };

struct PolicyItem {
  std::string name;                 ///< the identifier, "unspecified" or "unknown-ancestry": what --acknowledge takes
  std::vector<std::string> from;    ///< "corpus (documents)", "teacher (outputs, weights)"
  std::vector<std::string> duties;  ///< that apply, as sentences
  PolicyState state = PolicyState::allowed;
};

struct PolicyVerdict {
  std::vector<PolicyItem> items;  ///< by name
  bool holds() const;
  std::vector<std::string> missing() const;  ///< names that would have to be acknowledged
  bool denied() const;
};

struct PolicyQuestion {
  std::string model_name;                 ///< what the model will be called; terms may ask for its beginning
  std::vector<std::string> acknowledged;  ///< names
};

/// `of` is the model that would be given away; nullptr where nothing is known of it.
PolicyVerdict judge(const LineageFacts& facts, const ArtifactFacts* of, const Policy& policy, const PolicyQuestion& question);

Json to_json(const PolicyVerdict& verdict);
/// What is open, for people, and how to proceed.
std::string explain(const PolicyVerdict& verdict);

struct PolicyConfig {
  fs::path policy;
  StringList acknowledge;
  std::string name;
  TrustOptions trust;
  bool show_policy = false;
  template <class V>
  void visit(V&& v) {
    v("policy", policy, any_value(), "policy file (JSON, docs/audit.md); empty: the built-in one");
    v("acknowledge", acknowledge, any_value(), "licences and terms that you have read and accept, by name");
    v("name", name, any_value(), "what the model will be called; some terms ask for how it begins");
    v("show-policy", show_policy, any_value(), "print the policy that holds, as a file to start from");
    trust.visit(v);
  }
};

/// Exit code 4 when something is open or denied.
Answer audit_policy(const PolicyConfig& config, const fs::path& artifact);

}  // namespace overproof
