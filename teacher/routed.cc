// Several teachers, each responsible for some documents. A teacher gets a batch of the sequences that have a row of its documents,
// with the whole of their texts, and its targets are cut to its rows.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "teacher/signal.h"

namespace overproof {
namespace {

SparseRows chosen(const SparseRows& all, std::span<const int64_t> rows) {
  SparseRows out;
  for (const int64_t row : rows) {
    const auto begin = all.offsets[size_t(row)], end = all.offsets[size_t(row) + 1];
    out.ids.insert(out.ids.end(), all.ids.begin() + begin, all.ids.begin() + end);
    out.probabilities.insert(out.probabilities.end(), all.probabilities.begin() + begin, all.probabilities.begin() + end);
    out.offsets.push_back(int64_t(out.ids.size()));
    out.tail.push_back(all.tail[size_t(row)]);
  }
  return out;
}

/// Leaves the spans of which all rows are chosen, in the places that those have among the chosen ones.
void choose_spans(AlignedStates& states, std::span<const int64_t> rows, int64_t all) {
  std::vector<int64_t> place(size_t(all), -1);
  for (size_t i = 0; i < rows.size(); ++i) place[size_t(rows[i])] = int64_t(i);
  std::erase_if(states.spans, [&](TokenSpan& span) {
    for (int64_t r = span.a_begin; r < span.a_end; ++r)
      if (place[size_t(r)] < 0) return true;
    const int64_t length = span.a_end - span.a_begin;
    span.a_begin = place[size_t(span.a_begin)];
    span.a_end = span.a_begin + length;
    return false;
  });
}

class RoutedSignal final : public TeacherSignal {
 public:
  RoutedSignal(std::shared_ptr<const DocumentRoutes> routes, Split split, std::vector<std::unique_ptr<TeacherSignal>> parts)
      : routes_(std::move(routes)), split_(split), parts_(std::move(parts)) {
    OVERPROOF_CHECK(!parts_.empty() && parts_.size() == routes_->teachers().size());
    for (const auto& part : parts_)
      if (part->temperature() != temperature())
        throw MismatchError(fmt::format("temperatures of the teachers differ: {} and {}; teach again with one --temperature", temperature(),
                                        part->temperature()));
  }

  int64_t vocab_size() const override {
    return (*std::ranges::min_element(parts_, {}, [](const auto& part) { return part->vocab_size(); }))->vocab_size();
  }
  double temperature() const override { return parts_.front()->temperature(); }
  TargetKind kind() const override {
    for (const TargetKind kind : {TargetKind::aligned, TargetKind::sampled, TargetKind::top_k})
      if (std::ranges::any_of(parts_, [&](const auto& part) { return part->kind() == kind; })) return kind;
    return TargetKind::whole;
  }

  std::vector<TargetKind> kinds() const override {
    std::vector<TargetKind> list;
    for (const auto& part : parts_) list.push_back(part->kind());
    return list;
  }

  std::vector<Targets> rows(const TokenBatch& batch, int64_t first, int64_t count) const override {
    const std::vector<int32_t> teachers = teachers_of(batch, first, count);
    std::vector<Targets> all;
    for (size_t p = 0; p < parts_.size(); ++p) {
      std::vector<int64_t> sequences, rows, rows_there;  // there: in the batch of those sequences
      for (int64_t b = 0; b < count; ++b)
        for (int64_t r = 0; r < batch.length; ++r) {
          const int64_t row = b * batch.length + r;
          if (teachers[size_t(row)] != int32_t(p)) continue;
          if (sequences.empty() || sequences.back() != first + b) sequences.push_back(first + b);
          rows.push_back(row);
          rows_there.push_back((int64_t(sequences.size()) - 1) * batch.length + r);
        }
      if (rows.empty()) continue;
      const TokenBatch of_part = part_of(batch, sequences);
      std::vector<Targets> whole = parts_[p]->rows(of_part, 0, of_part.batch);
      OVERPROOF_CHECK(whole.size() == 1 && whole.front().rows.empty());
      Targets& targets = all.emplace_back(std::move(whole.front()));
      targets.rows = std::move(rows);
      if (targets.sparse.rows() > 0) targets.sparse = chosen(targets.sparse, rows_there);
      if (targets.aligned) choose_spans(*targets.aligned, rows_there, of_part.batch * of_part.length);
      for (DenseStates& states : targets.states)
        states.hidden = states.hidden.index_select(0, at::tensor(rows_there, at::kLong).to(states.hidden.device()));
    }
    return all;
  }

  /// Of the teachers that are responsible for a row of the sequence, joined.
  std::vector<Digest> digests(const TokenBatch& batch) const override {
    const std::vector<int32_t> teachers = teachers_of(batch, 0, batch.batch);
    std::vector<std::vector<Digest>> of_parts(static_cast<size_t>(batch.batch));
    for (size_t p = 0; p < parts_.size(); ++p) {
      std::vector<int64_t> sequences;
      for (int64_t b = 0; b < batch.batch; ++b) {
        const auto begin = teachers.begin() + b * batch.length;
        if (std::find(begin, begin + batch.length, int32_t(p)) != begin + batch.length) sequences.push_back(b);
      }
      if (sequences.empty()) continue;
      const std::vector<Digest> digests = parts_[p]->digests(part_of(batch, sequences));
      for (size_t i = 0; i < sequences.size(); ++i) of_parts[size_t(sequences[i])].push_back(digests[i]);
    }
    std::vector<Digest> list;
    for (const std::vector<Digest>& digests : of_parts) list.push_back(joined_digest(digests));
    return list;
  }

  Evidence evidence() const override {
    const bool all = std::ranges::all_of(parts_, [](const auto& part) { return part->evidence() == Evidence::re_derivable; });
    return all ? Evidence::re_derivable : Evidence::recorded;
  }

 private:
  /// The number of the teacher of each row.
  std::vector<int32_t> teachers_of(const TokenBatch& batch, int64_t first, int64_t count) const {
    std::vector<int32_t> teachers(size_t(count * batch.length));
    for (int64_t b = 0; b < count; ++b)
      routes_->read_window(split_, batch.numbers[size_t(first + b)],
                           std::span(teachers).subspan(size_t(b * batch.length), size_t(batch.length)));
    return teachers;
  }

  static TokenBatch part_of(const TokenBatch& batch, std::span<const int64_t> sequences) {
    TokenBatch part{.batch = int64_t(sequences.size()), .length = batch.length};
    const auto copy = [](const auto& from, auto& to, int64_t begin, int64_t count) {
      to.insert(to.end(), from.begin() + begin, from.begin() + begin + count);
    };
    for (const int64_t b : sequences) {
      part.numbers.push_back(batch.numbers[size_t(b)]);
      copy(batch.ids, part.ids, b * (batch.length + 1), batch.length + 1);
      copy(batch.weight, part.weight, b * batch.length, batch.length);
      copy(batch.segment, part.segment, b * batch.length, batch.length);
      copy(batch.source, part.source, b * batch.length, batch.length);
    }
    return part;
  }

  std::shared_ptr<const DocumentRoutes> routes_;
  Split split_;
  std::vector<std::unique_ptr<TeacherSignal>> parts_;
};

}  // namespace

std::unique_ptr<TeacherSignal> routed_signal(std::shared_ptr<const DocumentRoutes> routes, Split split,
                                             std::vector<std::unique_ptr<TeacherSignal>> parts) {
  return std::make_unique<RoutedSignal>(std::move(routes), split, std::move(parts));
}

}  // namespace overproof
