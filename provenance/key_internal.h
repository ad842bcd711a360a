#pragma once
// Between the files of keys; nothing for others.

#include <memory>
#include <string>

#include "provenance/keys.h"

namespace overproof {

/// provenance/command_signer.cc
std::shared_ptr<const Signer> make_command_signer(const std::string& command, const PublicKey& key, std::chrono::milliseconds timeout);

/// Words apart by white space; '...' and "..." hold them together, a backslash takes the next character as it is (not within
/// '...'). Throws UsageError on an open quote or no word.
std::vector<std::string> split_command(const std::string& command);

}  // namespace overproof
