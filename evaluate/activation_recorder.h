#pragma once
// Inside evaluate/: collects the statistics of the inputs of Linears, and writes them in the form of records/activation_statistics.h.

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "formats/safetensors.h"

namespace overproof {

inline constexpr char kSpill[] = "activations.spill";

struct RecorderOptions {
  int64_t samples = 256;
  bool hessians = false;
};

/// What one set of Linears with a common input is given, row after row.
class InputRecord {
 public:
  /// `rows` will come in all; of them options.samples, evenly spread, are kept.
  InputRecord(int64_t columns, int64_t rows, const RecorderOptions& options);
  /// x f32 [n, columns]: the next rows.
  void add(const at::Tensor& x);

 private:
  friend class ActivationSpill;
  int64_t rows_, seen_ = 0, kept_ = 0;
  at::Tensor amax_, range_, samples_, hessian_;
};

/// Keeps finished records on disk until all are there, then writes them by type: a file of aligned tensors. What a killed run
/// left can be gone on from, at a mark() that somebody keeps.
class ActivationSpill {
 public:
  /// A mark() of an earlier run in the same scratch folder: goes on behind what it speaks of. Throws FormatError when that is no
  /// mark, or the file is no longer what it was.
  explicit ActivationSpill(const fs::path& scratch, const Json* mark = nullptr);
  /// `group` is the first of `weights` (names without ".weight").
  void add(const std::vector<std::string>& weights, const InputRecord& record, int64_t routed, int64_t forced);
  /// Puts everything so far on the disk; returns what it is, with the digest of the bytes.
  Json mark();
  void write(OutputFolder& folder, std::string_view name, Metadata metadata);
  int64_t groups() const { return groups_; }

 private:
  struct Part {
    TensorInfo info;
    int64_t offset;
  };
  void append(const std::string& name, DType dtype, const at::Tensor& values);
  void resume(const Json& mark);
  OutputFolder scratch_;
  std::optional<OutputFile> out_;
  std::vector<Part> parts_;
  Json members_ = Json::object();  // weight -> group
  int64_t groups_ = 0;
};

}  // namespace overproof
