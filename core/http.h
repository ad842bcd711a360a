#pragma once
// One POST of a JSON text with a time limit. libcurl is opened when it is first needed: loading it with the program would double
// the time that every command takes to start. The server's answer is hostile input: its status and at most a few kilobytes of its
// body are read, and no redirect is followed.

#include <string>

namespace overproof {

struct HttpAnswer {
  long status = 0;      ///< 0: there was no answer
  std::string problem;  ///< why there was no answer; "" when there was one
  std::string body;     ///< its beginning
};

struct HttpLimits {
  long connect_ms = 2000, total_ms = 5000;
  size_t body_bytes = 4096;
};

/// `url`: http or https. `bearer`: a token, "" for none; sent to that server only. Throws std::bad_alloc only.
HttpAnswer post_json(const std::string& url, const std::string& json, const std::string& bearer, const HttpLimits& limits = {});

/// The URL without user name, password and query, for messages.
std::string url_without_secrets(const std::string& url);

}  // namespace overproof
