#pragma once
// Options that take a list.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace overproof {

/// What stands between the commas of a list, without blanks around the entries, and without empty ones.
inline std::vector<std::string> split_list(std::string_view list) {
  std::vector<std::string> entries;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    std::string_view entry = list.substr(begin, end - begin);
    while (entry.starts_with(' ')) entry.remove_prefix(1);
    while (entry.ends_with(' ')) entry.remove_suffix(1);
    if (!entry.empty()) entries.emplace_back(entry);
    begin = end + 1;
  }
  return entries;
}

}  // namespace overproof
