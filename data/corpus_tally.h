#pragma once
// Sums over a corpus's table of documents: what licenses.json and the metrics of the stage `corpus` hold. The stage writes them, and
// `audit verify` makes them again from the table.

#include <map>
#include <string>

#include "core/json_fwd.h"
#include "data/corpus.h"

namespace overproof {

class CorpusTally {
 public:
  void add(const Document& document);
  Json licenses() const;  ///< the content of licenses.json: "licenses", "sources" and "license_rules", each an object of sums
  /// The same for the signed metrics, with "splits" ("train" and "held_out"). Of a private corpus numbers of documents alone: bytes
  /// and tokens would confirm a guessed text.
  Json metrics(bool is_private) const;

 private:
  struct Sums {
    int64_t documents = 0, bytes = 0, tokens = 0;
  };
  using Table = std::map<std::string, Sums>;
  static Json json(const Table& table, bool documents_only = false);
  Table licenses_, sources_, rules_, splits_;
};

}  // namespace overproof
