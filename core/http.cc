#include "core/http.h"

#define CURL_DISABLE_TYPECHECK  // its macros would replace the functions that are looked up here
#include <curl/curl.h>
#undef curl_easy_setopt
#undef curl_easy_getinfo
#include <dlfcn.h>

#include <algorithm>
#include <memory>
#include <new>
#include <type_traits>

#include "core/interrupt.h"

namespace overproof {
namespace {

constexpr auto kProtocolMask = CURLoption(181);  // CURLOPT_PROTOCOLS, whose name is deprecated

struct Library {
  decltype(&::curl_global_init) global_init = nullptr;
  decltype(&::curl_easy_init) easy_init = nullptr;
  decltype(&::curl_easy_cleanup) easy_cleanup = nullptr;
  decltype(&::curl_easy_setopt) easy_setopt = nullptr;
  decltype(&::curl_easy_reset) easy_reset = nullptr;
  decltype(&::curl_easy_perform) easy_perform = nullptr;
  decltype(&::curl_easy_getinfo) easy_getinfo = nullptr;
  decltype(&::curl_easy_strerror) easy_strerror = nullptr;
  decltype(&::curl_slist_append) slist_append = nullptr;
  decltype(&::curl_slist_free_all) slist_free_all = nullptr;
  bool ready = false;

  Library() {
    void* handle = ::dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);  // never closed: it may have started threads
    const auto find = [&](auto& function, const char* name) {
      if (handle) function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(handle, name));
      return function != nullptr;
    };
    const bool complete = find(global_init, "curl_global_init") && find(easy_init, "curl_easy_init") &&
                          find(easy_cleanup, "curl_easy_cleanup") && find(easy_setopt, "curl_easy_setopt") &&
                          find(easy_reset, "curl_easy_reset") &&
                          find(easy_perform, "curl_easy_perform") && find(easy_getinfo, "curl_easy_getinfo") &&
                          find(easy_strerror, "curl_easy_strerror") && find(slist_append, "curl_slist_append") &&
                          find(slist_free_all, "curl_slist_free_all");
    ready = complete && global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  }
};

const Library& library() {
  static const Library opened;
  return opened;
}

struct Received {
  std::string body;
  size_t most;
  bool cut = false;
};

/// Keeps the first `most` bytes of the answer, then ends the transfer.
size_t take(char* data, size_t size, size_t count, void* to) {
  auto& received = *static_cast<Received*>(to);
  const size_t bytes = size * count;
  const size_t room = received.most - received.body.size();
  received.body.append(data, std::min(bytes, room));
  received.cut |= bytes > room;
  return received.cut ? 0 : bytes;  // 0: curl ends the transfer
}

/// A request that begins after Ctrl-C (the event that the run has ended) is sent; a second Ctrl-C ends the process anyway.
int stop_when_interrupted(void* before, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return interrupted() && !*static_cast<const bool*>(before) ? 1 : 0;
}

}  // namespace

struct HttpSession::Impl {
  CURL* curl = nullptr;
  ~Impl() {
    if (curl) library().easy_cleanup(curl);
  }
};

HttpSession::HttpSession() : impl_(std::make_unique<Impl>()) {}
HttpSession::~HttpSession() = default;
HttpSession::HttpSession(HttpSession&&) noexcept = default;

