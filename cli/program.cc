#include "cli/program.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <system_error>

#include "cli/verb.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/printable.h"

namespace overproof {

int run_program(const std::vector<std::string>& words) {
  install_interrupt_handler();
  const auto fail = [&](std::string_view kind, const std::string& message, int code) {
    // May quote a hostile file: a line of its own making is not at the beginning of a line.
    std::string text = printable_lines(message);
    for (size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 3) text.insert(at + 1, "  ");
    fmt::print(stderr, "overproof: {}\n", text);
    for (const std::string& w : words)
      if (w == "--json")
        fmt::print("{}\n", printable_json(dump_text({{"error", kind}, {"message", message}, {"exit_code", code}})));
    return code;
  };
  try {
    const int code = run_command(words);
    // Who reads a pipe may close it early; a full disk behind a redirection has lost the answer.
    if (std::fflush(stdout) != 0 && errno != EPIPE) throw IoError("standard output", "cannot write", errno);
    return code;
  } catch (const Error& e) {
    return fail(e.kind(), e.what(), e.exit_code());
  } catch (const std::filesystem::filesystem_error& e) {
    return fail("io", e.what(), 5);
  } catch (const std::system_error& e) {
    return e.code().value() == EPIPE ? 0 : fail("io", e.what(), 5);
  } catch (const std::bad_alloc&) {
    return fail("io", "out of memory; use a smaller batch, or a machine with more of it", 5);
  } catch (const std::exception& e) {
    return fail("internal", e.what(), 70);
  }
}

}  // namespace overproof
