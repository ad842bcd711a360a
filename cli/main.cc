// The program `overproof`: it starts without libtorch, and replaces itself by overproof-torch where a command needs it
// (pipeline/needs.h).
#include "cli/program.h"

int main(int argc, char** argv) { return overproof::run_program({argv + 1, argv + argc}); }
