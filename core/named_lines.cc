#include "core/named_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "core/error.h"

namespace overproof {
namespace {

constexpr size_t kMostLineBytes = size_t{8} << 20;

}  // namespace

int64_t read_named_lines(const fs::path& file, std::string_view noun, const NamedLineReader& read) {
  const MappedFile mapped(file);
  const std::string_view all(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  std::unordered_set<std::string> names;
  int64_t line = 0;
  for (size_t at = all.starts_with("\xef\xbb\xbf") ? 3 : 0; at < all.size();) {
    const size_t end = std::min(all.find('\n', at), all.size());
    const std::string_view text = all.substr(at, end - at);
    ++line;
    if (text.size() > kMostLineBytes) throw FormatError(file, int64_t(at), fmt::format("line {} is longer than {} bytes", line, kMostLineBytes));
    if (text.find_first_not_of(" \t\r") != std::string_view::npos)
      if (const auto [name, is_new] = names.insert(read(text, int64_t(at), line)); !is_new)
        throw FormatError(file, int64_t(at), fmt::format("line {}: two {}s are called '{}'", line, noun, name->substr(0, 100)));
    at = end + 1;
  }
  return int64_t(names.size());
}

}  // namespace overproof
