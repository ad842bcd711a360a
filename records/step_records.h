#pragma once
// What a training committed to, step by step: one record of 256 bytes a step, chained, so that no record can be changed, dropped
// or moved without changing all that follow.
//
//   steps.safetensors   "steps" U8 [steps, 256]; metadata: format_version, initial_weights (hex), chain (hex, of the last
//   record),
//                       digest_every
//
// A record, little-endian:
//     0  U64 step        from 0
//     8  U64 position    first place of its batch in the committed order: all that is random in a step
//    16  U64 tokens      of this step
//    24  U64 tokens_seen including this step
//    32  F64 learning_rate
//    40  F64 loss, kl, ce, grad_norm, balance
//    80  32  batch root      windows and the teacher's rows (distill/training_run.h)
//   112  32  weights         digest of the model after the step, zeros where none was taken
//   144  32  optimizer       digest of AdamW's moments and of the load and router counts after the step, zeros where none was
//   taken 176  48  zeros 224  32  chain           SHA-256(chain of the record before | bytes 0 to 224 of this one)
//
// The chain begins with SHA-256("overproof step chain v1" | initial weights); moments and counts begin at zero. The state before
// a step is the one after the step before. Digests of the whole state are taken every `digest_every` steps and after the last:
// between two of them lies a segment, the least that an auditor can do again and compare whole.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "core/json_fwd.h"
#include "formats/tensor_source.h"

namespace overproof {

inline constexpr const char* kStepRecordsFile = "steps.safetensors";
inline constexpr int64_t kStepRecordBytes = 256;

/// One step. Also a line of steps.jsonl, without the digests. No times: the file must come out the same when it is made again.
struct StepRecord {
  int64_t step = 0, position = 0, tokens = 0, tokens_seen = 0;
  double learning_rate = 0;
  double loss = 0, kl = 0, ce = 0;  ///< nats a token
  double grad_norm = 0;
  double balance = 1;  ///< largest expert load over the mean load, averaged over layers; 1 is even
  Digest batch, weights, optimizer;
  bool has_state() const { return weights != Digest{}; }
  Json to_json() const;
};

/// Whether two records say the same, bit by bit; names the first field that differs, "" when none does. States are compared only
/// where both have one.
std::string first_difference(const StepRecord& a, const StepRecord& b);

class StepRecords {
 public:
  StepRecords() = default;
  StepRecords(const Digest& initial_weights, int64_t digest_every);
  void append(const StepRecord& record);

  const std::vector<StepRecord>& steps() const { return steps_; }
  const Digest& initial_weights() const { return initial_weights_; }
  const Digest& chain() const { return chain_; }
  int64_t digest_every() const { return digest_every_; }
  /// Steps done where a state was digested: 0, then the end of each segment. Segment i goes from ends[i] to ends[i + 1].
  std::vector<int64_t> segment_ends() const;
  /// Digests of the state after `steps_done` steps; zeros where none was taken, and for the optimizer before the first step.
  const Digest& weights_after(int64_t steps_done) const;
  const Digest& optimizer_after(int64_t steps_done) const;

  std::string bytes() const;  ///< the tensor
  /// From the tensor's bytes. Throws FormatError naming `origin` when a record is malformed, out of its order or not chained.
  /// A run that ended has digested its last state.
  enum class Ended { yes, no };
  static StepRecords from_bytes(std::string_view bytes, const Digest& initial_weights, int64_t digest_every,
                                const fs::path& origin, Ended ended = Ended::yes);

 private:
  std::string encoded_;
  std::vector<StepRecord> steps_;
  Digest initial_weights_, chain_;
  int64_t digest_every_ = 0;
};

void write_step_records(const StepRecords& records, OutputFolder& folder);

/// Reads `<artifact>/steps.safetensors`. Throws FormatError when it is not what the header above says, the chain included.
StepRecords read_step_records(const fs::path& artifact);

/// A tensor by its digest.
struct TensorDigest {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  Digest digest;  ///< SHA-256 of its little-endian bytes
};

/// Digest of a set of tensors: SHA-256 over one line a tensor, "<name> <dtype> <d0>x<d1> <hex>\n", in the order of their names.
Digest digest_of_tensors(std::vector<TensorDigest> tensors);

/// The same of a checkpoint's weights under Hugging Face's names, as f32: equal to the `weights` of a record when these are the
/// weights that it speaks of. Throws FormatError.
Digest digest_of_checkpoint(const fs::path& path);

}  // namespace overproof
