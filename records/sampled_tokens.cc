#include "records/sampled_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json_object.h"

namespace overproof {
namespace {

constexpr int64_t kMostTokenBytes = int64_t{4} << 30;

}  // namespace

std::string sampled_tokens_line(const std::string& name, const SampledTokens& document) {
  return Json{{"name", name}, {"before", document.before}, {"tokens", document.tokens}}.dump() + "\n";
}

std::vector<SampledTokens> read_sampled_tokens(const fs::path& folder, int64_t vocabulary) {
  const fs::path file = folder / kSampledTokensName;
  const std::string all = read_file(file, kMostTokenBytes);
  std::vector<SampledTokens> documents;
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find('\n', at), all.size());
    const Json json = parse_json(std::string_view(all).substr(at, end - at), file, int64_t(at));
    const JsonObject record(json, file, "", JsonNull::value, int64_t(at));
    const auto ids = [&](const char* name) {
      std::vector<int32_t> out;
      for (const Json& id : record.list(name)) {
        if (!id.is_number_unsigned() || id.get<uint64_t>() >= uint64_t(vocabulary))
          record.fail(name, fmt::format("has an id outside the vocabulary of {}", vocabulary));
        out.push_back(int32_t(id.get<uint64_t>()));
      }
      return out;
    };
    documents.push_back({ids("before"), ids("tokens")});
    at = end + 1;
  }
  if (documents.empty()) throw FormatError(file, 0, "has no documents");
  return documents;
}

}  // namespace overproof
