#include "teacher/document_writer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <list>
#include <map>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "core/utf8.h"
#include "data/bpe.h"
#include "data/chat_turns.h"
#include "model/host_values.h"

namespace overproof {
namespace {

/// Whether more bytes can make `text` valid UTF-8.
bool can_be_completed(std::string_view text) {
  const int64_t fault = invalid_utf8_at(text);
  if (fault < 0) return true;
  const std::string_view rest = text.substr(size_t(fault));
  const auto lead = uint8_t(rest[0]);
  return lead >= 0xc2 && lead <= 0xf4 && size_t(decode_utf8(rest).bytes) == rest.size();
}

at::Tensor tensor_of(const std::vector<int32_t>& ids) {
  return at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong).unsqueeze(0);
}

std::vector<float> row_of(const at::Tensor& logits, size_t row) {
  const auto width = size_t(logits.size(1));
  const auto values = host_values<float>(logits).subspan(row * width, width);
  return {values.begin(), values.end()};
}

}  // namespace

/// A document that is being written.
struct DocumentWriter::Draft {
  Draft(int64_t number_, const Opening& opening_, Rng rng_) : number(number_), opening(opening_), ids(opening_.ids), rng(rng_) {}
  int64_t number;
  const Opening& opening;
  std::vector<int32_t> ids;      // opening included; the model has seen the first cache.length of them
  std::string unfinished;        // bytes of the last character, as far as drawn
  size_t turn = 0, whole = 0;    // ids before this turn, and up to its last complete character
  int64_t drawn = 0;
  bool answering = false, finished = false, failed = false;
  Rng rng;
  KvCache cache;
};

DocumentWriter::DocumentWriter(const Generator& model, const Tokenizer& tokenizer, const WritingOptions& options,
                               const WatermarkKey* watermark)
    : model_(model),
      tokenizer_(tokenizer),
      options_(options),
      watermark_(watermark),
      // Tokens of other tokenizers are whole characters.
      splits_characters_(dynamic_cast<const BpeTokenizer*>(&tokenizer) != nullptr) {
  ends_ = {tokenizer.eos_id(), tokenizer.bos_id(), int32_t(model.config().eos_id), text_begin_id(tokenizer)};
  for (const int64_t id : options.ends) ends_.insert(int32_t(id));
}

/// decode() would put U+FFFD where a token is a part of a character.
std::string DocumentWriter::bytes_of(int32_t id) const {
  const std::string text = tokenizer_.token_text(id);
  return byte_level_bytes(text).value_or(text);
}

SamplingOptions DocumentWriter::sampling_of(const Draft& draft) const {
  SamplingOptions sampling = options_.sampling;
  const bool is_prompt = draft.opening.chat ? !draft.answering : draft.drawn < options_.prompt_tokens;
  if (options_.answer_temperature && !is_prompt) sampling.temperature = *options_.answer_temperature;
  return sampling;
}

int32_t DocumentWriter::draw(std::vector<float>& logits, Draft& draft) const {
  const SamplingOptions sampling = sampling_of(draft);
  for (size_t tries = 0; tries < logits.size(); ++tries) {
    const int32_t id = sample_token(logits, draft.ids, sampling, watermark_, draft.rng);
    if (ends_.contains(id) || id >= tokenizer_.vocab_size()) return -1;
    if (!splits_characters_) return id;
    const std::string text = draft.unfinished + bytes_of(id);
    if (can_be_completed(text)) {
      const int64_t fault = invalid_utf8_at(text);
      draft.unfinished = fault < 0 ? "" : text.substr(size_t(fault));
      return id;
    }
    logits[size_t(id)] = kExcludedLogit;
  }
  return -1;
}

/// The ids of the turn that is at its end become final; of a question, the answer is opened.
void DocumentWriter::end_turn(Draft& draft) const {
  draft.ids.resize(draft.whole);
  draft.failed = draft.whole == draft.turn;
  if (!draft.opening.chat || draft.answering || draft.failed) {
    draft.finished = true;
    return;
  }
  draft.answering = true;
  draft.unfinished.clear();
  draft.cache.length = std::min(draft.cache.length, int64_t(draft.whole));  // a character that was cut off was not seen
  if (draft.opening.held != draft.opening.ids) {
    draft.ids.erase(draft.ids.begin(), draft.ids.begin() + ptrdiff_t(draft.opening.ids.size()));
    draft.ids.insert(draft.ids.begin(), draft.opening.held.begin(), draft.opening.held.end());
    draft.cache.length = 0;
    model_.hidden_cached(tensor_of(draft.ids), draft.cache);
  }
  draft.ids.insert(draft.ids.end(), draft.opening.bridge.begin(), draft.opening.bridge.end());
  draft.turn = draft.whole = draft.ids.size();
}

