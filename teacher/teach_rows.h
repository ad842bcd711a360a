#pragma once
// Rows of soft targets, computed by a teacher (records/row_encoding.h has their form).

#include <cstdint>
#include <optional>
#include <vector>

#include "data/corpus.h"
#include "data/order.h"
#include "model/decoder.h"
#include "records/batch_spool.h"
#include "records/soft_targets.h"

namespace overproof {

/// Everything that decides what a row is.
struct TeachContext {
  const Decoder& teacher;
  const Corpus& corpus;
  const TrainingOrder& order;
  const RowEncoding& encoding;
  std::optional<Digest> salt = {};  ///< of a private corpus (data/private_corpus.h): draws are keyed with it
  bool masked = false;              ///< rows of masked labels get no entries
};

/// The rows of the blocks [first, first + count), which go through the teacher together. Only `count_rows` rows, from row
/// `skip` on, are encoded. Throws DivergenceError when the teacher's logits are not finite.
EncodedRows teach_batch(const TeachContext& context, int64_t first, int64_t count, int64_t skip = 0, int64_t count_rows = INT64_MAX);

/// The bytes of row `row` (block x window_length + position), computed again by the teacher with the same windows in a batch, `salt`
/// as in TeachContext;
/// equal to targets.row_bytes(row) for the teacher and corpus that the targets name. Throws MismatchError when corpus and
/// targets have windows of different lengths.
std::vector<uint8_t> rederive_row(const Decoder& teacher, const Corpus& corpus, const SoftTargets& targets, int64_t row,
                                  const std::optional<Digest>& salt = {});

}  // namespace overproof
