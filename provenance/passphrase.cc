#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "core/direct_file.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "provenance/keys.h"

namespace overproof {
namespace {

constexpr size_t kMostPassphraseBytes = 1024;

/// A line from a descriptor, without its end; at most kMostPassphraseBytes.
std::string read_line(int fd, const fs::path& origin) {
  std::string line;
  for (char c = 0; line.size() <= kMostPassphraseBytes;) {
    throw_if_interrupted();
    pollfd polled{fd, POLLIN, 0};
    if (::poll(&polled, 1, 100) <= 0) continue;  // returns for a signal, which a read would sleep through
    const ssize_t got = ::read(fd, &c, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw IoError(origin, "cannot read the passphrase", errno);
    if (got == 0 || c == '\n') break;
    line += c;
  }
  if (line.size() > kMostPassphraseBytes)
    throw UsageError(fmt::format("{}: the passphrase is longer than {} bytes", origin.string(), kMostPassphraseBytes));
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

/// A terminal that shows not what is typed, until the end of this.
class NoEcho {
 public:
  explicit NoEcho(int fd) : fd_(fd) {
    if (::tcgetattr(fd, &before_) != 0) return;
    termios quiet = before_;
    quiet.c_lflag &= tcflag_t(~ECHO);
    quiet.c_lflag |= ICANON | ECHONL;
    changed_ = ::tcsetattr(fd, TCSAFLUSH, &quiet) == 0;
  }
  ~NoEcho() {
    if (changed_) ::tcsetattr(fd_, TCSAFLUSH, &before_);
  }

 private:
  int fd_;
  termios before_{};
  bool changed_ = false;
};

std::optional<std::string> ask_on_terminal(const std::string& question) {
  const int fd = ::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return std::nullopt;
  struct Close {
    int fd;
    ~Close() { ::close(fd); }
  } const owner{fd};
  // A program in the background gets no answer, and reading would stop it.
  if (::tcgetpgrp(fd) != ::getpgrp()) return std::nullopt;
  const NoEcho quiet(fd);
  if (::write(fd, question.data(), question.size()) < 0) return std::nullopt;
  return read_line(fd, "/dev/tty");
}

}  // namespace

PassphraseSource passphrase_from_user() {
  return [](const std::string& key) -> std::optional<std::string> {
    if (const char* given = std::getenv("OVERPROOF_KEY_PASSPHRASE"); given && *given) return given;
    return ask_on_terminal(fmt::format("Passphrase of {}: ", key));
  };
}

PassphraseSource passphrase_from_file(const fs::path& file) {
  // Read once: it may be a pipe.
  return [file, line = std::make_shared<std::string>()](const std::string&) -> std::optional<std::string> {
    if (!line->empty()) return *line;
    const Descriptor fd(file, O_RDONLY);
    struct stat status {};
    if (::fstat(fd.get(), &status) != 0) throw IoError(file, "cannot read the passphrase", errno);
    if (S_ISREG(status.st_mode) && (status.st_mode & (S_IRWXG | S_IRWXO)))
      throw ProvenanceError(fmt::format("{}: others may read this passphrase (mode {:04o}); run 'chmod 600 {}'", file.string(),
                                        unsigned(status.st_mode & 07777), file.string()));
    *line = read_line(fd.get(), file);
    if (line->empty())
      throw FormatError(file, 0, "the first line, which should be the passphrase, is empty");
    return *line;
  };
}

std::string new_passphrase(const PassphraseSource& source, const std::string& key) {
  std::optional<std::string> once = source(key);
  if (!once)
    throw UsageError(
        "no passphrase to encrypt the key with; give --key-passphrase-file, set OVERPROOF_KEY_PASSPHRASE, or run this on a "
        "terminal");
  if (once->empty()) throw UsageError("an empty passphrase protects nothing");
  std::optional<std::string> again = source(key + ", once more");
  const bool same = once == again;
  if (again) OPENSSL_cleanse(again->data(), again->size());
  if (!same) throw UsageError("the two passphrases differ");
  return std::move(*once);
}

}  // namespace overproof
