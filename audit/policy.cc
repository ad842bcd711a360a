#include "audit/policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "core/error.h"
#include "core/json.h"
#include "core/json_object.h"
#include "core/config.h"
#include "core/printable.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

constexpr std::string_view kActions[] = {"allow", "acknowledge", "deny"};
constexpr std::string_view kStates[] = {"allowed", "satisfied", "acknowledged", "open", "denied"};
constexpr const char* kUnspecified = "unspecified";
constexpr const char* kUnknownAncestry = "unknown-ancestry";

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) == std::tolower(static_cast<unsigned char>(y));
  });
}

Action action_from(const JsonObject& object, const std::string& name) {
  const std::string text = object.text(name);
  for (size_t i = 0; i < std::size(kActions); ++i)
    if (text == kActions[i]) return Action(i);
  object.fail(name, "must be \"allow\", \"acknowledge\" or \"deny\"");
}

/// What one licence comes to, and why.
struct Outcome {
  PolicyState state = PolicyState::allowed;
  std::vector<std::string> duties;
};

class Judge {
 public:
  Judge(const Policy& policy, const PolicyQuestion& question) : policy_(policy), question_(question) {}

  /// `id` "": nothing was recorded. `recorded`: how it was spelled, which may be acknowledged as well.
  Outcome one(const std::string& id, const std::string& recorded, const std::set<Way>& ways) const {
    Outcome out;
    const LicenseTerms* terms = find_license(id);
    const bool output_only = std::all_of(ways.begin(), ways.end(), [](Way w) { return w == Way::outputs; });
    Action worst = Action::allow;
    bool satisfied = false;
    for (int i = 0; terms && i < kDuties; ++i) {
      const Duty duty = Duty(i);
      if (!terms->has(duty) || (output_only && !duty_follows_output(duty))) continue;
      out.duties.push_back(sentence(*terms, duty));
      if (duty == Duty::name_prefix && question_.model_name.starts_with(terms->required)) satisfied = true;
      else worst = std::max(worst, policy_.duties[size_t(i)]);
    }
    if (id.empty()) worst = policy_.unspecified;
    else if (!terms) worst = policy_.unlisted;
    if (const auto named = policy_.licenses.find(id); !id.empty() && named != policy_.licenses.end()) worst = named->second;
    out.state = state(worst, id.empty() ? kUnspecified : id, recorded);
    if (out.state == PolicyState::allowed && satisfied) out.state = PolicyState::satisfied;
    return out;
  }

  PolicyState state(Action action, const std::string& name, const std::string& also = {}) const {
    if (action == Action::deny) return PolicyState::denied;
    if (action == Action::allow) return PolicyState::allowed;
    for (const std::string& said : question_.acknowledged)
      if (same_name(said, name) || (!also.empty() && same_name(said, also))) return PolicyState::acknowledged;
    return PolicyState::open;
  }

  /// The licences that have to be kept: all of "and", of "or" those of the mildest branch.
  std::vector<std::string> chosen(const LicenseExpression& e, const std::string& recorded, const std::set<Way>& ways) const {
    if (e.kind == LicenseExpression::Kind::one) return {e.id};
    std::vector<std::string> best;
    PolicyState mildest = PolicyState::denied;
    for (const LicenseExpression& m : e.members) {
      std::vector<std::string> ids = chosen(m, recorded, ways);
      if (e.kind == LicenseExpression::Kind::all_of) {
        best.insert(best.end(), ids.begin(), ids.end());
        continue;
      }
      PolicyState worst = PolicyState::allowed;
      for (const std::string& id : ids) worst = std::max(worst, one(id, recorded, ways).state);
      if (best.empty() || worst < mildest) best = std::move(ids), mildest = worst;
    }
    return best;
  }

 private:
  static std::string sentence(const LicenseTerms& terms, Duty duty) {
    if (duty == Duty::name_prefix) return fmt::format("{}: the model's name begins with \"{}\"", duty_name(duty), terms.required);
    if (duty == Duty::built_with) return fmt::format("{}: \"Built with {}\" is displayed", duty_name(duty), terms.required);
    return fmt::format("{}: {}", duty_name(duty), duty_meaning(duty));
  }

  const Policy& policy_;
  const PolicyQuestion& question_;
};

class Collector {
 public:
  explicit Collector(const Judge& judge) : judge_(judge) {}

  void add(const std::string& recorded, const std::set<Way>& ways, const std::string& artifact) {
    const LicenseExpression license = parse_license(recorded);
    std::vector<std::string> names;
    for (const Way w : ways) names.emplace_back(way_name(w));
    const std::string from = fmt::format("{} ({})", artifact, fmt::join(names, ", "));
    for (const std::string& id : judge_.chosen(license, recorded, ways)) {
      Outcome outcome = judge_.one(id, recorded, ways);
      put(id.empty() ? kUnspecified : id, from, std::move(outcome));
    }
  }

