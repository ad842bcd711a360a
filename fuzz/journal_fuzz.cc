// The progress in a resume point that a killed `quantize` left: any JSON means "start over", or is a journal that fits the plan and
// is written as it was read.

#include "core/json.h"
#include "fuzz/fuzz_file.h"
#include "quantize/engine/journal.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Plan plan = [] {
    Plan made;
    for (const char* name : {"a.weight", "b.weight"}) {
      PlanItem item;
      item.source = {name, DType::f32, {2, 3}};
      item.outputs = {item.source};
      made.items.push_back(std::move(item));
    }
    return made;
  }();
  const Json json = Json::parse(data, data + size, nullptr, false);
  if (json.is_discarded()) return 0;
  const std::optional<Journal> journal = journal_from_json(json, plan);
  if (!journal) return 0;
  fuzz::require(journal->items <= plan.items.size() && journal->bytes == int64_t(24 * journal->items) &&
                journal->errors.size() == journal->items);
  const std::optional<Journal> again = journal_from_json(to_json(*journal, plan), plan);
  fuzz::require(again && again->items == journal->items && again->inputs.size() == journal->inputs.size());
  return 0;
}
