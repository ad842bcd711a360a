#include "data/document_routes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "core/error.h"

namespace overproof {
namespace {

const std::string& value_of_field(const Document& document, RouteField field) {
  switch (field) {
    case RouteField::license:
      return document.license;
    case RouteField::teacher:
      return document.teacher;
    default:
      return document.source;
  }
}

}  // namespace

std::string_view route_field_name(RouteField field) {
  static constexpr std::string_view kNames[] = {"none", "source", "license", "teacher"};
  return kNames[size_t(field)];
}

DocumentRoutes::DocumentRoutes(std::shared_ptr<const Corpus> corpus, RouteField field, const StringMap& routes,
                               const std::vector<std::string>& teachers, const std::vector<Split>& splits)
    : corpus_(std::move(corpus)) {
  OVERPROOF_CHECK(field != RouteField::none);
  const auto known = [&](const std::string& name) { return std::ranges::find(teachers, name) != teachers.end(); };
  for (const auto& [value, name] : routes)
    if (!known(name))
      throw UsageError(fmt::format("option 'routes': '{}={}' names no teacher; there are {}", value, name, fmt::join(teachers, ", ")));
  const auto fallback = routes.find(kAnyValue);
  std::set<std::string> values, used;
  std::vector<const std::string*> names;  // by document
  for (const Document& document : corpus_->documents()) {
    names.push_back(nullptr);
    if (std::ranges::find(splits, document.split) == splits.end()) continue;
    const std::string& value = value_of_field(document, field);
    values.insert(value);
    if (const auto route = routes.find(value); route != routes.end()) names.back() = &route->second;
    else if (field == RouteField::teacher && known(value)) names.back() = &value;
    else if (fallback != routes.end()) names.back() = &fallback->second;
    else
      throw UsageError(fmt::format("no teacher is responsible for the document '{}', of which the {} is '{}'; add a route for it, or '{}=NAME' for all "
                                   "others, to --routes",
                                   document.name, route_field_name(field), value, kAnyValue));
    used.insert(*names.back());
  }
  for (const auto& [value, name] : routes)
    if (value != kAnyValue && !values.contains(value))
      throw UsageError(fmt::format("option 'routes': no document has the {} '{}'", route_field_name(field), value));
  for (const std::string& name : teachers)
    if (!used.contains(name))
      throw UsageError(fmt::format("no document has a route to the teacher '{}'; leave it out, or add a route to it to --routes", name));
  teachers_.assign(used.begin(), used.end());
  shares_.resize(teachers_.size());
  for (size_t i = 0; i < names.size(); ++i) {
    teacher_of_.push_back(-1);
    if (!names[i]) continue;
    teacher_of_.back() = int32_t(std::ranges::lower_bound(teachers_, *names[i]) - teachers_.begin());
    const Document& document = corpus_->documents()[i];
    if (document.split != Split::train) continue;
    ++shares_[size_t(teacher_of_.back())].documents;
    shares_[size_t(teacher_of_.back())].tokens += document.tokens;
  }
}

void DocumentRoutes::read_window(Split split, int64_t window, std::span<int32_t> out) const {
  const int64_t length = corpus_->window_length(), first = window * length + 1;  // of the labels
  OVERPROOF_CHECK(int64_t(out.size()) == length);
  for (int64_t at = first, end = first + length; at < end;) {
    const Document& d = corpus_->document_at(split, at);
    const int64_t stop = std::min(end, d.first_token + d.tokens);
    const int32_t teacher = teacher_of_[size_t(&d - corpus_->documents().data())];
    OVERPROOF_CHECK(teacher >= 0);
    std::fill(out.begin() + (at - first), out.begin() + (stop - first), teacher);
    at = stop;
  }
}

}  // namespace overproof
