// Step records: any bytes are refused with a FormatError or accepted; what is accepted, appended again, gives the same bytes.

#include "core/error.h"
#include "records/step_records.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Digest weights = sha256(std::string_view("w"));
  try {
    const StepRecords records = StepRecords::from_bytes(text, weights, 2, "fuzz", StepRecords::Ended::no);
    StepRecords again(weights, 2);
    for (const StepRecord& r : records.steps()) again.append(r);
    fuzz::require(again.bytes() == text && again.chain() == records.chain());
  } catch (const FormatError&) {
  }
  // The chain hides everything behind it from mutation: give the first record the one it needs.
  if (size >= size_t(kStepRecordBytes)) {
    std::string first(text.substr(0, size_t(kStepRecordBytes)));
    StepRecords empty(weights, 2);
    Sha256 hash;
    hash.update(empty.chain().bytes.data(), 32);
    hash.update(first.data(), 224);
    const Digest chain = hash.finish();
    first.replace(224, 32, reinterpret_cast<const char*>(chain.bytes.data()), 32);
    try {
      const StepRecords records = StepRecords::from_bytes(first, weights, 2, "fuzz", StepRecords::Ended::no);
      fuzz::require(records.steps().size() == 1 && records.bytes() == first);
    } catch (const FormatError&) {
    }
  }
  return 0;
}
