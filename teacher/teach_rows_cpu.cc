#include "teacher/teach_rows.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "core/error.h"
#include "data/private_corpus.h"
#include "data/token_batch.h"

namespace overproof {
namespace {

constexpr int64_t kLogitRows = 256;  // rows of logits in memory at a time

/// Encodes rows [first, first + logits.size(0)) of a batch whose row r belongs to stream position positions[r]. mask[r] 0: it gets no entries.
void encode_rows(const TeachContext& context, const at::Tensor& logits, std::span<const int64_t> positions, std::span<const float> mask,
                 EncodedRows& out) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  constexpr int64_t kPiece = 16;
  std::vector<EncodedRows> pieces(size_t((rows + kPiece - 1) / kPiece));
  const float* values = logits.const_data_ptr<float>();
  at::parallel_for(0, int64_t(pieces.size()), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t p = begin; p < end; ++p) {
      EncodedRows& piece = pieces[size_t(p)];
      for (int64_t r = p * kPiece; r < std::min(rows, (p + 1) * kPiece); ++r) {
        if (mask[size_t(r)] == 0) {
          piece.lengths.push_back(0);
          continue;
        }
        const int64_t position = positions[size_t(r)];
        const Document& document = context.corpus.document_at(Split::train, position);
        const std::span<const float> row(values + r * vocab, size_t(vocab));
        piece.lengths.push_back(
            uint8_t(encode_row(row, context.encoding, draw_key(document.digest, context.salt), position - document.first_token, scratch, piece.entries)));
      }
    }
  });
  for (const EncodedRows& piece : pieces) {
    out.lengths.insert(out.lengths.end(), piece.lengths.begin(), piece.lengths.end());
    out.entries.insert(out.entries.end(), piece.entries.begin(), piece.entries.end());
  }
}

}  // namespace

EncodedRows teach_batch(const TeachContext& context, int64_t first, int64_t count, int64_t skip, int64_t count_rows) {
  at::NoGradGuard no_grad;
  const int64_t length = context.corpus.window_length();
  std::vector<int64_t> ids(size_t(length) + 1), inputs, positions;
  std::vector<int32_t> segments(size_t(count * length));
  std::vector<float> mask(size_t(count * length), 1.0f);
  for (int64_t b = 0; b < count; ++b) {
    const int64_t window = context.order.window_of_block(first + b);
    context.corpus.read_window(Split::train, window, ids);
    inputs.insert(inputs.end(), ids.begin(), ids.end() - 1);
    for (int64_t i = 0; i < length; ++i) positions.push_back(window * length + i);
    read_segments(context.corpus, Split::train, window, std::span(segments).subspan(size_t(b * length), size_t(length)));
    if (context.masked) context.corpus.read_mask(Split::train, window, std::span(mask).subspan(size_t(b * length), size_t(length)));
  }
  ForwardOptions options;
  if (context.corpus.document_attention()) options.segments = at::tensor(segments, at::kInt).view({count, length});
  const at::Tensor hidden = context.teacher.hidden(at::tensor(inputs, at::kLong).view({count, length}), options);
  EncodedRows rows;
  const int64_t end = std::min(hidden.size(0), count_rows == INT64_MAX ? count_rows : skip + count_rows);
  for (int64_t r = 0; r < hidden.size(0); r += kLogitRows) {
    const int64_t n = std::min(kLogitRows, hidden.size(0) - r);
    const int64_t from = std::max(r, skip), to = std::min(r + n, end);
    if (from >= to) continue;
    const auto wanted = std::span<const float>(mask).subspan(size_t(from), size_t(to - from));
    if (std::ranges::count(wanted, 0.0f) == to - from) {
      rows.lengths.insert(rows.lengths.end(), size_t(to - from), 0);
      continue;
    }
    // Always the whole chunk, since a product of fewer rows may round differently.
    const at::Tensor logits = context.teacher.logits(hidden.narrow(0, r, n));
    encode_rows(context, logits.narrow(0, from - r, to - from), std::span(positions).subspan(size_t(from), size_t(to - from)),
                wanted, rows);
  }
  return rows;
}

std::vector<uint8_t> rederive_row(const Decoder& teacher, const Corpus& corpus, const SoftTargets& targets, int64_t row,
                                  const std::optional<Digest>& salt) {
  OVERPROOF_CHECK(row >= 0 && row < targets.blocks() * targets.window_length());
  if (corpus.window_length() != targets.window_length())
    throw MismatchError("soft targets and corpus have windows of different lengths");
  const TrainingOrder order(targets.order_key(), corpus.windows(Split::train), targets.blocks());
  const int64_t block = row / targets.window_length(), first = block / targets.batch_windows() * targets.batch_windows();
  const int64_t count = std::min(targets.batch_windows(), targets.blocks() - first);
  return teach_batch({teacher, corpus, order, targets.encoding(), salt, targets.masked()}, first, count, row - first * targets.window_length(), 1)
      .entries;
}

}  // namespace overproof
