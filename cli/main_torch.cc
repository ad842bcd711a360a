// The program `overproof-torch`: the same command line, linked with libtorch.
#include "cli/program.h"
#include "model/torch_setup.h"
#include "pipeline/torch_functions.h"

int main(int argc, char** argv) {
  overproof::ensure_short_waiting(argv);
  overproof::bind_torch_functions();
  return overproof::run_program({argv + 1, argv + argc});
}
