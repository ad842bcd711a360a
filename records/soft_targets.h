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
//   format_version 1: every row has entries. 2: of a corpus with a mask, whose masked labels have rows without entries; all others have some.
//
//   soft-targets-part/part.safetensors
//     what one of several processes taught, by `teach-shard`: the same tensors and metadata for the blocks from first_block on, and first_block,
//     all_blocks (of the whole) and compute (how products were computed, which decides the last bits). `merge-targets` puts parts together:
//     targets.safetensors then has the bytes that one process would have written.
//
// sample: random sampling KD (Anshumann et al. 2025, "Sparse logit sampling"): `draws` ids are drawn from the teacher's
// distribution; count / draws is an unbiased estimate of it. Draws are keyed by (document digest, position in the document).
// top-k: the k most probable ids with their log-probabilities; what is missing to one is the tail. A recorded row may have fewer, and
// none where the server gave nothing: then all is tail, and a loss of distributions is zero there for any student.

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "formats/safetensors.h"
#include "formats/tokenizer_identity.h"
#include "records/evidence.h"
#include "records/row_encoding.h"

namespace overproof {

inline constexpr const char *kSoftTargetsFile = "targets.safetensors", *kSoftTargetsPartFile = "part.safetensors";

/// Which blocks of the whole a part has.
struct SoftTargetsPart {
  int64_t first_block = 0, all_blocks = 0;
  std::string compute;  ///< compute_name() of model/compute.h
  bool operator==(const SoftTargetsPart&) const = default;
};

/// What the targets were made of, and the order of their blocks.
struct SoftTargetsOrigin {
  Digest corpus_root, teacher_root;
  Digest order_key;          ///< order_key(corpus root, seed, beacon) of data/order.h
  std::string order_beacon;  ///< "" where the order was drawn without one
  int64_t seed = 0;
  int64_t blocks = 0;  ///< >= 1
  Evidence evidence = Evidence::re_derivable;
  std::optional<SoftTargetsPart> part = {};  ///< only of a part
  int64_t all_blocks() const { return part ? part->all_blocks : blocks; }
};

/// The file of soft targets or of a part of them in an artifact: the first where neither is there.
fs::path soft_targets_file(const fs::path& artifact);

/// Reads only this of it. Throws FormatError.
SoftTargetsOrigin read_soft_targets_origin(const fs::path& artifact);

/// What a writer states of its targets. `origin.seed` is that of the encoding; `origin.blocks` follows from the rows. With `origin.part` it
/// writes part.safetensors.
struct SoftTargetsHeader {
  SoftTargetsOrigin origin;
  RowEncoding encoding;
  int64_t vocab_size = 0, window_length = 0, batch_windows = 0;
  TokenizerIdentity tokenizer;
  bool masked = false;  ///< rows of masked labels have no entries: format version 2
};

/// What was written.
struct SoftTargetsSize {
  int64_t rows = 0, entries = 0, bytes = 0;
  int64_t stored = 0;  ///< rows with entries
};

/// Calls body(lengths [rows], entries) for pieces of whole blocks, in their order; the same each time.
using RowPieces = std::function<void(const std::function<void(std::span<const uint8_t> lengths, std::span<const uint8_t> entries)>& body)>;

/// Writes targets.safetensors in three passes over the rows.
SoftTargetsSize write_soft_targets(const SoftTargetsHeader& header, const RowPieces& rows, OutputFolder& folder);

/// The soft targets of one block: row r has entries [offsets[r], offsets[r + 1]).
struct TargetBlock {
  std::vector<int64_t> offsets;  ///< [window_length + 1]
  std::vector<int32_t> ids;
  std::vector<float> probabilities;  ///< of a row: they sum to 1 (sample) or to 1 - tail (top-k)
  std::vector<float> tail;           ///< [window_length]; 0 for samples, 1 for a row without entries
};

class SoftTargets {
 public:
  /// Opens `<artifact>/targets.safetensors`. Throws FormatError when metadata, shapes and sizes do not agree, MismatchError where the
  /// artifact is a part.
  explicit SoftTargets(const fs::path& artifact);
  /// Opens `<artifact>/part.safetensors`; blocks are counted from the first of the part. Throws as above.
  static SoftTargets part(const fs::path& artifact);
  /// What a writer would be given to write the same file.
  SoftTargetsHeader header() const;
  /// What is stored of one block: lengths of its rows and their entries.
  std::pair<std::span<const uint8_t>, std::span<const uint8_t>> block(int64_t block) const;
  int64_t blocks() const { return origin_.blocks; }
  int64_t window_length() const { return window_length_; }
  int64_t vocab_size() const { return vocab_size_; }
  double temperature() const { return encoding_.temperature; }
  const RowEncoding& encoding() const { return encoding_; }
  /// Whether rows of masked labels have no entries.
  bool masked() const { return masked_; }
  /// The rows that have entries, ascending.
  std::vector<int64_t> stored_rows() const;
  /// Whether just the rows of masked labels have no entries; what is wrong, else "". `read_mask`: the mask of the labels of a block
  /// (Corpus::read_mask of its window), all 1 without a mask.
  std::string mask_fault(const std::function<void(int64_t block, std::span<float> mask)>& read_mask) const;
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
  SoftTargets(const fs::path& file, bool is_part);
  [[noreturn]] void fail(std::string_view cause) const;
  std::span<const uint8_t> block_bytes(int64_t block) const;
  SafetensorsFile file_;
  SoftTargetsOrigin origin_;
  RowEncoding encoding_;
  int64_t window_length_ = 0, vocab_size_ = 0, batch_windows_ = 0;
  bool masked_ = false;
  TokenizerIdentity tokenizer_;
};

}  // namespace overproof
