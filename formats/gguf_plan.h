#pragma once
// A checkpoint as a GGUF file that llama.cpp loads: which tensors, in which order, made of which rows. plan_gguf() reads no
// weights; formats/gguf_parts.h streams them.

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf_writer.h"
#include "formats/tensor_source.h"

namespace overproof {

/// A run of rows of one source tensor, which is seen as a matrix of rows as long as its last dimension (an expert's matrix
/// inside a fused tensor is a run of such rows).
struct GgufPart {
  std::string source;
  int64_t first_row = 0;
  int64_t rows = 0;         ///< of the source
  int64_t half_head = 0;    ///< rows are stored interleaved (formats/gguf_names.h); first_row and rows are whole heads then
  bool transposed = false;  ///< the part is stored as its transpose
  float factor = 1.0f;      ///< of all values
};

struct GgufOutput {
  GgufTensorInfo info;
  std::vector<GgufPart> parts;  ///< concatenated they are the tensor: an expert each in a stack
  std::vector<float> values;    ///< instead of parts: a small tensor that is computed
};

struct GgufPlan {
  GgufMetadata metadata;             ///< of the architecture; a vocabulary is to be added
  std::vector<GgufOutput> outputs;   ///< in the order of the file
  std::vector<std::string> skipped;  ///< source tensors that are left out because the model does not use them
  std::vector<std::string> notes;    ///< for the user: what differs in the result
  int64_t values = 0;                ///< of all outputs
  std::vector<GgufTensorInfo> infos() const;
};

/// The type in which a matrix is written. `source` is its Hugging Face name, of expert 0 for a stack of experts. Called for
/// matrices only: vectors, routers and their biases are always F32. A row that is no multiple of the type's block is F16.
using GgufChoice = std::function<GgmlType(const std::string& source, const GgufTensorInfo& info)>;

/// Every source tensor is placed, or named in `skipped`. Throws FormatError when llama.cpp has no place for the model or for one
/// of its tensors, and when config.json and tensors disagree.
GgufPlan plan_gguf(const Checkpoint& checkpoint, const GgufChoice& choice);

}  // namespace overproof
