#include "audit/eu_summary.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "core/markdown.h"
#include "core/printable.h"

namespace overproof {
namespace {

constexpr const char* kNotRecorded = "not recorded";
constexpr const char* kTemplate =
    "Template for the Public Summary of Training Content for general-purpose AI models, required by Article 53(1)(d) of "
    "Regulation (EU) 2024/1689; "
    "Communication C(2025) 8311 final of 5 December 2025";

struct Section {
  std::string number, title;
  Json answers = Json::array();
  Json table = nullptr;  ///< {"columns", "rows"}

  void say(const char* question, const std::string& answer) {
    answers.push_back({{"question", question}, {"answer", answer}, {"basis", "recorded"}});
  }
  void leave(const char* question) {
    answers.push_back({{"question", question}, {"answer", kNotRecorded}, {"basis", kNotRecorded}});
  }
};

std::string license_of(const ArtifactFacts& a) { return a.license.empty() ? std::string("licence not recorded") : a.license; }

class Summary {
 public:
  Summary(const LineageFacts& facts, const std::optional<std::string>& time) : facts_(facts), time_(time), of_(facts.ends()) {
    std::erase_if(of_, [](const ArtifactFacts* a) { return a->role != Role::model; });
    used_.resize(facts.artifacts.size());
    for (const ArtifactFacts* end : of_) {
      const auto ways = ways_into(facts, *end);
      for (size_t i = 0; i < ways.size(); ++i) used_[i].insert(ways[i].begin(), ways[i].end());
      complete_ = complete_ && !ancestors_missing(facts, *end);
    }
  }

  Json write() {
    if (of_.empty()) throw UsageError(fmt::format("{}: holds no model to summarise", facts_.run.path.string()));
    Section head{"", "Public Summary of Training Content"};
    head.leave("Version of the Summary");
    if (time_) head.say("Last update", *time_);
    else head.leave("Last update");
    list_.push_back(std::move(head));
    general();
    sources();
    processing();
    Json sections = Json::array();
    for (Section& s : list_) {
      Json section = {{"number", s.number}, {"title", s.title}, {"answers", std::move(s.answers)}};
      if (!s.table.is_null()) section["table"] = std::move(s.table);
      sections.push_back(std::move(section));
    }
    return {{"template", kTemplate}, {"lineage_complete", complete_}, {"sections", sections}};
  }

 private:
  template <class Visit>
  void each(Role role, Visit visit) const {
    for (size_t i = 0; i < facts_.artifacts.size(); ++i)
      if (facts_.artifacts[i].role == role && !used_[i].empty()) visit(facts_.artifacts[i], used_[i]);
  }

  void general() {
    Section provider{"1.1", "Provider identification"};
    provider.leave("Provider name and contact details");
    provider.leave("Authorised representative name and contact details");
    list_.push_back(std::move(provider));

    Section model{"1.2", "Model identification"};
    std::string names, dependencies;
    for (const ArtifactFacts* a : of_)
      names += fmt::format("{}{} (sha256:{})", names.empty() ? "" : "; ", a->title, facts_.lineage(*a).root.hex());
    model.say("Versioned model name(s)", names);
    each(Role::model, [&](const ArtifactFacts& a, const std::set<Way>& ways) {
      if (!a.kind || a.kind->origin != Origin::outside) return;
      std::vector<std::string> how;
      for (const Way w : ways) how.emplace_back(way_name(w));
      dependencies += fmt::format("{}{}, {}, sha256:{}, got in by its {}", dependencies.empty() ? "" : "; ", a.title,
                                  license_of(a), facts_.lineage(a).root.hex(), fmt::join(how, " and "));
    });
    model.say("Model dependencies",
              dependencies.empty() ? complete_ ? "none: its weights were drawn from a seed" : kNotRecorded : dependencies);
    model.leave("Date of placement of the model on the Union market");
    list_.push_back(std::move(model));

    Section size{"1.3", "Modalities, overall training data size and other characteristics"};
    Tally total;
    each(Role::corpus, [&](const ArtifactFacts& a, const auto&) {
      if (!a.corpus) return;
      total.documents += a.corpus->total.documents, total.bytes += a.corpus->total.bytes, total.tokens += a.corpus->total.tokens;
    });
    const char* bracket = total.tokens < 1'000'000'000         ? "Less than 1 billion tokens"
                          : total.tokens <= 10'000'000'000'000 ? "1 billion to 10 trillion tokens"
                                                               : "More than 10 trillion tokens";
    size.say("Modality", "Text");
    if (total.documents > 0)
      size.say("Training data size", fmt::format("{} ({} tokens in {} documents, {} bytes, held-out documents included)", bracket,
                                                 total.tokens, total.documents, total.bytes));
    else size.leave("Training data size");
    size.leave("Types of content");
    size.leave("Latest date of data acquisition/collection for model training");
    size.leave("Description of the linguistic characteristics of the overall training data");
    size.say(
        "Other relevant characteristics of the overall training data",
        "Covers what this lineage trained on. What an imported model was trained on before is for its own provider's summary.");
    list_.push_back(std::move(size));
  }

