#pragma once
// Requests over HTTP and HTTPS with a time limit. libcurl is opened when it is first needed: loading it with the program would double
// the time that every command takes to start. The server's answer is hostile input: at most `body_bytes` of it are read, and no redirect
// is followed.

#include <memory>
#include <string>
#include <vector>

namespace overproof {

struct HttpAnswer {
  long status = 0;      ///< 0: there was no answer
  std::string problem;  ///< why there was no answer; "" when there was one
  std::string body;     ///< its beginning
  bool cut = false;     ///< the body is longer than HttpLimits::body_bytes
  long retry_after = -1;  ///< seconds, of the header Retry-After; -1: there was none
  bool sent = false;    ///< a connection was made, so that the server may have had the request
};

struct HttpLimits {
  long connect_ms = 2000, total_ms = 5000;
  size_t body_bytes = 4096;
};

struct HttpRequest {
  std::string url;                   ///< http or https
  std::string body;                  ///< JSON to POST; "": GET
  std::vector<std::string> headers;  ///< "Name: value", sent to that server only
  HttpLimits limits;
  bool paid = false;  ///< an answer costs money: Ctrl-C waits for it, and a second one ends the program
};

/// Sends one request after another, over one connection where the server keeps it. For one thread at a time.
class HttpSession {
 public:
  HttpSession();
  ~HttpSession();
  HttpSession(HttpSession&&) noexcept;
  /// Ends early, without an answer, at Ctrl-C, unless that came before the call or the answer is paid for. Throws std::bad_alloc only.
  HttpAnswer send(const HttpRequest& request);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// One POST of a JSON text. `bearer`: a token, "" for none. Throws std::bad_alloc only.
HttpAnswer post_json(const std::string& url, const std::string& json, const std::string& bearer, const HttpLimits& limits = {});

/// The URL without user name, password and query, for messages.
std::string url_without_secrets(const std::string& url);

}  // namespace overproof
