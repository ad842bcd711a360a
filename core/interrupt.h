#pragma once
// Ctrl-C: long loops check for it. The first SIGINT or SIGTERM sets a flag; the second ends the process at once.

namespace overproof {

void install_interrupt_handler();
bool interrupted() noexcept;
/// Throws Interrupted when a signal has arrived. Call it once per step, file or block.
void throw_if_interrupted();

}  // namespace overproof