  /// Yes-or-no questions about how data was obtained: a statement knows sources and licences, not who handed them over.
  void left_open(const char* number, const char* title, std::initializer_list<const char*> questions) {
    Section section{number, title};
    for (const char* q : questions) section.leave(q);
    list_.push_back(std::move(section));
  }

  void sources() {
    Section open{"2.1", "Publicly available datasets"};
    open.leave("Have you used publicly available datasets to train the model?");
    Json rows = Json::array();
    std::string licenses;
    each(Role::corpus, [&](const ArtifactFacts& a, const auto&) {
      if (!a.corpus) return;
      for (const SourceCount& s : a.corpus->sources)
        rows.push_back(
            {a.title, s.name, std::to_string(s.count.documents), std::to_string(s.count.bytes), std::to_string(s.count.tokens)});
      for (const LicenseCount& l : a.corpus->licenses)
        licenses += fmt::format("{}{} ({} documents, {} bytes)", licenses.empty() ? "" : "; ", l.license.text(),
                                l.count.documents, l.count.bytes);
    });
    open.say("General description of the datasets",
             rows.empty() ? "no corpus is in the lineage"
                          : "The table lists every source of the corpus. Which of them were publicly available, and which belong "
                            "under 2.2, 2.3 or 2.6, is not recorded.");
    if (!licenses.empty()) open.say("Licences of the documents, as recorded", licenses);
    if (!rows.empty()) open.table = {{"columns", {"corpus", "source", "documents", "bytes", "tokens"}}, {"rows", rows}};
    list_.push_back(std::move(open));

    left_open("2.2.1", "Datasets commercially licensed by rightsholders or their representatives",
              {"Have you concluded transactional commercial licensing agreement(s) with rightsholder(s) or with their "
               "representatives?"});
    left_open("2.2.2", "Private datasets obtained from other third parties",
              {"Have you obtained private datasets from third parties that are not licensed as described in Section 2.2.1?"});
    left_open("2.3", "Data crawled and scraped from online sources", {"Were crawlers used by the provider or on its behalf?"});
    left_open(
        "2.4", "User data",
        {"Was data from user interactions with the AI model (e.g. user input and prompts) used to train the model?",
         "Was data collected from user interactions with the provider's other services or products used to train the model?"});
    synthetic();
    left_open("2.6", "Other sources of data",
              {"Have data sources other than those described in Sections 2.1 to 2.5 been used to train the model?"});
  }

  void synthetic() {
    Section section{"2.5", "Synthetic data"};
    std::set<std::string> teachers, modalities;
    std::string amounts;
    each(Role::targets, [&](const ArtifactFacts& a, const auto&) {
      const Lineage& lineage = facts_.lineage(a);
      modalities.insert("a teacher model's probabilities over tokens");
      if (a.entering(Entry::outputs).empty()) teachers.insert("?");
      for (const InputFacts* input : a.entering(Entry::outputs))
        if (!facts_.artifact(*input)) teachers.insert(fmt::format("{} (not here, sha256:{})", input->name, input->root.hex()));
      const auto tokens = lineage.config.find("tokens");
      amounts += fmt::format("{}{}: probabilities over next tokens{}, {} bytes", amounts.empty() ? "" : "; ", a.title,
                             tokens != lineage.config.end() && tokens->is_number_integer()
                                 ? fmt::format(" at {} positions of the corpus", tokens->dump())
                                 : "",
                             a.bytes);
    });
    each(Role::samples, [&](const ArtifactFacts&, const auto&) { modalities.insert("documents that a model wrote"); });
    // Every model whose outputs something was made with: calibration asks a teacher, too, and keeps no file of its answers.
    for (const ArtifactFacts& a : facts_.artifacts) {
      if (!is_used(a)) continue;
      for (const InputFacts* input : a.entering(Entry::outputs))
        if (const ArtifactFacts* t = facts_.artifact(*input); t && t->role == Role::model) {
          teachers.insert(fmt::format("{} ({}, sha256:{})", t->title, license_of(*t), facts_.lineage(*t).root.hex()));
          if (a.kind->is_model()) modalities.insert("a teacher model's probabilities over tokens");
        }
    }
    const char* question = "Was synthetic AI-generated data created by the provider or on their behalf to train the model?";
    if (teachers.empty()) {
      if (complete_)
        section.say(question,
                    "No: the lineage is complete and no artifact in it holds a model's answers. Whether documents of the corpus "
                    "were generated is not recorded.");
      else section.leave(question);
    } else {
      section.say(question, "Yes");
      section.say("Modality of the synthetic data", fmt::format("Text, as {}", fmt::join(modalities, "; ")));
      section.say("AI model(s) used to generate the synthetic data", fmt::format("{}", fmt::join(teachers, "; ")));
      if (!amounts.empty()) section.say("Additional comments", amounts);
    }
    list_.push_back(std::move(section));
  }