  void put(const std::string& name, const std::string& from, Outcome outcome) {
    PolicyItem& item = items_[name];
    item.name = name;
    item.state = std::max(item.state, outcome.state);
    if (std::find(item.from.begin(), item.from.end(), from) == item.from.end()) item.from.push_back(from);
    for (std::string& duty : outcome.duties)
      if (std::find(item.duties.begin(), item.duties.end(), duty) == item.duties.end()) item.duties.push_back(std::move(duty));
  }

  std::vector<PolicyItem> items() {
    std::vector<PolicyItem> list;
    for (auto& [name, item] : items_) list.push_back(std::move(item));
    return list;
  }

 private:
  const Judge& judge_;
  std::map<std::string, PolicyItem> items_;
};

}  // namespace

Policy default_policy() {
  Policy policy;
  policy.duties.fill(Action::acknowledge);
  for (const Duty d : {Duty::notice, Duty::attribution}) policy.duties[size_t(d)] = Action::allow;
  return policy;
}

Policy read_policy(const fs::path& file) {
  const Json parsed = parse_json(read_file(file, int64_t{1} << 20), file);
  const JsonObject json(parsed, file);
  json.expect_only({"format", "unspecified", "unlisted", "unknown-ancestry", "duties", "licenses"});
  json.integer("format", 1, 1);
  Policy policy = default_policy();
  for (const auto& [name, action] : {std::pair{kUnspecified, &policy.unspecified}, std::pair{"unlisted", &policy.unlisted},
                                     std::pair{kUnknownAncestry, &policy.unknown_ancestry}})
    if (json.has(name)) *action = action_from(json, name);
  if (const auto duties = json.find_object("duties"))
    for (const auto& [name, value] : duties->json().items()) {
      const int duty = duty_index(name);
      if (duty == kDuties) {
        std::vector<std::string> known;
        for (int i = 0; i < kDuties; ++i) known.emplace_back(duty_name(Duty(i)));
        const std::string near = nearest(name, known);
        json.fail(fmt::format(
            "there is no duty '{}'; {}", name.substr(0, 80),
            near.empty() ? fmt::format("duties are {}", fmt::join(known, ", ")) : "did you mean '" + near + "'?"));
      }
      policy.duties[size_t(duty)] = action_from(*duties, name);
    }
  if (const auto licenses = json.find_object("licenses"))
    for (const auto& [name, value] : licenses->json().items()) {
      const LicenseExpression license = parse_license(name);
      if (license.kind != LicenseExpression::Kind::one || license.id.empty())
        json.fail("licenses", fmt::format("names one licence at a time, not '{}'", name.substr(0, 200)));
      if (!policy.licenses.emplace(license.id, action_from(*licenses, name)).second)
        json.fail("licenses", fmt::format("lists '{}' twice, under two spellings", license.id));
    }
  return policy;
}

Json to_json(const Policy& policy) {
  Json duties = Json::object(), licenses = Json::object();
  for (int i = 0; i < kDuties; ++i) duties[std::string(duty_name(Duty(i)))] = kActions[size_t(policy.duties[size_t(i)])];
  for (const auto& [id, action] : policy.licenses) licenses[id] = kActions[size_t(action)];
  return {{"format", 1},
          {kUnspecified, kActions[size_t(policy.unspecified)]},
          {"unlisted", kActions[size_t(policy.unlisted)]},
          {kUnknownAncestry, kActions[size_t(policy.unknown_ancestry)]},
          {"duties", duties},
          {"licenses", licenses}};
}

bool PolicyVerdict::holds() const {
  return std::all_of(items.begin(), items.end(), [](const PolicyItem& i) { return i.state < PolicyState::open; });
}

bool PolicyVerdict::denied() const {
  return std::any_of(items.begin(), items.end(), [](const PolicyItem& i) { return i.state == PolicyState::denied; });
}

std::vector<std::string> PolicyVerdict::missing() const {
  std::vector<std::string> names;
  for (const PolicyItem& i : items)
    if (i.state == PolicyState::open) names.push_back(i.name);
  return names;
}

