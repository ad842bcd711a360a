#include "evaluate/weight_reads.h"

#include <string_view>
#include <vector>

#include "formats/gguf.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

struct ReadCount {
  int64_t routed = 0, embedding = 0, other = 0;
  bool has_head = false;

  void add(std::string_view name, int64_t bytes) {
    has_head |= name.starts_with("lm_head.") || name.starts_with("output.");
    const bool is_routed = contains(name, ".experts.") || contains(name, "_exps.");
    const bool is_embedding = contains(name, "embed_tokens.") || name.starts_with("token_embd.");
    (is_routed ? routed : is_embedding ? embedding : other) += bytes;
  }
};

}  // namespace

int64_t weight_bytes_per_token(const fs::path& checkpoint, const ModelConfig& config) {
  std::vector<fs::path> files{checkpoint};
  if (fs::is_directory(checkpoint)) {
    files.clear();
    for (const fs::directory_entry& entry : fs::directory_iterator(checkpoint)) files.push_back(entry.path());
  }
  ReadCount count;
  for (const fs::path& file : files) {
    if (file.extension() == ".safetensors") {
      const SafetensorsFile tensors(file);
      for (const TensorInfo& tensor : tensors.tensors()) count.add(tensor.name, tensor.bytes());
    } else if (file.extension() == ".gguf") {
      const GgufFile tensors(file);
      for (const GgufTensor& tensor : tensors.tensors()) count.add(tensor.name, int64_t(tensor.data.size()));
    }
  }
  const int64_t routed = config.is_moe() ? count.routed / config.n_routed_experts * config.top_k : count.routed;
  return count.other + routed + (count.has_head ? count.embedding / config.vocab_size : count.embedding);
}

}  // namespace overproof
