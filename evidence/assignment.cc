#include "evidence/assignment.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace overproof {

std::vector<int64_t> best_assignment(std::span<const float> similarity, int64_t rows, int64_t columns) {
  OVERPROOF_CHECK(rows >= 1 && rows <= columns && int64_t(similarity.size()) == rows * columns);
  constexpr double kFar = std::numeric_limits<double>::infinity();
  std::vector<double> row_price(size_t(rows), 0.0), column_price(size_t(columns), 0.0), distance(static_cast<size_t>(columns));
  std::vector<int64_t> column_of(size_t(rows), -1), row_of(size_t(columns), -1), before(static_cast<size_t>(columns)), open;

  for (int64_t start = 0; start < rows; ++start) {
    // Dijkstra from a free row over reduced costs; cost = -similarity. `open` holds the columns that are not reached yet.
    std::fill(distance.begin(), distance.end(), kFar);
    open.resize(size_t(columns));
    for (int64_t j = 0; j < columns; ++j) open[size_t(j)] = j;
    std::vector<int64_t> reached_rows{start}, reached_columns;
    int64_t row = start, sink = -1;
    double so_far = 0;
    while (sink < 0) {
      const float* s = similarity.data() + row * columns;
      const double base = so_far - row_price[size_t(row)];
      double least = kFar;
      size_t at = 0;
      for (size_t k = 0; k < open.size(); ++k) {
        const auto j = size_t(open[k]);
        const double d = base - double(s[j]) - column_price[j];
        if (d < distance[j]) {
          distance[j] = d;
          before[j] = row;
        }
        // Of equal distances a free column ends the search sooner.
        if (distance[j] < least || (distance[j] == least && row_of[j] < 0)) {
          least = distance[j];
          at = k;
        }
      }
      OVERPROOF_CHECK(least < kFar);
      so_far = least;
      const int64_t column = open[at];
      open[at] = open.back();
      open.pop_back();
      reached_columns.push_back(column);
      if (row_of[size_t(column)] < 0) sink = column;
      else reached_rows.push_back(row = row_of[size_t(column)]);
    }
    row_price[size_t(start)] += so_far;
    for (size_t k = 1; k < reached_rows.size(); ++k)
      row_price[size_t(reached_rows[k])] += so_far - distance[size_t(column_of[size_t(reached_rows[k])])];
    for (const int64_t j : reached_columns) column_price[size_t(j)] -= so_far - distance[size_t(j)];
    for (int64_t j = sink;;) {
      const int64_t i = before[size_t(j)];
      row_of[size_t(j)] = i;
      std::swap(column_of[size_t(i)], j);
      if (i == start) break;
    }
  }
  return column_of;
}

}  // namespace overproof