HttpAnswer HttpSession::send(const HttpRequest& request) {
  const Library& lib = library();
  HttpAnswer answer;
  if (!lib.ready) {
    answer.problem = "libcurl.so.4 cannot be opened (Debian: libcurl4)";
    return answer;
  }
  if (!impl_->curl && !(impl_->curl = lib.easy_init())) throw std::bad_alloc();
  CURL* c = impl_->curl;
  lib.easy_reset(c);  // keeps the connection
  curl_slist* list = nullptr;
  for (const std::string& header : request.headers) {
    if (header.find_first_of("\r\n") != std::string::npos) {
      answer.problem = "a header contains a line break; if it is the API key, correct that";
      lib.slist_free_all(list);
      return answer;
    }
    list = lib.slist_append(list, header.c_str());
  }
  const bool post = !request.body.empty();
  if (post) list = lib.slist_append(list, "Content-Type: application/json");
  list = lib.slist_append(list, "Expect:");  // do not wait for 100 Continue
  const std::unique_ptr<curl_slist, decltype(lib.slist_free_all)> headers(list, lib.slist_free_all);
  Received received{{}, request.limits.body_bytes};
  char reason[CURL_ERROR_SIZE] = "";
  const bool before = request.paid || interrupted();
  CURLcode refused = CURLE_OK;  // the first option that libcurl does not take: without one of them the request must not be sent
  const auto set = [&](CURLoption option, auto value) {
    if (const CURLcode code = lib.easy_setopt(c, option, value); refused == CURLE_OK) refused = code;
  };
  set(CURLOPT_URL, request.url.c_str());
  // Before libcurl 7.85 the names of the protocols are an unknown option, and a mask is set instead.
  if (lib.easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https") != CURLE_OK)
    set(kProtocolMask, long(CURLPROTO_HTTP | CURLPROTO_HTTPS));
  set(CURLOPT_FOLLOWLOCATION, 0L);
  if (post) {
    set(CURLOPT_POSTFIELDS, request.body.c_str());
    set(CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(request.body.size()));
  }
  set(CURLOPT_HTTPHEADER, headers.get());
  set(CURLOPT_USERAGENT, "overproof");
  set(CURLOPT_CONNECTTIMEOUT_MS, request.limits.connect_ms);
  set(CURLOPT_TIMEOUT_MS, request.limits.total_ms);
  set(CURLOPT_NOSIGNAL, 1L);  // other threads are running
  set(CURLOPT_WRITEFUNCTION, take);
  set(CURLOPT_WRITEDATA, &received);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, stop_when_interrupted);
  set(CURLOPT_XFERINFODATA, &before);
  set(CURLOPT_ERRORBUFFER, reason);
  if (refused != CURLE_OK) {
    answer.problem = std::string("libcurl refused an option of the request: ") + lib.easy_strerror(refused);
    return answer;
  }
  const CURLcode code = lib.easy_perform(c);
  long status = 0;
  curl_off_t wait = 0;
  lib.easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
  if (lib.easy_getinfo(c, CURLINFO_RETRY_AFTER, &wait) == CURLE_OK && wait > 0) answer.retry_after = long(std::min<curl_off_t>(wait, 86400));
  answer.body = std::move(received.body);
  answer.cut = received.cut;
  answer.sent = code != CURLE_COULDNT_CONNECT && code != CURLE_COULDNT_RESOLVE_HOST && code != CURLE_COULDNT_RESOLVE_PROXY &&
                code != CURLE_UNSUPPORTED_PROTOCOL && code != CURLE_URL_MALFORMAT && code != CURLE_PEER_FAILED_VERIFICATION;
  // A transfer that we have ended because the body is long enough is an answer, too.
  if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && answer.cut)) answer.status = status;
  else answer.problem = *reason ? reason : lib.easy_strerror(code);
  return answer;
}

HttpAnswer post_json(const std::string& url, const std::string& json, const std::string& bearer, const HttpLimits& limits) {
  HttpRequest request{url, json, {}, limits};
  if (!bearer.empty()) request.headers.push_back("Authorization: Bearer " + bearer);
  return HttpSession().send(request);
}

std::string url_without_secrets(const std::string& url) {
  const size_t scheme = url.find("://");
  if (scheme == std::string::npos) return url;
  const size_t begin = scheme + 3, end = std::min(url.find_first_of("/?#", begin), url.size());
  const size_t at = url.rfind('@', end);
  std::string clean = at != std::string::npos && at >= begin && at < end ? url.substr(0, begin) + url.substr(at + 1) : url;
  return clean.substr(0, clean.find('?'));
}

}  // namespace overproof
