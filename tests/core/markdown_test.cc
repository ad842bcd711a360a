#include "core/markdown.h"

#include <catch2/catch.hpp>

namespace overproof {

TEST_CASE("one line has no controls and no marks that change the direction of text") {
  CHECK(one_line("a\tb\nc\xff\x01z") == "a b c\ufffd\ufffdz");
  CHECK(one_line("a\u202eb\u2066c\u200fd\u061ce\u2013") == "a\ufffdb\ufffdc\ufffdd\ufffde\u2013");
}

TEST_CASE("escaped text is no markup of Markdown") {
  CHECK(escape_markdown("a|b\n# c [x](y) `d` <i> *e* _f_ ![g]") ==
        "a\\|b \\# c \\[x\\](y) \\`d\\` &lt;i&gt; \\*e\\* \\_f\\_ \\!\\[g\\]");
  CHECK(escape_markdown("http://x www.y me@z") == "http\\://x www\\.y me`@`z");
  CHECK(escape_markdown("- a") == "\\- a");
  CHECK(escape_markdown("12. a") == "12\\. a");
  CHECK(escape_markdown("12.5 a") == "12.5 a");
  CHECK(markdown_code("a|`b``") == "``` a\\|`b`` ```");
  CHECK(markdown_code("") == "");
}

}  // namespace overproof
