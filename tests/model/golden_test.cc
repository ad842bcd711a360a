// Logits of every architecture against transformers (tests/golden/decoder/generate.py).

#include <ATen/ATen.h>

#include <catch2/catch.hpp>

#include "formats/safetensors.h"
#include "model/decoder.h"
#include "model/generator.h"

namespace overproof {
namespace {

fs::path golden(const std::string& name) { return fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/decoder" / name; }

template <class T>
std::vector<int64_t> integers(const SafetensorsFile& file, std::string_view name) {
  const auto values = file.values<T>(name);
  return {values.begin(), values.end()};
}

at::Tensor tensor_of(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

}  // namespace

TEST_CASE("logits equal those of transformers") {
  const std::string name = GENERATE("llama", "smollm2", "mistral", "qwen2", "qwen3", "glm4_moe", "glm4_moe_qk_norm");
  INFO(name);
  const SafetensorsFile file(golden(name) / "logits.safetensors");
  const at::Tensor ids = tensor_of(integers<int32_t>(file, "ids")).unsqueeze(0);
  const at::Tensor positions = tensor_of(integers<int32_t>(file, "positions"));
  const auto values = file.values<float>("logits");
  const at::Tensor expected = at::empty({positions.size(0), file.info("logits").shape[1]}, at::kFloat);
  std::copy(values.begin(), values.end(), expected.data_ptr<float>());

  const Decoder decoder(open_checkpoint(golden(name)));
  const at::Tensor logits = decoder.logits(decoder.hidden(ids)).index_select(0, positions);
  CHECK((logits - expected).abs().max().item<double>() <= 1e-4);

  // The same through the cache: a prompt, then pieces of one and of several tokens.
  const Generator generator(open_checkpoint(golden(name)));
  KvCache cache;
  std::vector<at::Tensor> pieces;
  for (const auto& [first, count] : {std::pair{0, 100}, {100, 1}, {101, 1}, {102, 40}, {142, 114}})
    pieces.push_back(generator.hidden_cached(ids.narrow(1, first, count), cache));
  CHECK(cache.length == 256);
  const at::Tensor cached = generator.next_logits(at::cat(pieces).index_select(0, positions));
  CHECK((cached - expected).abs().max().item<double>() <= 1e-4);

  // Two sequences at once do not see each other.
  const at::Tensor pair = at::cat({ids.narrow(1, 0, 128), ids.narrow(1, 128, 128)});
  const at::Tensor together = decoder.hidden(pair);
  CHECK((together.narrow(0, 128, 128) - decoder.hidden(pair.narrow(0, 1, 1))).abs().max().item<double>() <= 1e-4);
}

}  // namespace overproof
