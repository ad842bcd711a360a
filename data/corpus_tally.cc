#include "data/corpus_tally.h"

#include "core/json.h"

namespace overproof {

void CorpusTally::add(const Document& document) {
  const char* split = document.split == Split::train ? "train" : "held_out";
  for (Sums* sums : {&licenses_[document.license], &sources_[document.source], &rules_[document.license_rule], &splits_[split]}) {
    ++sums->documents;
    sums->bytes += document.bytes;
    sums->tokens += document.tokens;
  }
}

Json CorpusTally::json(const Table& table, bool documents_only) {
  Json object = Json::object();
  for (const auto& [name, sums] : table) {
    object[name] = {{"documents", sums.documents}};
    if (!documents_only) object[name].update({{"bytes", sums.bytes}, {"tokens", sums.tokens}});
  }
  return object;
}

Json CorpusTally::licenses() const {
  return {{"licenses", json(licenses_)}, {"sources", json(sources_)}, {"license_rules", json(rules_)}};
}

Json CorpusTally::metrics(bool is_private) const {
  return {{"licenses", json(licenses_, is_private)},
          {"sources", json(sources_, is_private)},
          {"license_rules", json(rules_, is_private)},
          {"splits", json(splits_, is_private)}};
}

}  // namespace overproof
