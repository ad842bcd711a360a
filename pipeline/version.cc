#include "pipeline/version.h"

#ifdef OVERPROOF_WITH_TORCH
#include "model/decoder.h"
#endif

namespace overproof {

std::map<std::string, std::string> builder_versions() {
  return {{"overproof", kVersion},
#ifdef OVERPROOF_WITH_TORCH
          {"libtorch", torch_version()},
#endif
          {"compiler", __VERSION__}};
}

}  // namespace overproof
