#pragma once
// Step records: what a training commits to, step by step. One record of fixed size for each step, chained by SHA-256: a record
// cannot be changed, dropped or moved without changing every later link.
//
//   steps.safetensors   "steps" U8 [steps, record size]
//     metadata          format_version  "2" (or "1", below)
//                       initial_weights hex digest of the weights before the first step (digest_of_tensors)
//                       digest_every    steps in a segment
//                       terms           JSON array of the names of the loss terms, 1 to 14 names of [a-z0-9-], for example
//                                       ["forward-kl","cross-entropy"]
//                       ranks           number of processes that trained together; their sums are added in rank order
//                       batch_root      how batch roots are made: "plain", as data/token_batch.h describes; of a private corpus
//                                       "salted", SHA-256("overproof salted batch v1" | batch salt, 32 bytes | the plain root), with
//                                       the salt of data/private_corpus.h
//                       chain           hex, link of the last record
//
// A record of version 2: 320 bytes, little-endian
//     0  U64  step           from 0
//     8  U64  position       place in the committed order where the batch begins; all randomness of a step follows from it
//    16  U64  sequences      in the batch, over all ranks; >= 1
//    24  U64  tokens         positions of the batch with a label, over all ranks; >= 1
//    32  U64  tokens_seen    tokens of all steps so far, this one included
//    40  F64  weight         sum of the tokens' weights in the loss, >= 0; `tokens` when all tokens count. Terms are sums of
//                            weighted token losses divided by it
//    48  F64  learning_rate
//    56  F64  loss           nats per token: the terms, added with the factors of the configuration
//    64  F64  grad_norm      before clipping
//    72  F64  balance        largest expert load / mean load of about the last eight steps, mean over layers; 1 is even, and the value of a dense model
//    80  F64  terms[14]      nats per token, in the order of the metadata's names; the rest zeros
//   192  32   batch          batch root
//   224  32   weights        digest of the model after the step, zeros where none was taken
//   256  32   optimizer      digest of AdamW's moments, expert loads and router counts after the step, zeros where none was taken
//   288  32   chain          SHA-256(link of the record before | bytes 0 to 288 of this record)
//
// Its first link is SHA-256("overproof step chain v2" | initial weights, 32 bytes | JSON), where JSON is the object of
// batch_root, digest_every, ranks and terms (numbers as numbers, keys sorted, no spaces): the metadata is bound by the chain.
//
// A record of version 1 (readable, no longer written): 256 bytes, little-endian
//     0  U64  step, position, tokens, tokens_seen
//    32  F64  learning_rate
//    40  F64  loss, forward-kl, cross-entropy, grad_norm, balance
//    80  32   batch
//   112  32   weights
//   144  32   optimizer
//   176  48   zeros
//   224  32   chain          SHA-256(link of the record before | bytes 0 to 224 of this record)
// Its first link is SHA-256("overproof step chain v1" | initial weights). All tokens count, and one process trained.
//
// Moments and counts are zero before the first step. The state before a step is the state after the previous one. The whole state
// is digested every `digest_every` steps and after the last step. The steps between two such digests are a segment: the least
// that an auditor can repeat and compare completely.
//
// steps.jsonl has the same numbers for readers of text: records/step_log.h.

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
inline constexpr size_t kMostLossTerms = 14;

/// One step. It has no times: repeating a training gives the same records.
struct StepRecord {
  int64_t step = 0, position = 0, sequences = 0, tokens = 0, tokens_seen = 0;
  double weight = 0;  ///< tokens that count in the loss
  double learning_rate = 0;
  double loss = 0, grad_norm = 0;
  double balance = 1;
  std::array<double, kMostLossTerms> terms{};  ///< in the order of StepFormat::terms, then zeros
  Digest batch, weights, optimizer;
  bool has_state() const { return weights != Digest{}; }
};

/// What all records of a training have in common.
struct StepFormat {
  int64_t version = 2;
  Digest initial_weights;
  int64_t digest_every = 1;        ///< steps in a segment, >= 1
  std::vector<std::string> terms;  ///< names of the loss terms
  int64_t ranks = 1;
  bool salted_batches = false;  ///< batch roots are salted: the corpus is private
  /// Bytes of a record.
  int64_t record_bytes() const;
  /// Version 1 with its two fixed terms.
  static StepFormat first_version(const Digest& initial_weights, int64_t digest_every);
};

/// `record` with its terms in the order of `to` instead of `from`. A name that is only in `to` gets 0; every name of `from` must be
/// in `to`.
StepRecord with_terms_in_order(StepRecord record, const std::vector<std::string>& from, const std::vector<std::string>& to);

/// The first field of two records that differs, bit by bit; "" when none does. Fields that the format does not store are ignored;
/// states are compared only where both records have one.
std::string first_difference(const StepFormat& format, const StepRecord& a, const StepRecord& b);

/// The value of the field that first_difference() names, as text.
std::string field_text(const StepFormat& format, const StepRecord& record, const std::string& field);

class StepRecords {
 public:
  /// No records yet. Throws std::logic_error for a format that cannot be written.
  explicit StepRecords(StepFormat format);
  /// Throws std::logic_error when `record` is not of the next step.
  void append(const StepRecord& record);

  const StepFormat& format() const { return format_; }
  const std::vector<StepRecord>& steps() const { return steps_; }
  const Digest& initial_weights() const { return format_.initial_weights; }
  int64_t digest_every() const { return format_.digest_every; }
  /// Link of the last record; the first link when there is none.
  const Digest& chain() const { return chain_; }
  /// Numbers of steps after which the state was digested: 0, then the end of each segment. Segment i is [ends[i], ends[i + 1]).
  std::vector<int64_t> segment_ends() const;
  /// Digests of the state after `steps_done` steps; zeros where none was taken, and for the optimizer before the first step.
  const Digest& weights_after(int64_t steps_done) const;
  const Digest& optimizer_after(int64_t steps_done) const;

  const std::string& bytes() const { return encoded_; }  ///< the tensor
  /// From the tensor's bytes. Throws FormatError naming `origin` when a record is malformed, out of order or not chained. A training
  /// that has ended has digested its last state.
  enum class Ended { yes, no };
  static StepRecords from_bytes(std::string_view bytes, const StepFormat& format, const fs::path& origin,
                                Ended ended = Ended::yes);

 private:
  StepFormat format_;
  std::string encoded_;
  std::vector<StepRecord> steps_;
  Digest chain_;
};

/// Writes steps.safetensors into `folder`, in the records' own version.
void write_step_records(const StepRecords& records, OutputFolder& folder);

/// Reads `<artifact>/steps.safetensors` of any version. Throws FormatError when it is not as described above, the chain included.
StepRecords read_step_records(const fs::path& artifact);

/// A tensor by its digest.
struct TensorDigest {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  Digest digest;  ///< SHA-256 of its little-endian bytes
};

/// Digest of a set of tensors: SHA-256 over one line per tensor, "<name> <dtype> <d0>x<d1> <hex>\n", sorted by name.
Digest digest_of_tensors(std::vector<TensorDigest> tensors);

/// The metric of a training whose weights were rounded when they were written: digest_of_checkpoint() of what was written. The step
/// records have the digests of the weights before that.
inline constexpr const char* kPublishedWeights = "published_weights";

/// digest_of_tensors() of a checkpoint's weights, by their Hugging Face names, as f32: equal to `weights` of the record after which
/// they were saved in f32. Throws FormatError.
Digest digest_of_checkpoint(const fs::path& path);

}  // namespace overproof
