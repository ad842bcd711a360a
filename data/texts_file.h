#pragma once
// The names of the files that a corpus keeps its texts in (texts_file_name of data/corpus.h).
//
// A source that is no plain short name in lower case gets a part of its digest in the name: that must need no escaping in a URL, fit into
// any file system, and differ where case does not count.

#include <string>
#include <string_view>

namespace overproof {

/// As versions until 0.1 named the file: characters outside [A-Za-z0-9._+-] are spelled %XX.
std::string earlier_texts_file_name(std::string_view source);

}  // namespace overproof
