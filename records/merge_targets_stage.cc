#include "records/merge_targets_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "records/soft_targets.h"

namespace overproof {
namespace {

struct Part {
  std::string name;  ///< of its slot
  SoftTargets targets;
  int64_t first() const { return targets.origin().part->first_block; }
  int64_t end() const { return first() + targets.blocks(); }
};

/// In what the headers of two parts of the same targets may not differ; "" when they do not.
std::string difference(const SoftTargetsHeader& a, const SoftTargetsHeader& b) {
  const auto &x = a.origin, &y = b.origin;
  if (x.order_key != y.order_key || x.order_beacon != y.order_beacon) return "order of windows";
  if (x.part->all_blocks != y.part->all_blocks) return "number of windows of the whole";
  if (x.part->compute != y.part->compute) return "number type of products (give --compute to teach-shard)";
  if (x.evidence != y.evidence) return "evidence";
  if (a.encoding.kind != b.encoding.kind || a.encoding.count != b.encoding.count) return "mode, draws or k";
  if (a.encoding.temperature != b.encoding.temperature || a.encoding.seed != b.encoding.seed) return "temperature or seed";
  if (a.vocab_size != b.vocab_size || !a.tokenizer.matches(b.tokenizer)) return "tokenizer";
  if (a.window_length != b.window_length || a.batch_windows != b.batch_windows || a.masked != b.masked) return "windows";
  return "";
}

}  // namespace

StageReport run_merge_targets(const MergeTargetsConfig&, const Inputs& inputs, Outputs& outputs) {
  std::vector<Part> parts;
  for (const auto& [slot, artifact] : inputs.all())
    if (slot != "teacher" && slot != "corpus") parts.push_back({slot, SoftTargets::part(artifact.path)});
  if (parts.empty()) throw UsageError("merge-targets: no parts are given; name them with --parts");
  std::ranges::sort(parts, {}, [](const Part& p) { return p.first(); });
  SoftTargetsHeader header = parts.front().targets.header();
  for (const Part& part : parts) {
    const SoftTargetsOrigin& origin = part.targets.origin();
    for (const auto& [slot, root] : {std::pair{"teacher", origin.teacher_root}, {"corpus", origin.corpus_root}})
      if (root != inputs.root(slot))
        throw MismatchError(fmt::format("the part '{}' was made with the {} sha256:{}, not with sha256:{}", part.name, slot, root.hex(), inputs.root(slot).hex()));
    if (const std::string what = difference(header, part.targets.header()); !what.empty())
      throw MismatchError(fmt::format("the parts '{}' and '{}' differ in {}", parts.front().name, part.name, what));
  }
  int64_t next = 0;
  for (const Part& part : parts) {
    if (part.first() != next)
      throw MismatchError(part.first() > next ? fmt::format("the parts have no windows {} to {}", next, part.first() - 1)
                                              : fmt::format("the part '{}' has window {}, which another part has as well", part.name, part.first()));
    next = part.end();
  }
  if (next != header.origin.part->all_blocks)
    throw MismatchError(fmt::format("the parts have no windows {} to {}", next, header.origin.part->all_blocks - 1));

  const std::string compute = header.origin.part->compute;
  header.origin.part.reset();
  const SoftTargetsSize size = write_soft_targets(
      header,
      [&](const auto& body) {
        for (const Part& part : parts)
          for (int64_t b = 0; b < part.targets.blocks(); ++b) {
            const auto [lengths, entries] = part.targets.block(b);
            body(lengths, entries);
          }
      },
      outputs.folder());
  const double stored = double(std::max<int64_t>(size.stored, 1));
  StageReport report;
  report.metrics() = {{"windows", next},
                      {"tokens", size.rows},
                      {"bytes_per_token", double(size.bytes) / stored},
                      {"ids_per_token", double(size.entries) / stored},
                      {"evidence", evidence_name(header.origin.evidence)},
                      {"compute", compute},
                      {"parts", parts.size()}};
  if (header.masked) report.metrics()["trained_tokens"] = size.stored;
  report.summary = {fmt::format("{} parts: {} tokens in {} windows of {}", parts.size(), size.rows, next, header.window_length)};
  return report;
}

}  // namespace overproof
