#pragma once
// One POST of a JSON text, by libcurl, which is opened when it is first needed: loading it with the program would double the time
// that every command takes to start. It takes no longer than it is allowed to. What a server answers is hostile: its status is
// looked at, at most a few kilobytes of its words are read, and no redirect is followed.

#include <string>

namespace overproof {

struct HttpAnswer {
  long status = 0;      ///< 0: there was no answer
  std::string problem;  ///< why not, for people; "" when there was one
  std::string body;     ///< its beginning
};

struct HttpLimits {
  long connect_ms = 2000, total_ms = 5000;
  size_t body_bytes = 4096;
};

/// `url`: http or https. `bearer`: a token, "" for none; it is sent to that server alone. Never throws but std::bad_alloc.
HttpAnswer post_json(const std::string& url, const std::string& json, const std::string& bearer, const HttpLimits& limits = {});

/// The URL without the name and password that may stand in it, for messages.
std::string url_without_secrets(const std::string& url);

}  // namespace overproof
