// Soft targets and parts of them: any bytes are refused with a FormatError (or as the other of the two), or every block has rows of ascending ids and probabilities, or is
// refused.

#include <algorithm>

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "records/soft_targets.h"

using namespace overproof;

namespace {

void read_all(const SoftTargets& targets) {
  fuzz::require(targets.blocks() > 0 && targets.bytes_per_token() > 0);
  TargetBlock block;
  for (int64_t b = 0; b < targets.blocks(); ++b) {
    targets.block_digest(b);
    int64_t bytes = 0;
    for (int64_t r = 0; r < targets.window_length(); ++r) bytes += int64_t(targets.row_bytes(b * targets.window_length() + r).size());
    try {
      targets.read_block(b, block);
    } catch (const FormatError&) {
      continue;
    }
    fuzz::require(int64_t(block.offsets.size()) == targets.window_length() + 1 && block.offsets.back() == int64_t(block.ids.size()));
    fuzz::require(int64_t(block.ids.size()) * targets.encoding().entry_bytes() == bytes);
    for (const int32_t id : block.ids) fuzz::require(id >= 0 && id < targets.vocab_size());
    for (const float p : block.probabilities) fuzz::require(p >= 0 && p <= 1);
    for (const float t : block.tail) fuzz::require(t >= 0 && t <= 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (const char* name : {kSoftTargetsFile, kSoftTargetsPartFile}) folder.put(name, bytes);
  for (const bool part : {false, true}) {
    try {
      const SoftTargets targets = part ? SoftTargets::part(folder.path()) : SoftTargets(folder.path());
      read_all(targets);
      fuzz::require(targets.stored_rows().size() <= size_t(targets.blocks() * targets.window_length()));
      targets.mask_fault([](int64_t, std::span<float> mask) { std::ranges::fill(mask, 1.0f); });
      if (part) fuzz::require(targets.origin().part->first_block + targets.blocks() <= targets.origin().all_blocks());
    } catch (const FormatError&) {
    } catch (const MismatchError&) {
    }
  }
  return 0;
}
