#include "remote/capture_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "data/token_batch.h"

namespace overproof {

CapturePlan::CapturePlan(const RemoteTeacher& teacher, const Tokenizer& tokenizer, const Corpus& corpus, const TrainingOrder& order)
    : teacher_(teacher), tokenizer_(tokenizer), corpus_(corpus), order_(order) {}

bool CapturePlan::add_prompt(std::vector<CaptureRequest>& list, CaptureRequest request) const {
  if (!teacher_.sends_ids) {
    std::optional<std::string> text = text_for(tokenizer_, request.ids);
    if (!text) return false;
    request.text = std::move(*text);
  }
  list.push_back(std::move(request));
  return true;
}

void CapturePlan::add(std::vector<CaptureRequest>& list, int64_t block, int64_t first, std::span<const int32_t> ids,
                      std::span<const float> weight) const {
  if (std::ranges::all_of(weight, [](float w) { return w == 0; })) return;
  const auto rows = int64_t(weight.size());
  if (scores_prompts(*teacher_.dialect)) {
    add_prompt(list, {block, first, rows, {ids.begin(), ids.end()}, ""});
    return;
  }
  for (int64_t r = 0; r < rows; ++r)
    if (weight[size_t(r)] != 0) add_prompt(list, {block, first + r, 1, {ids.begin(), ids.begin() + r + 1}, ""});
}

std::vector<CaptureRequest> CapturePlan::requests(int64_t block) const {
  const int64_t length = corpus_.window_length(), window = order_.window_of_block(block);
  std::vector<int64_t> wide(size_t(length) + 1);
  corpus_.read_window(Split::train, window, wide);
  const std::vector<int32_t> ids(wide.begin(), wide.end());
  std::vector<float> weight(size_t(length), 1.0f);
  if (corpus_.has_mask()) corpus_.read_mask(Split::train, window, weight);
  std::vector<int32_t> segments(static_cast<size_t>(length));
  read_segments(corpus_, Split::train, window, segments);
  std::vector<CaptureRequest> list;
  for (int64_t first = 0; first < length;) {
    int64_t end = first + 1;
    while (end < length && segments[size_t(end)] == segments[size_t(first)]) ++end;
    // The label of the last row is the token after it, of whatever document.
    add(list, block, first, std::span(ids).subspan(size_t(first), size_t(end - first) + 1),
        std::span<const float>(weight).subspan(size_t(first), size_t(end - first)));
    first = end;
  }
  return list;
}

CaptureCount CapturePlan::count(const LedgerState* state) const {
  CaptureCount n;
  n.rows = blocks() * corpus_.window_length();
  for (int64_t block = 0; block < blocks(); ++block) {
    throw_if_interrupted();
    for (const CaptureRequest& part : requests(block)) {
      const RemoteRequest request = score_request(teacher_, "", part.ids, part.text);
      ++n.requests;
      n.tokens += request.tokens;
      n.asked_rows += part.rows;
      if (state && state->answered.contains(request.digest)) continue;
      ++n.open_requests;
      n.open_tokens += request.tokens;
    }
  }
  return n;
}

int64_t capture_blocks(const Corpus& corpus, int64_t tokens) {
  const int64_t length = corpus.window_length(), windows = corpus.windows(Split::train);
  const int64_t blocks = std::min(tokens / length, windows);
  if (blocks < 1)
    throw MismatchError(fmt::format("no window to teach: option 'tokens' is {}, a window has {}, the corpus has {} training windows", tokens, length,
                                    windows));
  return blocks;
}

fs::path ledger_file(const fs::path& kept, const Digest& teacher) { return kept / fmt::format("answers-{}.ledger", teacher.hex().substr(0, 16)); }

}  // namespace overproof
