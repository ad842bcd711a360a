#include "prune/picked_rows.h"

#include <algorithm>

#include "core/interrupt.h"
#include "core/json.h"
#include "data/tokenizer_files.h"
#include "formats/weight_dtype.h"

namespace overproof {

void write_rows(const TensorSource& source, const TensorInfo& tensor, const std::vector<int64_t>* picked, float empty,
                ShardedWriter& writer) {
  const int64_t rows = tensor.shape.empty() ? 1 : tensor.shape[0], row = rows == 0 ? 0 : tensor.elements() / rows;
  const int64_t block = std::max<int64_t>(1, kPrunedBlockElements / std::max<int64_t>(1, row));
  const int64_t count = picked ? int64_t(picked->size()) : rows;
  std::vector<float> values;
  for (int64_t begin = 0; begin < count; begin += block) {
    throw_if_interrupted();
    const int64_t n = std::min(block, count - begin);
    values.assign(size_t(n * row), empty);
    if (!picked) source.read_f32(tensor.name, begin, n, values);
    for (int64_t i = 0; picked && i < n; ++i)
      if (const int64_t from = (*picked)[size_t(begin + i)]; from >= 0)
        source.read_f32(tensor.name, from, 1, std::span(values).subspan(size_t(i * row), size_t(row)));
    require_range(writer.current()->dtype, values, tensor.name);
    writer.append_f32(values);
  }
}

void write_pruned_config(const fs::path& from, const Json& config, OutputFolder& folder) {
  folder.write_file("config.json", config.dump(2) + "\n");
  copy_companions_noted(from, folder);
}

}  // namespace overproof
