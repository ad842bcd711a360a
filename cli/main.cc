#include <string>
#include <vector>

#include "cli/program.h"
#ifdef OVERPROOF_WITH_TORCH
#include "model/runtime.h"
#endif

int main(int argc, char** argv) {
#ifdef OVERPROOF_WITH_TORCH
  overproof::ensure_passive_waiting(argv);
#endif
  return overproof::run_program({argv + 1, argv + argc});
}
