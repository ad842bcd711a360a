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
  if (size > 64) return 0;
  // Many fields in one stanza, and many stanzas.
  for (const char* apart : {"\n", "\n\n"})
    fuzz::require_linear([&](size_t copies) {
      std::string file = "Format: copyright-format/1.0\n\nFiles: *\nLicense: MIT\n";
      for (size_t i = 0; i < copies; ++i) file += "X-" + std::to_string(i) + ": " + std::string(text) + apart;
      try {
        parse_copyright(file, "copyright");
      } catch (const FormatError&) {
      }
    });
  return 0;
}
