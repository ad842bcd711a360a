#pragma once
// A checkpoint as a GGUF file that llama.cpp loads: which tensors, in which order, made of which rows. plan_gguf() reads no
// weights; whoever streams them follows the plan, or calls write_gguf().

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
};

struct GgufOutput {
  GgufTensorInfo info;
  std::vector<GgufPart> parts;  ///< one after another they are the tensor: an expert each in a stack
  std::vector<float> values;    ///< instead of parts: a small tensor that is computed
};

struct GgufPlan {
  GgufMetadata metadata;             ///< of the architecture; a vocabulary is to be added
  std::vector<GgufOutput> outputs;   ///< in the order of the file
  std::vector<std::string> skipped;  ///< source tensors that are left out because the model does not use them
  std::vector<std::string> notes;    ///< what a user should know of the result
  int64_t values = 0;                ///< of all outputs
  std::vector<GgufTensorInfo> infos() const;
};

/// The type in which a matrix shall be written. `source` is its Hugging Face name, of expert 0 for a stack of experts. Asked for
/// matrices only: what is a vector, a router or its bias is F32 always. A row that is no multiple of the type's block is F16.
using GgufChoice = std::function<GgmlType(const std::string& source, const GgufTensorInfo& info)>;

/// Every source tensor is placed, or named in `skipped`. Throws UsageError when llama.cpp has no place for the model or for one
/// of its tensors, FormatError when config.json and tensors do not agree.
GgufPlan plan_gguf(const Checkpoint& checkpoint, const GgufChoice& choice);

/// Reads a part in the order in which it is stored. A part that cannot be read row by row (transposed, or inside a fused tensor,
/// whose rows are whole experts) is read whole by the constructor: the memory of one expert. Thread-safe once made.
class GgufPartReader {
 public:
  GgufPartReader(const TensorSource& source, const GgufPart& part);
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  /// Stored rows [first, first + rows) of the part; out.size() is rows x columns.
  void read(int64_t first, int64_t rows, std::span<float> out) const;

 private:
  const TensorSource& source_;
  const GgufPart& part_;
  int64_t rows_, columns_;
  std::vector<float> held_;
};

/// Rows [n, columns] of tensor `info` -> their bytes. Thread-safe; called for runs of whole rows in any order.
using GgufConverter = std::function<void(const GgufTensorInfo& info, std::span<const float> rows, std::span<uint8_t> out)>;

/// Rows as F32, F16 or BF16. Throws UsageError naming the tensor for a value that F16 cannot hold, and for NaN
/// and infinity in any type.
void convert_to_float_type(const GgufTensorInfo& info, std::span<const float> rows, std::span<uint8_t> out);

/// Streams the checkpoint to folder/name in blocks of about `block_bytes` of f32 rows. `converter` is asked for types other than
/// F32, F16 and BF16, and may be empty when the plan has none.
/// `step` hears how many values are done. The bytes do not depend on the number of threads.
void write_gguf(const TensorSource& source, const GgufPlan& plan, const GgufConverter& converter, OutputFolder& folder,
                const std::string& name, const std::function<void(int64_t)>& step = {}, int64_t block_bytes = int64_t{8} << 20);

}  // namespace overproof