void DocumentWriter::take(Draft& draft, std::vector<float> logits) const {
  const int32_t id = draw(logits, draft);
  if (id >= 0) {
    draft.ids.push_back(id);
    ++draft.drawn;
    if (draft.unfinished.empty()) draft.whole = draft.ids.size();
    const bool is_question = draft.opening.chat && !draft.answering;
    if (draft.drawn >= (is_question ? (options_.max_tokens + 1) / 2 : options_.max_tokens)) end_turn(draft);
    return;
  }
  end_turn(draft);
  if (draft.opening.chat && draft.finished && !draft.failed) draft.ids.insert(draft.ids.end(), draft.opening.close.begin(), draft.opening.close.end());
}

void DocumentWriter::write(int64_t first, int64_t count, const std::function<const Opening&(int64_t)>& opening_of,
                           const std::function<void(int64_t, std::vector<int32_t>)>& done) const {
  at::NoGradGuard no_grad;
  std::list<Draft> drafts;  // that are being written
  std::map<int64_t, std::vector<int32_t>> waiting;  // finished before an earlier one
  const Opening* begun = nullptr;  // the opening that `state` has seen: chats and texts from nothing share a few
  KvCache state;
  std::vector<float> begun_logits;
  int64_t next = first, given = first;
  const auto finish = [&](Draft& draft) {
    const size_t skipped = draft.opening.chat ? 0 : draft.opening.ids.size();
    waiting.emplace(draft.number, draft.failed ? std::vector<int32_t>()
                                               : std::vector<int32_t>(draft.ids.begin() + ptrdiff_t(skipped), draft.ids.end()));
  };
  while (given < count) {
    throw_if_interrupted();
    while (next < count && int64_t(drafts.size()) < options_.batch) {
      const Opening& opening = opening_of(next);
      OVERPROOF_CHECK(!opening.ids.empty() && opening.chat == !opening.bridge.empty());
      if (!begun || (begun != &opening && begun->ids != opening.ids)) {
        // Openings with the same examples begin alike: what they share is read once.
        const ptrdiff_t shared = begun ? std::ranges::mismatch(begun->ids, opening.ids).in2 - opening.ids.begin() : 0;
        const ptrdiff_t known = std::min<ptrdiff_t>(shared, ptrdiff_t(opening.ids.size()) - 1);
        if (known == 0) state = KvCache();
        state.length = known;
        state.expected = int64_t(opening.ids.size() + opening.bridge.size()) + options_.max_tokens;
        const at::Tensor hidden = model_.hidden_cached(tensor_of({opening.ids.begin() + known, opening.ids.end()}), state);
        begun_logits = row_of(model_.next_logits(hidden.narrow(0, hidden.size(0) - 1, 1)), 0);
      }
      begun = &opening;
      Draft& draft = drafts.emplace_back(next, opening, Rng(uint64_t(options_.seed), "sample", uint64_t(next)));
      draft.turn = draft.whole = draft.ids.size();
      draft.cache = state.copy();
      take(draft, begun_logits);
      if (draft.finished) {
        finish(draft);
        drafts.pop_back();
      }
      ++next;
    }
    if (!drafts.empty()) {
      std::vector<KvCache*> caches;
      std::vector<int64_t> tokens;
      for (Draft& draft : drafts) {
        caches.push_back(&draft.cache);
        tokens.push_back(draft.ids[size_t(draft.cache.length)]);
      }
      const at::Tensor logits = model_.next_logits(model_.hidden_next(at::tensor(tokens, at::kLong), caches));
      std::vector<Draft*> by_row;
      for (Draft& draft : drafts) by_row.push_back(&draft);
      parallel_for(int64_t(by_row.size()), 1, [&](int64_t row, int64_t) {  // each has its own random numbers
        Draft& draft = *by_row[size_t(row)];
        if (draft.cache.length == int64_t(draft.ids.size())) take(draft, row_of(logits, size_t(row)));
      });
      for (auto draft = drafts.begin(); draft != drafts.end();) {
        if (draft->finished) {
          finish(*draft);
          draft = drafts.erase(draft);
        } else {
          ++draft;
        }
      }
    }
    for (auto it = waiting.find(given); it != waiting.end(); it = waiting.find(given)) {
      done(given++, std::move(it->second));
      waiting.erase(it);
    }
  }
}

std::vector<DocumentWriter::Drawn> DocumentWriter::drawn(const Opening& opening, const std::vector<int32_t>& document) const {
  if (!opening.chat) return {{opening.ids, document}};
  // No id in `ends_` is drawn, and the bridge has one: its first place is its own. The same of the close, if it has one, and else nothing ended
  // the answer.
  const auto ends = [&](int32_t id) { return ends_.contains(id); };
  const auto begin = document.begin() + ptrdiff_t(opening.held.size());
  const auto question_end = std::search(begin, document.end(), opening.bridge.begin(), opening.bridge.end());
  const auto answer = question_end + ptrdiff_t(opening.bridge.size());
  const auto end = std::find_if(answer, document.end(), ends);
  const auto before_end = std::ranges::find_if(opening.close, ends) - opening.close.begin();
  return {{opening.ids, {begin, question_end}}, {{document.begin(), answer}, {answer, end == document.end() ? end : end - before_end}}};
}

}  // namespace overproof
