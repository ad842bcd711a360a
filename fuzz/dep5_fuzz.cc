// Copyright files: refused with a FormatError, or every lookup answers from a stanza of the file.

#include <algorithm>

#include "core/error.h"
#include "data/dep5.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const CopyrightFile file = parse_copyright(text, "copyright");
    for (const char* path : {"usr/share/man/man2/accept.2", "usr/share/perl/5.36/Archive/Tar.pm", "a", ""}) {
      const LicenseMatch match = license_of(file, path);
      fuzz::require(match.rule == "none" || std::any_of(file.files.begin(), file.files.end(), [&](const FilesStanza& stanza) {
                      return stanza.license == match.license &&
                             std::count(stanza.patterns.begin(), stanza.patterns.end(), match.pattern) > 0;
                    }));
    }
  } catch (const FormatError&) {
  }
  return 0;
}
