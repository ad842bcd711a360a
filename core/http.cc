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
                          find(easy_perform, "curl_easy_perform") && find(easy_getinfo, "curl_easy_getinfo") &&
                          find(easy_strerror, "curl_easy_strerror") && find(slist_append, "curl_slist_append") &&
                          find(slist_free_all, "curl_slist_free_all");
    ready = complete && global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  }
};

struct Received {
  std::string body;
  size_t most;
};

/// Keeps the first `most` bytes of the answer, then ends the transfer.
size_t take(char* data, size_t size, size_t count, void* to) {
  auto& received = *static_cast<Received*>(to);
  const size_t bytes = size * count;
  if (received.body.size() >= received.most) return 0;  // enough: curl ends the transfer
  received.body.append(data, std::min(bytes, received.most - received.body.size()));
  return bytes;
}

/// A request that begins after Ctrl-C (the event that the run has ended) is sent; a second Ctrl-C ends the process anyway.
int stop_when_interrupted(void* before, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return interrupted() && !*static_cast<const bool*>(before) ? 1 : 0;
}

}  // namespace

HttpAnswer post_json(const std::string& url, const std::string& json, const std::string& bearer, const HttpLimits& limits) {
  static const Library library;
  HttpAnswer answer;
  if (!library.ready) {
    answer.problem = "libcurl.so.4 cannot be opened (Debian: libcurl4)";
    return answer;
  }
  const std::unique_ptr<CURL, decltype(library.easy_cleanup)> curl(library.easy_init(), library.easy_cleanup);
  if (!curl) throw std::bad_alloc();
  if (bearer.find_first_of("\r\n") != std::string::npos) {
    answer.problem = "the API key contains a line break";
    return answer;
  }
  curl_slist* list = library.slist_append(nullptr, "Content-Type: application/json");
  list = library.slist_append(list, "Expect:");  // send a few kilobytes without waiting for 100 Continue
  if (!bearer.empty()) list = library.slist_append(list, ("Authorization: Bearer " + bearer).c_str());
  const std::unique_ptr<curl_slist, decltype(library.slist_free_all)> headers(list, library.slist_free_all);
  Received received{{}, limits.body_bytes};
  char reason[CURL_ERROR_SIZE] = "";
  const bool before = interrupted();
  CURL* c = curl.get();
  CURLcode refused = CURLE_OK;  // the first option that libcurl does not take: without one of them the request must not be sent
  const auto set = [&](CURLoption option, auto value) {
    if (const CURLcode code = library.easy_setopt(c, option, value); refused == CURLE_OK) refused = code;
  };
  set(CURLOPT_URL, url.c_str());
  // Before libcurl 7.85 the names of the protocols are an unknown option, and a mask is set instead.
  if (library.easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https") != CURLE_OK)
    set(kProtocolMask, long(CURLPROTO_HTTP | CURLPROTO_HTTPS));
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_POSTFIELDS, json.c_str());
  set(CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(json.size()));
  set(CURLOPT_HTTPHEADER, headers.get());
  set(CURLOPT_USERAGENT, "overproof");
  set(CURLOPT_CONNECTTIMEOUT_MS, limits.connect_ms);
  set(CURLOPT_TIMEOUT_MS, limits.total_ms);
  set(CURLOPT_NOSIGNAL, 1L);  // other threads are running
  set(CURLOPT_WRITEFUNCTION, take);
  set(CURLOPT_WRITEDATA, &received);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, stop_when_interrupted);
  set(CURLOPT_XFERINFODATA, &before);
  set(CURLOPT_ERRORBUFFER, reason);
  if (refused != CURLE_OK) {
    answer.problem = std::string("libcurl refused an option of the request: ") + library.easy_strerror(refused);
    return answer;
  }
  const CURLcode code = library.easy_perform(c);
  long status = 0;
  library.easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
  answer.body = std::move(received.body);
  // A transfer that we have ended because the body is long enough is an answer, too.
  if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && answer.body.size() >= limits.body_bytes)) answer.status = status;
  else answer.problem = *reason ? reason : library.easy_strerror(code);
  return answer;
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