PolicyVerdict judge(const LineageFacts& facts, const ArtifactFacts* of, const Policy& policy, const PolicyQuestion& question) {
  const Judge judge(policy, question);
  Collector collector(judge);
  if (!of || of->role == Role::unknown || ancestors_missing(facts, *of))
    collector.put(kUnknownAncestry, of ? of->name : "the model", {judge.state(policy.unknown_ancestry, kUnknownAncestry), {}});
  if (of) {
    std::vector<std::set<Way>> ways = ways_into(facts, *of);
    for (size_t i = 0; i < facts.artifacts.size(); ++i) {
      const ArtifactFacts& a = facts.artifacts[i];
      if (&a == of) ways[i].insert(Way::weights);
      if (ways[i].empty()) continue;
      if (a.corpus) {
        for (const LicenseCount& l : a.corpus->licenses) collector.add(l.recorded, ways[i], a.name);
        if (a.corpus->licenses.empty()) collector.add("", ways[i], a.name);
      } else if (a.kind && a.kind->origin == Origin::outside) {
        collector.add(a.license, ways[i], a.name);
      }
    }
  }
  return {collector.items()};
}

Json to_json(const PolicyVerdict& verdict) {
  Json items = Json::array();
  for (const PolicyItem& i : verdict.items)
    items.push_back({{"name", i.name}, {"state", kStates[size_t(i.state)]}, {"from", i.from}, {"duties", i.duties}});
  return {{"holds", verdict.holds()}, {"items", items}, {"missing", verdict.missing()}};
}

std::string explain(const PolicyVerdict& verdict) {
  std::string text;
  for (const PolicyItem& i : verdict.items) {
    if (i.state < PolicyState::open) continue;
    text += fmt::format("  {} ({}), from {}\n", printable(i.name),
                        i.state == PolicyState::denied ? "denied by the policy" : "not acknowledged",
                        printable(fmt::format("{}", fmt::join(i.from, ", "))));
    for (const std::string& duty : i.duties) text += fmt::format("      {}\n", printable(duty));
    if (i.name == kUnspecified) text += "      no licence was recorded: ask where it comes from\n";
    else if (i.name == kUnknownAncestry) text += "      what it was made from is not here to be looked at, or does not hold\n";
    else if (i.duties.empty()) text += "      this program does not know what it asks for: read its text\n";
  }
  if (verdict.denied()) text += "What is denied can only be left out, or allowed by another policy.\n";
  if (const auto names = verdict.missing(); !names.empty())
    text += fmt::format("Read each of them, then acknowledge it by name, which will be signed: --acknowledge {}\n",
                        printable(fmt::format("{}", fmt::join(names, ","))));
  return text;
}

namespace {

/// Names that were acknowledged when the model was exported, as its statement has them: a list, or comma-separated in 0.1.
StringList acknowledged_before(const Json& config) {
  if (!config.contains("acknowledge")) return {};
  const Json& value = config["acknowledge"];
  if (value.is_string()) return split_list(value.get<std::string>());
  StringList names;
  if (value.is_array())
    for (const Json& name : value)
      if (name.is_string()) names.push_back(name.get<std::string>());
  return names;
}

std::string text_of(const PolicyVerdict& verdict, const std::string& model) {
  std::string out;
  for (const PolicyItem& i : verdict.items)
    out += fmt::format("{:<12} {:<36} {}\n", kStates[size_t(i.state)], printable(i.name),
                       printable(fmt::format("{}", fmt::join(i.from, ", "))));
  if (verdict.holds()) return out + fmt::format("{}: allowed by policy\n", printable(model));
  return out + fmt::format("\n{}: blocked by policy\n{}", printable(model), explain(verdict));
}

}  // namespace

Answer audit_policy(const PolicyConfig& config, const fs::path& artifact) {
  const Policy policy = config.policy.empty() ? default_policy() : read_policy(config.policy);
  if (config.show_policy) return {to_json(policy), to_json(policy).dump(1) + "\n"};
  if (artifact.empty()) throw UsageError("audit policy: artifact is missing (the model that would be given away)");
  const auto trusted = config.trust.key();
  RunFolder run = load_run(artifact, VerifyFiles::no, trusted.get());
  require_one_signer(run, trusted.get());
  const LineageFacts facts = collect_facts(std::move(run), {VerifyFiles::no, true});
  require_license_sums(facts);
  if (facts.subject < 0)
    throw UsageError(fmt::format("{}: is a run; name the artifact that would be given away", artifact.string()));
  const ArtifactFacts& of = facts.artifacts[size_t(facts.subject)];
  PolicyQuestion question{config.name, config.acknowledge};
  const Json& recorded = facts.lineage(of).config;
  for (std::string& name : acknowledged_before(recorded)) question.acknowledged.push_back(std::move(name));
  if (question.model_name.empty() && recorded.contains("name") && recorded["name"].is_string())
    question.model_name = recorded["name"].get<std::string>();
  const PolicyVerdict verdict = judge(facts, &of, policy, question);
  return with_signers({to_json(verdict), text_of(verdict, of.name), verdict.holds() ? 0 : 4}, artifact, config.trust);
}

}  // namespace overproof
