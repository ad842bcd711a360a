#include "core/interrupt.h"

#include <unistd.h>
#include <csignal>

#include "core/error.h"

namespace overproof {
namespace {
volatile std::sig_atomic_t g_interrupted = 0;

void on_signal(int) {
  if (g_interrupted) _exit(130);
  g_interrupted = 1;
}
}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);  // a closed pipe is a write error like any other
  signal(SIGXFSZ, SIG_IGN);  // and so is a file that would pass the limit of its size (ulimit -f)
}

bool interrupted() noexcept { return g_interrupted != 0; }

void throw_if_interrupted() {
  if (interrupted()) throw Interrupted();
}

}  // namespace overproof
