// A cache of digests: any bytes are refused with a FormatError or accepted; what is accepted has states within its files. And a
// rotation of keys: none here is signed.

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "provenance/digest_cache.h"
#include "provenance/key_rotation.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const DigestCache cache = parse_digest_cache(text, "cache.json");
    fuzz::require(cache.chunk_bytes > 0 && cache.chunk_bytes % Sha256State::kBlock == 0);
    for (const auto& [name, file] : cache.files) {
      fuzz::require(file.bytes >= 0 && int64_t(file.states.size()) <= file.bytes / cache.chunk_bytes);
      for (size_t i = 0; i < file.states.size(); ++i) fuzz::require(file.states[i].bytes == int64_t(i + 1) * cache.chunk_bytes);
    }
  } catch (const FormatError&) {
  }
  static const Key key = Key::generate();
  try {
    fuzz::require(!read_rotation(text, "rotation.json").envelope.verify(key.public_key()));
  } catch (const FormatError&) {
  }
  return 0;
}
