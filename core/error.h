#pragma once
// Errors by kind. Every kind has its own exit code, so scripts can tell a bad file from a full disk. They are caught
// once, in main; a finding of an audit is a returned value, never an exception.

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

namespace overproof {

/// Base of everything that input or the machine can cause. `what()` is the whole message for the user.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  virtual int exit_code() const noexcept = 0;
  virtual std::string_view kind() const noexcept = 0;
};

/// The command line, a recipe or a configuration is wrong. Exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return 2; }
  std::string_view kind() const noexcept override { return "usage"; }
};

/// A file's content is not what its format promises. Exit code 3.
class FormatError : public Error {
 public:
  /// `offset` is in bytes from the start of the file; -1 where no single byte is to blame.
  FormatError(const std::filesystem::path& file, int64_t offset, std::string_view cause);
  int exit_code() const noexcept override { return 3; }
  std::string_view kind() const noexcept override { return "format"; }
  int64_t offset() const noexcept { return offset_; }

 private:
  int64_t offset_;
};

/// A statement, signature or digest does not hold where it must. Exit code 4.
class ProvenanceError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return 4; }
  std::string_view kind() const noexcept override { return "provenance"; }
};

/// The machine refused: missing file, full disk, read-only folder. Exit code 5.
class IoError : public Error {
 public:
  /// `error_number` is an errno value, put into words after `action` ("cannot write"); 0 adds nothing.
  IoError(const std::filesystem::path& file, std::string_view action, int error_number);
  int exit_code() const noexcept override { return 5; }
  std::string_view kind() const noexcept override { return "io"; }
};

/// What was made does not keep a bound that the user has set. Exit code 6.
class QualityError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return 6; }
  std::string_view kind() const noexcept override { return "quality"; }
};

/// SIGINT or SIGTERM arrived. Exit code 130.
class Interrupted : public Error {
 public:
  Interrupted() : Error("interrupted; nothing half-written was left, run the same command to go on") {}
  int exit_code() const noexcept override { return 130; }
  std::string_view kind() const noexcept override { return "interrupted"; }
};

[[noreturn]] void check_failed(const char* condition, const char* file, int line);

/// For our own bugs, never for input. Throws std::logic_error (exit code 70).
#define OVERPROOF_CHECK(condition) ((condition) ? void(0) : ::overproof::check_failed(#condition, __FILE__, __LINE__))

}  // namespace overproof