  bool is_used(const ArtifactFacts& a) const {
    if (!used_[size_t(&a - facts_.artifacts.data())].empty()) return true;
    return std::find(of_.begin(), of_.end(), &a) != of_.end();
  }

  void processing() {
    left_open("3.1", "Respect of reservation of rights from text and data mining exception or limitation",
              {"Are you a Signatory to the Code of Practice for general-purpose AI models that includes commitments to respect "
               "reservations of rights "
               "from the TDM exception or limitation?",
               "Describe the measures implemented before model training to respect reservations of rights from the TDM exception "
               "or limitation"});
    left_open("3.2", "Removal of illegal content", {"General description of measures taken"});
    Section other{"3.3", "Other information"};
    each(Role::corpus, [&](const ArtifactFacts& a, const auto&) {
      const Json& metrics = facts_.lineage(a).metrics;
      const auto number = [&](const char* name) {
        return metrics.contains(name) && metrics[name].is_number() ? metrics[name].dump() : std::string("?");
      };
      other.say(
          "Other relevant information about data processing",
          fmt::format("{} (sha256:{}): documents with the same digest are kept once ({} left out), shorter and longer ones than "
                      "configured are left "
                      "out ({} and {}); the licence of each document is in documents.jsonl.",
                      a.title, facts_.lineage(a).root.hex(), number("duplicates"), number("too_short"), number("too_long")));
    });
    other.say("How this can be checked",
              "Every figure here comes from signed statements: 'overproof audit verify' checks them, 'overproof audit trace' "
              "shows how a document was used.");
    if (!complete_)
      other.say("Limits", "Some ancestors of the model are not here, so that data may be missing from this summary.");
    list_.push_back(std::move(other));
  }

  const LineageFacts& facts_;
  const std::optional<std::string>& time_;
  std::vector<const ArtifactFacts*> of_;
  std::vector<std::set<Way>> used_;
  bool complete_ = true;
  std::vector<Section> list_;
};

std::string cells(const Json& row) {
  std::string line = "|";
  for (const Json& c : row) line += " " + escape_markdown(c.get<std::string>()) + " |";
  return line + "\n";
}

std::string markdown(const Json& summary) {
  std::string text =
      fmt::format("# Public Summary of Training Content\n\n{}. \"Not recorded\" marks what no signed statement records.\n",
                  summary["template"].get<std::string>());
  char chapter = 0;
  const auto title_of = [](char c) {
    return c == '1' ? "General information" : c == '2' ? "List of data sources" : "Data processing aspects";
  };
  for (const Json& s : summary["sections"]) {
    const auto number = s["number"].get<std::string>();
    if (!number.empty() && number[0] != chapter) text += fmt::format("\n## {}. {}\n", chapter = number[0], title_of(number[0]));
    if (!number.empty())
      text += fmt::format("\n{} {} {}\n", number.size() > 3 ? "####" : "###", number, s["title"].get<std::string>());
    text += '\n';
    for (const Json& a : s["answers"]) {
      const std::string answer = a["basis"] == kNotRecorded ? "*not recorded*" : escape_markdown(a["answer"].get<std::string>());
      text += fmt::format("- **{}**: {}\n", escape_markdown(a["question"].get<std::string>()), answer);
    }
    if (!s.contains("table")) continue;
    text += "\n" + cells(s["table"]["columns"]) + "|";
    for (size_t i = 0; i < s["table"]["columns"].size(); ++i) text += "---|";
    text += '\n';
    for (const Json& row : s["table"]["rows"]) text += cells(row);
  }
  return text;
}

}  // namespace

Json eu_summary(const LineageFacts& facts, const std::optional<std::string>& time) { return Summary(facts, time).write(); }

Answer audit_summary(const SummaryConfig& config, const fs::path& folder) {
  if (!config.eu) throw UsageError("audit summary: name the template: --eu");
  const std::optional<std::string> time = config.document.time();
  const LineageFacts facts = config.document.facts(folder);
  const Json summary = eu_summary(facts, time);
  return deliver(config.format == SummaryConfig::Format::json ? printable_json(summary.dump()) + "\n" : markdown(summary),
                 summary, config.document.out);
}

}  // namespace overproof
