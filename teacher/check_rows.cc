#include "teacher/check_rows.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/rng.h"
#include "provenance/artifact.h"
#include "teacher/teach_stage.h"

namespace overproof {
namespace {

fs::path beside(const fs::path& targets, const std::string& given, const char* name) {
  return given.empty() ? fs::absolute(targets).lexically_normal().parent_path() / name : fs::path(given);
}

void require_root(const fs::path& path, const Digest& wanted, const char* what) {
  const Digest found = scan_artifact(path).root;
  if (found != wanted)
    throw UsageError(fmt::format("{}: is sha256:{}, but the targets were made with the {} sha256:{}", path.string(), found.hex(), what, wanted.hex()));
}

}  // namespace

int check_rows(const CheckRowsConfig& config, const fs::path& path, bool json, std::ostream& out) {
  prepare_torch();
  const SoftTargets targets(path);
  const fs::path teacher_path = beside(path, config.teacher, "teacher"), corpus_path = beside(path, config.corpus, "corpus");
  require_root(teacher_path, targets.teacher_root(), "teacher");
  require_root(corpus_path, targets.corpus_root(), "corpus");
  const Corpus corpus(corpus_path);
  const Decoder teacher(open_checkpoint(teacher_path));

  const int64_t all = targets.blocks() * targets.window_length();
  if (config.row >= all) throw UsageError(fmt::format("row {} is not there; the targets have {} rows", config.row, all));
  std::vector<int64_t> rows{config.row};
  if (config.row < 0) {
    rows.clear();
    Rng rng(uint64_t(config.seed), "audit/rows");
    for (int64_t i = 0; i < std::min(config.rows, all); ++i) rows.push_back(int64_t(rng.below(uint64_t(all))));
    std::sort(rows.begin(), rows.end());
  }
  int64_t differing = 0;
  for (const int64_t row : rows) {
    throw_if_interrupted();
    const auto stored = targets.row_bytes(row);
    const std::vector<uint8_t> made = rederive_row(teacher, corpus, targets, row);
    const bool equal = std::ranges::equal(stored, made);
    differing += !equal;
    if (json) out << Json{{"row", row}, {"bytes", stored.size()}, {"equal", equal}}.dump() << "\n";
    else out << fmt::format("row {} (block {}, position {}): {} bytes, {}\n", row, row / targets.window_length(), row % targets.window_length(),
                            stored.size(), equal ? "made again equal" : "NOT what the teacher says");
  }
  if (!json) out << fmt::format("{} of {} rows are what this teacher says\n", int64_t(rows.size()) - differing, rows.size());
  return differing == 0 ? 0 : 4;
}

}  // namespace overproof
