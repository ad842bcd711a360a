// Step records of both versions: any bytes are refused with a FormatError or accepted; what is accepted, appended again, gives the
// same bytes. The first byte chooses the version.

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "records/step_records.h"

using namespace overproof;

namespace {

void check(std::string_view bytes, const StepFormat& format) {
  try {
    const StepRecords records = StepRecords::from_bytes(bytes, format, "fuzz", StepRecords::Ended::no);
    StepRecords again(format);
    for (const StepRecord& r : records.steps()) again.append(r);
    fuzz::require(again.bytes() == bytes && again.chain() == records.chain());
  } catch (const FormatError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Digest weights = sha256(std::string_view("w"));
  const StepFormat format = data[0] % 2 == 0
                                ? StepFormat::first_version(weights, 2)
                                : StepFormat{.initial_weights = weights, .digest_every = 2, .terms = {"forward-kl", "cross-entropy"}};
  check(text, format);
  // The chain hides everything behind it from mutation: give the first record the link it needs.
  const size_t bytes = size_t(format.record_bytes()), link_at = bytes - 32;
  if (text.size() < bytes) return 0;
  std::string first(text.substr(0, bytes));
  Sha256 hash;
  hash.update(StepRecords(format).chain().bytes.data(), 32);
  hash.update(first.data(), link_at);
  const Digest chain = hash.finish();
  first.replace(link_at, 32, reinterpret_cast<const char*>(chain.bytes.data()), 32);
  check(first, format);
  return 0;
}
