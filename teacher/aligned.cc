// A decoder of another tokenizer. It gets each window as text in its own tokens, with the same boundaries of documents.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <limits>

#include "core/error.h"
#include "teacher/signal.h"

namespace overproof {
namespace {

class AlignedSignal final : public TeacherSignal {
 public:
  AlignedSignal(std::shared_ptr<const Decoder> teacher, std::shared_ptr<const Tokenizer> its_tokenizer, std::shared_ptr<const Tokenizer> of_student)
      : teacher_(std::move(teacher)),
        its_tokenizer_(std::move(its_tokenizer)),
        of_student_(std::move(of_student)),
        aligner_(*of_student_, *its_tokenizer_),
        common_(std::make_shared<const std::vector<std::pair<int32_t, int32_t>>>(aligner_.common())) {}

  int64_t vocab_size() const override { return std::numeric_limits<int64_t>::max(); }
  double temperature() const override { return 1.0; }
  TargetKind kind() const override { return TargetKind::aligned; }

  std::vector<Targets> rows(const TokenBatch& batch, int64_t first, int64_t count) const override {
    at::NoGradGuard no_grad;
    AlignedStates states{.head = teacher_->head(), .cap = teacher_->config().logit_cap, .common = common_};
    std::vector<at::Tensor> hidden;
    int64_t rows = 0;
    for (int64_t b = first; b < first + count; ++b) {
      const Window window = translated(batch, b);
      if (window.inputs.empty()) continue;
      ForwardOptions options;
      if (window.segments.back() > 0) options.segments = at::tensor(window.segments, at::kInt).unsqueeze(0);
      hidden.push_back(teacher_->hidden(at::tensor(window.inputs, at::kLong).unsqueeze(0), options));
      const int64_t before = (b - first) * batch.length;
      for (const TokenSpan& s : window.spans) states.spans.push_back({s.a_begin + before, s.a_end + before, s.b_begin + rows, s.b_end + rows});
      states.labels.insert(states.labels.end(), window.labels.begin(), window.labels.end());
      rows += int64_t(window.inputs.size());
    }
    states.hidden = hidden.empty() ? at::empty({0, states.head.size(1)}, states.head.options()) : at::cat(hidden);
    std::vector<Targets> list(1);
    list.front().kind = kind();
    list.front().aligned = std::move(states);
    return list;
  }

  std::vector<Digest> digests(const TokenBatch& batch) const override { return std::vector<Digest>(size_t(batch.batch)); }
  Evidence evidence() const override { return Evidence::re_derivable; }

 private:
  /// A window in the teacher's tokens. Row r of each list has input r, and the span of rows [a, b) the labels [a, b).
  struct Window {
    std::vector<int64_t> inputs, labels;
    std::vector<int32_t> segments;
    std::vector<TokenSpan> spans;  // rows in the window: a of the student, b of the teacher
  };

  /// Segment by segment: a segment's inputs, and at the end of the window its last label as well.
  Window translated(const TokenBatch& batch, int64_t b) const {
    Window window;
    const std::span<const int64_t> ids = batch.sequence_ids(b);
    const auto segments = std::span(batch.segment).subspan(size_t(b * batch.length), size_t(batch.length));
    int32_t number = 0;
    for (int64_t begin = 0; begin < batch.length;) {
      int64_t end = begin;
      while (end < batch.length && segments[size_t(end)] == segments[size_t(begin)]) ++end;
      const int64_t last = end == batch.length ? end + 1 : end;
      const TokenAligner::Aligned aligned = aligner_.align(ids.subspan(size_t(begin), size_t(last - begin)));
      const auto before = int64_t(window.inputs.size()), tokens = int64_t(aligned.ids.size());
      for (int64_t t = 0; t + 1 < tokens; ++t) {
        window.inputs.push_back(aligned.ids[size_t(t)]);
        window.labels.push_back(aligned.ids[size_t(t) + 1]);
        window.segments.push_back(number);
      }
      for (const TokenSpan& s : aligned.spans)  // the row before a token predicts it; the first token has none
        if (s.a_begin > 0 && s.b_begin > 0)
          window.spans.push_back({begin + s.a_begin - 1, begin + s.a_end - 1, before + s.b_begin - 1, before + s.b_end - 1});
      if (tokens > 1) ++number;
      begin = end;
    }
    return window;
  }

  std::shared_ptr<const Decoder> teacher_;
  std::shared_ptr<const Tokenizer> its_tokenizer_, of_student_;
  TokenAligner aligner_;
  std::shared_ptr<const std::vector<std::pair<int32_t, int32_t>>> common_;
};

}  // namespace

std::unique_ptr<TeacherSignal> aligned_signal(std::shared_ptr<const Decoder> teacher, std::shared_ptr<const Tokenizer> its_tokenizer,
                                              std::shared_ptr<const Tokenizer> of_student) {
  return std::make_unique<AlignedSignal>(std::move(teacher), std::move(its_tokenizer), std::move(of_student));
}

}  // namespace overproof
