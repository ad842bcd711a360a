#pragma once
// Linear assignment: pairs each row with another column so that the sum of similarities is largest.

#include <cstdint>
#include <span>
#include <vector>

namespace overproof {

/// similarity is [rows, columns] row by row, rows <= columns, all finite. Returns the column of each row. Shortest augmenting
/// paths (Jonker and Volgenant 1987; Crouse 2016 for rows < columns): optimal, O(rows^2 columns) at worst. Permuting rows or
/// columns permutes the result in the same way unless two assignments have exactly equal sums.
std::vector<int64_t> best_assignment(std::span<const float> similarity, int64_t rows, int64_t columns);

}  // namespace overproof
