#pragma once
// Which of several teachers is responsible for a document, by a field of the document table.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/config.h"
#include "data/corpus.h"

namespace overproof {

/// A field of Document that names or decides its teacher.
enum class RouteField { none, source, license, teacher };
std::string_view route_field_name(RouteField field);

/// The route of every value that has none of its own.
inline constexpr const char* kAnyValue = "*";

class DocumentRoutes {
 public:
  /// `routes`: from values of the field, or kAnyValue, to names of teachers. Without a route, a value of RouteField::teacher is the name
  /// itself. `teachers`: all names that there are; one of them that no document of `splits` has is a UsageError, as are a route to another
  /// name, a route of a value that no document has, and a document without a teacher.
  DocumentRoutes(std::shared_ptr<const Corpus> corpus, RouteField field, const StringMap& routes, const std::vector<std::string>& teachers,
                 const std::vector<Split>& splits);
  /// Names of the teachers that are responsible for documents, ascending.
  const std::vector<std::string>& teachers() const { return teachers_; }
  struct Share {
    int64_t documents = 0, tokens = 0;
  };
  /// Of the training split, by teacher.
  const std::vector<Share>& shares() const { return shares_; }
  /// For each label of a window [window_length] the number of its document's teacher in teachers().
  void read_window(Split split, int64_t window, std::span<int32_t> out) const;

 private:
  std::shared_ptr<const Corpus> corpus_;
  std::vector<std::string> teachers_;
  std::vector<Share> shares_;
  std::vector<int32_t> teacher_of_;  // by document, in the order of corpus_->documents(); -1 in a split that is not routed
};

}  // namespace overproof
