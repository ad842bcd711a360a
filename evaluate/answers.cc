#include "evaluate/answers.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <map>

#include "core/interrupt.h"
#include "teacher/document_writer.h"

namespace overproof {
namespace {

constexpr size_t kGram = 4;
constexpr int64_t kLoopCount = 4;

at::Tensor tensor_of(const Ids& ids) {
  return at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong).unsqueeze(0);
}

}  // namespace

std::vector<Ids> greedy_answers(const Generator& model, const Tokenizer& tokenizer, const std::vector<Ids>& prompts, double repetition_penalty) {
  std::vector<Opening> openings;
  for (const Ids& prompt : prompts) openings.push_back({prompt});
  const DocumentWriter writer(model, tokenizer,
                              {.sampling = {.temperature = 0, .repetition_penalty = repetition_penalty}, .max_tokens = kAnswerTokens, .batch = int64_t(prompts.size())}, nullptr);
  std::vector<Ids> answers;
  writer.write(
      0, int64_t(openings.size()), [&](int64_t i) -> const Opening& { return openings[size_t(i)]; },
      [&](int64_t, Ids ids) { answers.push_back(std::move(ids)); });
  return answers;
}

bool has_loop(std::span<const int32_t> ids) {
  std::map<std::array<int32_t, kGram>, int64_t> counts;
  for (size_t i = 0; i + kGram <= ids.size(); ++i) {
    std::array<int32_t, kGram> gram;
    std::copy_n(ids.begin() + ptrdiff_t(i), kGram, gram.begin());
    if (++counts[gram] == kLoopCount) return true;
  }
  return false;
}

double loop_share(const std::vector<Ids>& answers) {
  const auto loops = std::ranges::count_if(answers, [](const Ids& ids) { return has_loop(ids); });
  return answers.empty() ? 0.0 : double(loops) / double(answers.size());
}

std::optional<double> answer_agreement(const Decoder& model, const std::vector<Ids>& prompts, const std::vector<Ids>& answers) {
  at::NoGradGuard no_grad;
  int64_t agree = 0, all = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].empty()) continue;
    throw_if_interrupted();
    Ids ids = prompts[i];
    ids.insert(ids.end(), answers[i].begin(), answers[i].end());
    const at::Tensor tokens = tensor_of(ids);
    const auto prompt = int64_t(prompts[i].size()), length = int64_t(answers[i].size());
    const at::Tensor logits = model.logits(model.hidden(tokens).narrow(0, prompt - 1, length));
    agree += logits.argmax(-1).eq(tokens[0].narrow(0, prompt, length)).sum().item<int64_t>();
    all += length;
  }
  return all > 0 ? std::optional(double(agree) / double(all)) : std::nullopt;
}

}  // namespace overproof
