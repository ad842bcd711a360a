#include "pipeline/version.h"

namespace overproof {

std::map<std::string, std::string> builder_versions() {
  return {{"overproof", kVersion},
#ifdef OVERPROOF_LIBTORCH_VERSION
          {"libtorch", OVERPROOF_LIBTORCH_VERSION},
#endif
          {"compiler", __VERSION__}};
}

}  // namespace overproof
