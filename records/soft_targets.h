#pragma once
// Soft targets: the teacher's distribution at every position of the taught windows, in a few bytes each, so that one row can be
// computed again and compared.
//
//   soft-targets/targets.safetensors
//     block_offsets  I64 [blocks + 1]  where the entries of each block start, in bytes; a block is one window
//     row_lengths    U8  [rows]        entries of each row; row = block x window_length + position
//     entries        U8  [bytes]       rows one after another, ids ascending in each (records/row_encoding.h)
//   metadata: kind ("sample" or "top-k"), count (draws or k), temperature, vocab_size, window_length, batch_windows, seed,
//             order_key, corpus_root, teacher_root, tokenizer_probe, format_version; order_beacon where the order was drawn with one;
//             evidence ("re-derivable" or "recorded"; files without it are of version 0.1, which only ran teachers itself)
//
// sample: random sampling KD (Anshumann et al. 2025, "Sparse logit sampling"): `draws` ids are drawn from the teacher's
// distribution; count / draws is an unbiased estimate of it. Draws are keyed by (document digest, position in the document).
// top-k: the k most probable ids with their log-probabilities; what is missing to one is the tail. A recorded row may have fewer, and
// none where the server gave nothing: then all is tail, and a loss of distributions is zero there for any student.

#include <span>
#include <string>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "formats/safetensors.h"
#include "formats/tokenizer_identity.h"
#include "records/batch_spool.h"
#include "records/evidence.h"
#include "records/row_encoding.h"

namespace overproof {

inline constexpr const char* kSoftTargetsFile = "targets.safetensors";

/// What the targets were made of, and the order of their blocks.
struct SoftTargetsOrigin {
  Digest corpus_root, teacher_root;
  Digest order_key;          ///< order_key(corpus root, seed, beacon) of data/order.h
  std::string order_beacon;  ///< "" where the order was drawn without one
  int64_t seed = 0;
  int64_t blocks = 0;  ///< >= 1
  Evidence evidence = Evidence::re_derivable;
};

/// Reads only this of `<artifact>/targets.safetensors`. Throws FormatError.
SoftTargetsOrigin read_soft_targets_origin(const fs::path& artifact);

/// What a writer states of its targets. `origin.seed` is that of the encoding; `origin.blocks` follows from the spool.
struct SoftTargetsHeader {
  SoftTargetsOrigin origin;
  RowEncoding encoding;
  int64_t vocab_size = 0, window_length = 0, batch_windows = 0;
  TokenizerIdentity tokenizer;
};

/// What was written.
struct SoftTargetsSize {
  int64_t rows = 0, entries = 0, bytes = 0;
};

/// Writes targets.safetensors from a full spool of whole blocks, in three passes over it.
SoftTargetsSize write_soft_targets(const SoftTargetsHeader& header, const BatchSpool& spool, OutputFolder& folder);

/// The soft targets of one block: row r has entries [offsets[r], offsets[r + 1]).
struct TargetBlock {
  std::vector<int64_t> offsets;  ///< [window_length + 1]
  std::vector<int32_t> ids;
  std::vector<float> probabilities;  ///< of a row: they sum to 1 (sample) or to 1 - tail (top-k)
  std::vector<float> tail;           ///< [window_length]; 0 for samples
};

class SoftTargets {
 public:
  /// Opens `<artifact>/targets.safetensors`. Throws FormatError when metadata, shapes and sizes do not agree.
  explicit SoftTargets(const fs::path& artifact);
  int64_t blocks() const { return origin_.blocks; }
  int64_t window_length() const { return window_length_; }
  int64_t vocab_size() const { return vocab_size_; }
  double temperature() const { return encoding_.temperature; }
  const RowEncoding& encoding() const { return encoding_; }
  /// Windows in one forward pass of the teacher. A row that is computed again in the same batch has the same bits.
  int64_t batch_windows() const { return batch_windows_; }
  double bytes_per_token() const;  ///< of the whole file
  const SoftTargetsOrigin& origin() const { return origin_; }
  const Digest& order_key() const { return origin_.order_key; }
  const std::string& order_beacon() const { return origin_.order_beacon; }
  const Digest& corpus_root() const { return origin_.corpus_root; }
  const Digest& teacher_root() const { return origin_.teacher_root; }
  const TokenizerIdentity& tokenizer() const { return tokenizer_; }
  /// Throws FormatError when ids do not ascend within the vocabulary, or counts and probabilities are out of range.
  void read_block(int64_t block, TargetBlock& out) const;
  /// SHA-256 of what is stored of one block: the lengths of its rows, then their entries.
  Digest block_digest(int64_t block) const;
  /// The stored bytes of one row; row = block x window_length + position.
  std::span<const uint8_t> row_bytes(int64_t row) const;

 private:
  [[noreturn]] void fail(std::string_view cause) const;
  std::span<const uint8_t> block_bytes(int64_t block) const;
  SafetensorsFile file_;
  SoftTargetsOrigin origin_;
  RowEncoding encoding_;
  int64_t window_length_ = 0, vocab_size_ = 0, batch_windows_ = 0;
  TokenizerIdentity tokenizer_;
};

}  // namespace overproof
