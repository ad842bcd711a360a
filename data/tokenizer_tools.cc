#include "data/tokenizer_tools.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/file.h"
#include "core/real_path.h"
#include "data/tokenizer.h"
#include "formats/safetensors.h"

namespace overproof {

int64_t run_tokenizer_encode(const TokenizerEncodeConfig& config) {
  for (const auto& [name, value] : {std::pair{"tokenizer", &config.tokenizer}, {"text", &config.text}, {"out", &config.out}}) {
    if (value->empty()) throw UsageError(fmt::format("tokenizer encode needs --{}", name));
  }
  require_apart(config.out, {{"tokenizer", config.tokenizer}, {"text", config.text}});
  const auto tokenizer = open_tokenizer(config.tokenizer);
  const std::string text = read_file(config.text);
  std::vector<int32_t> ids;
  tokenizer->encode(text, ids, config.parse_special);

  const fs::path out = real_path(config.out), partial = out.parent_path() / ("." + out.filename().string() + ".partial");
  OutputFolder folder(out.parent_path());
  Metadata metadata = {{"vocab_size", std::to_string(tokenizer->vocab_size())}, {"text_sha256", sha256(text).hex()}};
  tokenizer->identity().put_into(metadata);
  SafetensorsWriter writer(folder, partial.filename().string(), {{"ids", DType::i32, {int64_t(ids.size())}}}, metadata);
  writer.append(ids.data(), ids.size() * sizeof(int32_t));
  writer.close();
  fs::rename(partial, out);  // at once: another process may have the old file mapped
  return int64_t(ids.size());
}

}  // namespace overproof
