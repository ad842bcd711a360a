#include "teacher/check_rows.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/printable.h"
#include "core/progress.h"
#include "core/public_draw.h"
#include "data/order.h"
#include "data/private_corpus.h"
#include "model/compute.h"
#include "provenance/artifact.h"
#include "provenance/outside.h"
#include "provenance/signers.h"
#include "teacher/teach_rows.h"

namespace overproof {
namespace {

/// What the user gave, else the artifact next to the targets that the statement names with that root, else `name`.
fs::path parent_artifact(const fs::path& targets, const fs::path& given, const ArtifactCheck& check, const Digest& root,
                         const char* name) {
  if (!given.empty()) return given;
  const fs::path run = fs::absolute(targets).lexically_normal().parent_path();
  if (check.lineage)
    for (const auto& [slot, input] : check.lineage->inputs)
      if (input.root == root && is_safe_relative_name(input.name) && fs::exists(run / input.name)) return run / input.name;
  return run / name;
}

void require_root(const fs::path& path, const Digest& wanted, const char* what) {
  const Digest found = scan_input(path).root;
  if (found != wanted)
    throw MismatchError(fmt::format("{}: is sha256:{}, but the targets were made with the {} sha256:{}", path.string(),
                                    found.hex(), what, wanted.hex()));
}

std::string text_of(const RowCheck& check) {
  std::string out = fmt::format("{} sha256:{}\n", printable(check.artifact), check.root.hex());
  for (const CheckedRow& r : check.rows)
    out += fmt::format("row {} (window {}, position {}): {} bytes, {}\n", r.row, r.row / check.window_length,
                       r.row % check.window_length, r.bytes, r.equal ? "equal" : "NOT what the teacher gives");
  for (const std::string& fault : check.faults) out += fmt::format("FAIL: {}\n", printable(fault));
  return out + fmt::format("{} of {} rows are what this teacher gives\n", check.equal(), check.rows.size());
}

}  // namespace

int64_t RowCheck::equal() const {
  return std::count_if(rows.begin(), rows.end(), [](const CheckedRow& r) { return r.equal; });
}

Json RowCheck::to_json() const {
  Json numbers = Json::array(), differing = Json::array(), odds = Json::array();
  for (const CheckedRow& r : rows) {
    numbers.push_back(r.row);
    if (!r.equal) differing.push_back(r.row);
  }
  if (drawn)  // a bound: without replacement a little more
    for (const double f : {0.01, 0.05, 0.1})
      odds.push_back({{"forged_fraction", f}, {"caught_at_least", 1 - std::pow(1 - f, double(rows.size()))}});
  return {{"holds", holds()},
          {"artifact", artifact},
          {"root", "sha256:" + root.hex()},
          {"teacher", "sha256:" + teacher.hex()},
          {"corpus", "sha256:" + corpus.hex()},
          {"mode", drawn ? "drawn" : "asked"},
          {"evidence", evidence_name(Evidence::re_derivable)},
          {"seed", seed},
          {"rows_total", rows_total},
          {"rows_equal", equal()},
          {"rows", numbers},
          {"differing", differing},
          {"odds", odds},
          {"faults", faults}};
}

std::vector<int64_t> draw_rows(int64_t total, int64_t count, std::string_view seed, const Digest& root) {
  return draw_publicly("overproof rows draw v1", "audit/rows", total, count, seed, root);
}

RowCheck check_rows(const CheckRowsConfig& config, const fs::path& path) {
  RowCheck check;
  if (config.row < 0) draw_rows(1, 0, config.seed, {});  // refuses a bad seed before the long work
  const auto trusted = config.trust.key();
  const ArtifactCheck artifact = check_artifact(path, VerifyFiles::yes, trusted.get());
  const SoftTargets targets(path);
  check.artifact = fs::canonical(path).filename().string();
  // Of the files as they are, whatever was signed: these rows are compared.
  check.root = artifact.lineage && artifact.faults.empty() ? artifact.lineage->root : scan_input(path).root;
  if (artifact.lineage && artifact.faults.empty() && !artifact.foreign) check.statement = artifact.lineage->statement;
  for (const Fault& fault : artifact.faults)
    check.faults.push_back(fmt::format("{}{}{}: {}", check.artifact, fault.file.empty() ? "" : "/", fault.file, fault.what));

  if (targets.origin().evidence == Evidence::recorded)
    throw MismatchError(fmt::format(
        "{}: the rows are a record of a teacher that is out of reach, so they cannot be computed again", path.string()));
  check.teacher = targets.teacher_root();
  check.corpus = targets.corpus_root();
  const fs::path teacher_path = parent_artifact(path, config.teacher, artifact, check.teacher, "teacher"),
                 corpus_path = parent_artifact(path, config.corpus, artifact, check.corpus, "corpus");
  require_root(teacher_path, check.teacher, "teacher");
  require_root(corpus_path, check.corpus, "corpus");
  const Corpus corpus(corpus_path);
  const std::optional<Digest> salt = corpus_batch_salt(corpus_path);
  const Decoder teacher(open_checkpoint(teacher_path));
  if (artifact.lineage) use_compute(recorded_compute(artifact.lineage->metrics, path.string()), teacher.config().hidden_size);

  check.window_length = targets.window_length();
  const TrainingOrder order(targets.order_key(), corpus.windows(Split::train), targets.blocks());
  const std::string unmasked = targets.mask_fault(
      [&](int64_t block, std::span<float> mask) { corpus.read_mask(Split::train, order.window_of_block(block), mask); });
  if (!unmasked.empty()) check.faults.push_back(fmt::format("{}/{}: {}", check.artifact, kSoftTargetsFile, unmasked));
  const std::vector<int64_t> stored = targets.stored_rows();
  check.rows_total = int64_t(stored.size());
  check.drawn = config.row < 0;
  if (const int64_t rows = targets.blocks() * targets.window_length(); config.row >= rows)
    throw UsageError(fmt::format("option 'row': there is no row {}; the targets have {} rows", config.row, rows));
  std::vector<int64_t> rows{config.row};
  if (check.drawn) {
    check.seed = config.seed;
    rows = draw_rows(check.rows_total, config.rows, config.seed, check.root);
    for (int64_t& row : rows) row = stored[size_t(row)];
  }
  Progress progress("check rows", int64_t(rows.size()), "rows");
  for (const int64_t row : rows) {
    throw_if_interrupted();
    const auto bytes = targets.row_bytes(row);
    check.rows.push_back({row, bytes.size(), std::ranges::equal(bytes, rederive_row(teacher, corpus, targets, row, salt))});
    progress.update(int64_t(check.rows.size()));
  }
  return check;
}

Answer audit_rows(const CheckRowsConfig& config, const fs::path& targets) {
  const AuditRecorder recorder(config.record, targets);
  prepare_torch();
  const RowCheck check = check_rows(config, targets);
  const std::string line =
      recorder.write(check.artifact, {"rows", {{check.artifact, check.root, check.statement}}, check.to_json()});
  return with_signers({check.to_json(), text_of(check) + line, check.holds() ? 0 : 4}, targets, config.trust);
}

}  // namespace overproof
