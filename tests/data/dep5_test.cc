#include "data/dep5.h"

#include <catch2/catch.hpp>

#include "core/error.h"

namespace overproof {
namespace {

const std::string kFile = R"(Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: pages
Source: https://example.org
 and a second line

# a comment
Files: *
Copyright: 2005 A
License: GPL-2+

Files: man2/accept.2 man2/bind.2
       man3/*
Copyright: 1990 B
License: BSD-4-clause
 Redistribution and use

Files: man3/exp.3
Copyright: 1992 C
License: verbatim

Files: fhs-3.0* spec/debconf*.xml
Copyright: E
License: FHS

Files: cpan/Archive-Tar/*
Copyright: D
license: Artistic or GPL-1+

License: verbatim
 Permission is granted
 .
 to make copies.
)";

TEST_CASE("a copyright file's stanzas are read") {
  const CopyrightFile file = parse_copyright(kFile, "copyright");
  REQUIRE(file.files.size() == 5);
  CHECK(file.files[1].patterns == std::vector<std::string>{"man2/accept.2", "man2/bind.2", "man3/*"});
  CHECK(file.files[1].license == "BSD-4-clause");
  CHECK(file.licenses.at("verbatim") == "Permission is granted\n.\nto make copies.\n");
}

TEST_CASE("an installed path finds the stanza of its source path, the last one winning") {
  const CopyrightFile file = parse_copyright(kFile, "copyright");
  const auto match = [&](const char* path) {
    const LicenseMatch m = license_of(file, path);
    return m.license + " by " + m.rule;
  };
  CHECK(match("usr/share/man/man2/accept.2") == "BSD-4-clause by path");
  CHECK(match("usr/share/man/man3/log.3") == "BSD-4-clause by path");
  CHECK(match("usr/share/man/man3/exp.3") == "verbatim by path");
  CHECK(match("usr/share/doc/accept.2") == "BSD-4-clause by name");
  CHECK(match("usr/share/doc/policy/fhs/fhs-3.0.txt") == "FHS by name");
  CHECK(match("usr/share/doc/policy/debconf_specification.txt") == "FHS by name");
  CHECK(match("usr/share/perl/5.36/Archive/Tar/File.pod") == "Artistic or GPL-1+ by module");
  CHECK(match("usr/share/perl/5.36/Archive/Tar.pod") == "Artistic or GPL-1+ by module");
  CHECK(match("usr/share/man/man1/Archive::Tar::File.1perl") == "Artistic or GPL-1+ by module");
  CHECK(match("usr/share/perl/5.36/Archive/Tarball.pod") == "GPL-2+ by package");
  CHECK(match("usr/share/man/man7/other.7") == "GPL-2+ by package");
  const CopyrightFile bare = parse_copyright("Format: copyright-format/1.0\n\nFiles: a/b\nLicense: X\n", "copyright");
  CHECK(license_of(bare, "usr/c").rule == "none");
}

TEST_CASE("patterns match as specified") {
  CHECK(matches_files_pattern("*", "a/b/c"));
  CHECK(matches_files_pattern("debian/*", "debian/a/b"));
  CHECK_FALSE(matches_files_pattern("debian/*", "x/debian/a"));
  CHECK(matches_files_pattern("a?c", "abc"));
  CHECK_FALSE(matches_files_pattern("a?c", "ac"));
  CHECK(matches_files_pattern("*.[ch]", "x.[ch]"));  // brackets are plain characters
  CHECK(matches_files_pattern("a\\*b", "a*b"));
  CHECK_FALSE(matches_files_pattern("a\\*b", "axb"));
  CHECK(matches_files_pattern("*a*b*c", "xxaxbxbxc"));
  CHECK_FALSE(matches_files_pattern("*a*b*c", "xxaxbxbx"));
  // Quadratic at worst: a recursive matcher would not come back.
  CHECK_FALSE(matches_files_pattern("*a*a*a*a*a*a*a*a*a*a*a*a*b", std::string(5000, 'a')));
}

TEST_CASE("broken copyright files are refused by name and place") {
  const auto fails = [](const std::string& text, int64_t offset) {
    try {
      parse_copyright(text, "pkg/copyright");
    } catch (const FormatError& e) {
      return e.offset() == offset && std::string(e.what()).find("pkg/copyright") != std::string::npos;
    }
    return false;
  };
  const std::string head = "Format: copyright-format/1.0\n\n";
  CHECK(fails("", 0));
  CHECK(fails("This package was debianized by\n", 0));
  CHECK(fails("Source: x\n", 0));
  CHECK(fails("Format: unheard-of\n\nFiles: *\nLicense: X\n", 0));
  CHECK(fails(head + "Files: *\n", 30));
  CHECK(fails(head + "Files:\nLicense: X\n", 30));
  CHECK(fails(head + " lost\n", 30));
  CHECK(fails(head + "Files: *\nFiles: a\nLicense: X\n", 39));
  CHECK(fails(head + "Files: *\nLicense: \xff\n", 48));
  CHECK(fails(head, 0));
}

}  // namespace
}  // namespace overproof
