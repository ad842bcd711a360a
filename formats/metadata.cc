#include "formats/metadata.h"

#include <fmt/format.h>

#include <charconv>

#include "core/error.h"

namespace overproof {
namespace {

template <class T>
T parse(const SafetensorsFile& file, const std::string& key, T least, T most) {
  const std::string& text = metadata_text(file, key);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= least && value <= most))
    throw FormatError(file.path(), -1,
                      fmt::format("metadata '{}' is '{}', not a number from {} to {}", key, text.substr(0, 40), least, most));
  return value;
}

}  // namespace

const std::string& metadata_text(const SafetensorsFile& file, const std::string& key) {
  const auto it = file.metadata().find(key);
  if (it == file.metadata().end()) throw FormatError(file.path(), -1, fmt::format("metadata '{}' is missing", key));
  return it->second;
}

int64_t metadata_integer(const SafetensorsFile& file, const std::string& key, int64_t least, int64_t most) {
  return parse(file, key, least, most);
}

double metadata_number(const SafetensorsFile& file, const std::string& key, double least, double most) {
  return parse(file, key, least, most);
}

Digest metadata_digest(const SafetensorsFile& file, const std::string& key) {
  try {
    return Digest::from_hex(metadata_text(file, key));
  } catch (const UsageError&) {
    throw FormatError(file.path(), -1, fmt::format("metadata '{}' is not a SHA-256", key));
  }
}

}  // namespace overproof
