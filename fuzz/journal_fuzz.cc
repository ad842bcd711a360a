// The journal that a killed `quantize` left: any bytes mean "begin anew", or a journal that fits the plan and is written as it
// was read.

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "quantize/journal.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
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
  folder.put("journal.json", {reinterpret_cast<const char*>(data), size});
  const std::optional<Journal> journal = read_journal(folder / "journal.json", plan);
  if (!journal) return 0;
  fuzz::require(journal->items <= plan.items.size() && journal->bytes == int64_t(24 * journal->items) &&
                journal->errors.size() == journal->items);
  write_journal(folder / "again.json", *journal);
  const std::optional<Journal> again = read_journal(folder / "again.json", plan);
  fuzz::require(again && again->items == journal->items && again->outputs.size() == journal->outputs.size() &&
                again->inputs.size() == journal->inputs.size());
  return 0;
}
