#include "core/http.h"

#include <catch2/catch.hpp>

using namespace overproof;

TEST_CASE("a request whose options libcurl refuses is not sent") {
  const HttpAnswer answer =
      post_json("http://127.0.0.1:9/" + std::string(9'000'000, 'x'), "{}", "");  // libcurl's limit is 8,000,000
  CHECK(answer.status == 0);
  CHECK_THAT(answer.problem, Catch::Contains("refused an option"));
}

TEST_CASE("a request is sent to http and https only") {
  for (const char* url : {"file:///etc/hostname", "ftp://127.0.0.1:9/x", "gopher://127.0.0.1:9/x", "dict://127.0.0.1:9/x"}) {
    INFO(url);
    const HttpAnswer answer = post_json(url, "{}", "");
    CHECK(answer.status == 0);
    CHECK(answer.body.empty());
    CHECK_THAT(answer.problem, Catch::Contains("rotocol") && !Catch::Contains("onnect"));
  }
}
