#pragma once
// The roles of a model's tensors, by the names under which transformers saves them: from formats/model_kinds.h, or guessed from
// names and shapes for an unknown model type; assumption() describes the guess.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"
#include "formats/model_kinds.h"
#include "formats/tensor_source.h"

namespace overproof {

/// A part of a fused tensor, under the name that it has as a tensor of its own.
struct TensorPart {
  std::string name;
  int64_t expert = 0;               ///< index of the fused tensor's first dimension
  int64_t first_row = 0, rows = 0;  ///< within that expert's matrix
};

class Architecture {
 public:
  explicit Architecture(const Json& config);
  const std::string& model_type() const { return model_type_; }
  int64_t layers() const { return layers_; }  ///< num_hidden_layers; -1 where config.json has none
  bool known() const { return kind_ != nullptr; }
  /// A sentence for the user on what was guessed; empty for a known model type.
  const std::string& assumption() const { return assumption_; }

  TensorRole role(const TensorInfo& tensor) const;
  /// Whether its layers are GPT-2's Conv1D, whose matrices are [in, out]: their rows are no output channels, and no loader of 8-bit
  /// formats takes them for Linear weights.
  bool stores_columns() const;
  /// How `mlp.experts.gate_up_proj` [E, 2 I, H] and `mlp.experts.down_proj` [E, H, I] are cut into one matrix an expert: gate
  /// rows before up rows, in the order of the file. Empty when the tensor is another one or stays fused (granitemoe, unknown
  /// types). Throws FormatError naming `file` when its shape contradicts its name or the config's number of experts.
  std::vector<TensorPart> split(const std::filesystem::path& file, const TensorInfo& tensor) const;
  /// The name that loaders look for: a tensor saved together with fused experts may have that of the module in memory (mixtral's
  /// router).
  std::string saved_name(std::string_view tensor) const;

 private:
  TensorRole guess(const TensorInfo& tensor) const;
  const ModelKind* kind_ = nullptr;  // null: not known
  std::string model_type_, assumption_;
  int64_t layers_ = -1, experts_ = -1;  // -1: not in config.json
};

}  // namespace overproof
