#include "records/sampled_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

constexpr int64_t kMostBytes = int64_t{4} << 30;

}  // namespace

std::vector<SampledTokens> read_sampled_tokens(const fs::path& folder, int64_t vocabulary) {
  const fs::path file = folder / kSampledTokensName;
  const std::string all = read_file(file, kMostBytes);
  std::vector<SampledTokens> documents;
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find('\n', at), all.size());
    const Json record = parse_json(std::string_view(all).substr(at, end - at), file, int64_t(at));
    const auto ids = [&](const char* name) {
      std::vector<int32_t> out;
      if (!record.is_object() || !record.contains(name) || !record[name].is_array())
        throw FormatError(file, int64_t(at), fmt::format("'{}' is missing or is no list of ids", name));
      for (const Json& id : record[name]) {
        if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocabulary)
          throw FormatError(file, int64_t(at),
                            fmt::format("'{}' holds what is no id of this vocabulary of {}", name, vocabulary));
        out.push_back(int32_t(id.get<int64_t>()));
      }
      return out;
    };
    documents.push_back({ids("before"), ids("tokens")});
    at = end + 1;
  }
  if (documents.empty()) throw FormatError(file, 0, "holds no document");
  return documents;
}

}  // namespace overproof
