// model.sig: any bytes are refused with a FormatError or accepted; what is accepted lists safe names, sorted, with their root.

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "provenance/oms.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Key key = Key::generate();
  try {
    const OmsManifest manifest = read_oms_bundle({reinterpret_cast<const char*>(data), size}, "model.sig", &key.public_key());
    fuzz::require(!manifest.signature_valid);  // the key is random
    if (!manifest.files.empty()) fuzz::require(oms_root(manifest.files) == manifest.root);
    for (size_t i = 0; i < manifest.files.size(); ++i) {
      fuzz::require(manifest.files[i].name == "." || is_safe_relative_name(manifest.files[i].name));
      fuzz::require(i == 0 || oms_name_less(manifest.files[i - 1].name, manifest.files[i].name));
    }
  } catch (const FormatError&) {
  }
  return 0;
}
