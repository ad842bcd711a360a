#include "formats/tokenizer_identity.h"

#include <fmt/format.h>

#include "core/error.h"

namespace overproof {
namespace {

constexpr const char *kProbe = "tokenizer_probe", *kDefinition = "tokenizer_definition", *kFormat = "tokenizer_format";

}  // namespace

TokenizerIdentity TokenizerIdentity::from_metadata(const Metadata& metadata, const std::filesystem::path& file) {
  const auto digest = [&](const char* name) -> std::optional<Digest> {
    const auto it = metadata.find(name);
    if (it == metadata.end()) return std::nullopt;
    try {
      return Digest::from_hex(it->second);
    } catch (const UsageError&) {
      throw FormatError(file, -1, fmt::format("metadata '{}' is not a SHA-256", name));
    }
  };
  const auto probe = digest(kProbe);
  if (!probe) throw FormatError(file, -1, fmt::format("metadata '{}' is missing", kProbe));
  const auto format = metadata.find(kFormat);
  return {*probe, digest(kDefinition), format != metadata.end() && format->second == "gguf"};
}

void TokenizerIdentity::put_into(Metadata& metadata) const {
  metadata[kProbe] = probe.hex();
  if (definition) metadata[kDefinition] = definition->hex();
  if (from_gguf) metadata[kFormat] = "gguf";
}

bool TokenizerIdentity::matches(const TokenizerIdentity& other) const {
  if (definition && other.definition && (from_gguf == other.from_gguf || *definition == *other.definition))
    return *definition == *other.definition;
  return probe == other.probe;
}

}  // namespace overproof
