#pragma once
// Errors by kind. Every kind has its own exit code, so that scripts can distinguish a bad file from a full disk. They are caught
// once, in main; a finding of an audit is a returned value, never an exception.
//
//   class            code   the fault is in
//   UsageError          2   the command line, a recipe or a configuration: change what was typed
//   FormatError         3   the content of one file: its syntax, a missing member, a value that the format or we do not allow
//   ProvenanceError     4   a statement, signature or digest that does not hold
//   IoError             5   the machine: a missing file, a full disk, a lock that another process holds
//   QualityError        6   a bound that the user has set and the result does not keep
//   MismatchError       7   the combination of inputs: each is valid, but they do not belong together
//   DivergenceError     8   the numbers: a loss, a gradient or logits that are not finite
//   Interrupted       130   SIGINT or SIGTERM
//   std::logic_error   70   our own code (OVERPROOF_CHECK); never caused by input

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

namespace overproof {

/// Base of all errors that input or the machine can cause. `what()` is the whole message for the user.
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

/// Inputs that are valid one by one but do not belong together: other tokenizer, corpus, shape or parent. Exit code 7.
class MismatchError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return 7; }
  std::string_view kind() const noexcept override { return "mismatch"; }
};

/// A computation left the finite numbers: a loss, a gradient, logits. Exit code 8.
class DivergenceError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return 8; }
  std::string_view kind() const noexcept override { return "divergence"; }
};

/// SIGINT or SIGTERM arrived. Exit code 130.
class Interrupted : public Error {
 public:
  Interrupted() : Error("interrupted; no partial output was left. Run the same command to resume") {}
  int exit_code() const noexcept override { return 130; }
  std::string_view kind() const noexcept override { return "interrupted"; }
};

[[noreturn]] void check_failed(const char* condition, const char* file, int line);

/// For our own bugs, never for input. Throws std::logic_error (exit code 70).
#define OVERPROOF_CHECK(condition) ((condition) ? void(0) : ::overproof::check_failed(#condition, __FILE__, __LINE__))

}  // namespace overproof
