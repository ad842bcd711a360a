#include "prune/weight_masks.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "core/products.h"

namespace overproof {
namespace {

constexpr int64_t kSparseColumns = 128;  // the paper's block, in which masks are chosen and errors propagated
constexpr int64_t kSparseRows = 32;      // rows that one task takes

/// The indices of the `count` lowest scores; of equals the first. In no particular order.
std::vector<int32_t> lowest(std::span<const float> scores, int64_t count) {
  std::vector<int32_t> order(scores.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = int32_t(i);
  const auto before = [&](int32_t a, int32_t b) { return scores[size_t(a)] != scores[size_t(b)] ? scores[size_t(a)] < scores[size_t(b)] : a < b; };
  if (count < int64_t(order.size())) std::nth_element(order.begin(), order.begin() + count, order.end(), before);
  order.resize(size_t(count));
  return order;
}

/// Marks the `zeros` lowest of scores[0 .. group).
void mark_group(const float* scores, int64_t group, int64_t zeros, uint8_t* marks) {
  for (int64_t z = 0; z < zeros; ++z) {
    int64_t least = -1;
    for (int64_t i = 0; i < group; ++i)
      if (!marks[i] && (least < 0 || scores[i] < scores[least])) least = i;
    marks[least] = 1;
  }
}

}  // namespace

WeightPattern WeightPattern::parse(const std::string& text) {
  WeightPattern pattern;
  const char *begin = text.data(), *end = begin + text.size();
  if (const size_t colon = text.find(':'); colon != std::string::npos) {
    const auto zeros = std::from_chars(begin, begin + colon, pattern.zeros), group = std::from_chars(begin + colon + 1, end, pattern.group);
    if (zeros.ec == std::errc() && zeros.ptr == begin + colon && group.ec == std::errc() && group.ptr == end && pattern.zeros >= 1 &&
        pattern.zeros < pattern.group && pattern.group <= kSparseColumns && kSparseColumns % pattern.group == 0) {
      pattern.share = double(pattern.zeros) / double(pattern.group);
      return pattern;
    }
  } else if (const auto share = std::from_chars(begin, end, pattern.share);
             share.ec == std::errc() && share.ptr == end && pattern.share >= 0 && pattern.share <= 1) {
    return pattern;
  }
  throw UsageError(fmt::format("option 'sparsity': '{}' is neither a share from 0 to 1, as 0.5, nor zeros of a group that divides {}, as 2:4",
                               text.substr(0, 40), kSparseColumns));
}

void zero_lowest(std::span<float> w, int64_t rows, int64_t columns, std::span<const float> scale, const WeightPattern& pattern, bool over_all) {
  OVERPROOF_CHECK(int64_t(w.size()) == rows * columns && (scale.empty() || int64_t(scale.size()) == columns) && w.size() <= INT32_MAX);
  const auto score = [&](size_t i) { return std::abs(w[i]) * (scale.empty() ? 1.0f : scale[i % size_t(columns)]); };
  if (pattern.group == 0 && over_all) {
    std::vector<float> scores(w.size());
    for (size_t i = 0; i < w.size(); ++i) scores[i] = score(i);
    for (const int32_t i : lowest(scores, int64_t(pattern.share * double(w.size())))) w[size_t(i)] = 0;
    return;
  }
  OVERPROOF_CHECK(pattern.group == 0 || columns % pattern.group == 0);
  parallel_for(rows, kSparseRows, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(static_cast<size_t>(columns));
    for (int64_t r = begin; r < end; ++r) {
      float* row = w.data() + r * columns;
      for (int64_t c = 0; c < columns; ++c) scores[size_t(c)] = score(size_t(r * columns + c));
      if (pattern.group == 0) {
        for (const int32_t c : lowest(scores, int64_t(pattern.share * double(columns)))) row[c] = 0;
        continue;
      }
      std::vector<uint8_t> marks(size_t(columns), 0);
      for (int64_t c = 0; c < columns; c += pattern.group) mark_group(scores.data() + c, pattern.group, pattern.zeros, marks.data() + c);
      for (int64_t c = 0; c < columns; ++c)
        if (marks[size_t(c)]) row[c] = 0;
    }
  });
}

double sparse_gpt(std::span<float> w, int64_t rows, const HessianFactor& factor, const WeightPattern& pattern) {
  const int64_t n = factor.columns;
  OVERPROOF_CHECK(int64_t(w.size()) == rows * n && factor.order.empty() && (pattern.group == 0 || n % pattern.group == 0));
  const int64_t tasks = (rows + kSparseRows - 1) / kSparseRows;
  std::vector<double> losses(size_t(tasks), 0.0);
  std::vector<uint8_t> marks(size_t(rows * kSparseColumns));
  std::vector<float> scores;
  for (int64_t block = 0; block < n; block += kSparseColumns) {
    const int64_t stop = std::min(block + kSparseColumns, n), width = stop - block;
    const auto score = [&](const float* row, int64_t c) {
      const float scaled = row[c] / factor.diagonal[size_t(c)];
      return scaled * scaled;
    };
    std::ranges::fill(marks, uint8_t{0});
    if (pattern.group == 0) {
      scores.resize(size_t(rows * width));
      parallel_for(rows, kSparseRows, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
          for (int64_t c = 0; c < width; ++c) scores[size_t(r * width + c)] = score(w.data() + r * n, block + c);
      });
      for (const int32_t i : lowest(scores, int64_t(pattern.share * double(scores.size()))))
        marks[size_t(i / width * kSparseColumns + i % width)] = 1;
    }
    parallel_for(rows, kSparseRows, [&](int64_t begin, int64_t end) {
      std::vector<float> errors(size_t((end - begin) * kSparseColumns), 0.0f), group(static_cast<size_t>(std::max<int64_t>(1, pattern.group)));
      double& loss = losses[size_t(begin / kSparseRows)];
      for (int64_t r = begin; r < end; ++r) {
        float* row = w.data() + r * n;
        uint8_t* mark = marks.data() + r * kSparseColumns;
        for (int64_t c = block; c < stop; ++c) {
          if (pattern.group > 0 && (c - block) % pattern.group == 0) {
            for (int64_t i = 0; i < pattern.group; ++i) group[size_t(i)] = score(row, c + i);
            mark_group(group.data(), pattern.group, pattern.zeros, mark + c - block);
          }
          if (!mark[c - block]) continue;
          loss += score(row, c);
          const float error = row[c];
          row[c] = 0;
          errors[size_t((r - begin) * kSparseColumns + c - block)] = error;
          const float* upper = factor.upper.data() + c * n;
          for (int64_t j = c + 1; j < stop; ++j) row[j] -= error * upper[j];
        }
      }
      if (stop < n)
        subtract_product(w.data() + begin * n + stop, n, errors.data(), kSparseColumns, factor.upper.data() + block * n + stop, n, end - begin, n - stop,
                         width);
    });
  }
  double loss = 0;
  for (const double x : losses) loss += x;
  return loss;
}

}  // namespace overproof
