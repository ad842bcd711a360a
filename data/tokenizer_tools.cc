#include "data/tokenizer_tools.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/file.h"
#include "data/tokenizer.h"
#include "formats/safetensors.h"

namespace overproof {

int64_t run_tokenizer_encode(const TokenizerEncodeConfig& config) {
  for (const auto& [name, value] : {std::pair{"tokenizer", &config.tokenizer}, {"text", &config.text}, {"out", &config.out}}) {
    if (value->empty()) throw UsageError(fmt::format("tokenizer encode needs --{}", name));
  }
  const auto tokenizer = open_tokenizer(config.tokenizer);
  const std::string text = read_file(config.text);
  std::vector<int32_t> ids;
  tokenizer->encode(text, ids, config.parse_special);

  const fs::path out = fs::absolute(config.out);
  OutputFolder folder(out.parent_path());
  Metadata metadata = {{"vocab_size", std::to_string(tokenizer->vocab_size())}, {"text_sha256", sha256(text).hex()}};
  tokenizer->identity().put_into(metadata);
  SafetensorsWriter writer(folder, out.filename().string(), {{"ids", DType::i32, {int64_t(ids.size())}}}, metadata);
  writer.append(ids.data(), ids.size() * sizeof(int32_t));
  writer.close();
  return int64_t(ids.size());
}

}  // namespace overproof
