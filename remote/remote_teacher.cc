#include "remote/remote_teacher.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "core/error.h"
#include "core/json_object.h"
#include "core/utf8.h"
#include "data/bpe.h"

namespace overproof {
namespace {

constexpr const char* kFormat = "overproof-teacher-url-1";
constexpr std::array<std::pair<Dialect, std::string_view>, 5> kDialects = {{{Dialect::vllm, "vllm"},
                                                                            {Dialect::sglang, "sglang"},
                                                                            {Dialect::echo, "echo"},
                                                                            {Dialect::llama, "llama"},
                                                                            {Dialect::completions, "completions"}}};
constexpr std::array<std::pair<ServerAuth, std::string_view>, 3> kAuths = {
    {{ServerAuth::bearer, "bearer"}, {ServerAuth::api_key, "api-key"}, {ServerAuth::none, "none"}}};

/// The server's own interface is above the OpenAI one.
std::string root_of(const std::string& url) { return url.ends_with("/v1") ? url.substr(0, url.size() - 3) : url; }

HttpRequest request_to(const RemoteTeacher& teacher, const std::string& key, const std::string& url) {
  HttpRequest request;
  request.url = teacher.api_version.empty() ? url : url + "?api-version=" + teacher.api_version;
  if (teacher.auth != ServerAuth::none && !key.empty())
    request.headers.push_back(teacher.auth == ServerAuth::api_key ? "api-key: " + key : "Authorization: Bearer " + key);
  return request;
}

RemoteRequest paid_request(const RemoteTeacher& teacher, const std::string& key, const std::string& url, const Json& body, int64_t tokens) {
  RemoteRequest request{.http = request_to(teacher, key, url), .tokens = tokens};
  request.http.body = dump_text(body);
  request.digest = sha256("overproof request v1\n" + url + "\n" + request.http.body);
  request.http.headers.push_back("Idempotency-Key: " + request.digest.hex());
  return request;
}

}  // namespace

std::string_view dialect_name(Dialect dialect) {
  return std::ranges::find(kDialects, dialect, &std::pair<Dialect, std::string_view>::first)->second;
}

std::optional<Dialect> dialect_of(std::string_view name) {
  const auto found = std::ranges::find(kDialects, name, &std::pair<Dialect, std::string_view>::second);
  return found == kDialects.end() ? std::nullopt : std::optional(found->first);
}

std::string targets_sentence(const RemoteTeacher& teacher) {
  if (!teacher.dialect) return "text only: no log-probabilities, so no soft targets";
  const std::string ids = teacher.sends_ids ? "by token ids" : "by text, tokens recovered from their bytes";
  if (scores_prompts(*teacher.dialect))
    return fmt::format("scores prompts, one request a window, {}: soft targets of the {} likeliest ids and a tail", ids, teacher.top_k);
  return fmt::format("cannot score prompts; gives log-probabilities of the next token only, one request a token, {}: soft targets of the {} "
                     "likeliest ids and a tail",
                     ids, teacher.top_k);
}

RemoteTeacher RemoteTeacher::read(const fs::path& artifact) {
  const fs::path file = artifact / kServerFile;
  const Json json = read_json(file, 1 << 20);
  const JsonObject object(json, file);
  object.expect_only({"format", "url", "model", "answers_as", "dialect", "sends_ids", "shifted", "top_k", "vocab_size", "auth", "api_version",
                      "region"});
  object.expect_text("format", kFormat);
  RemoteTeacher t;
  t.url = object.text("url");
  if (!t.url.starts_with("http://") && !t.url.starts_with("https://") && !(t.url.empty() && object.text("dialect") == "text"))
    object.fail("url", "is no http:// or https:// URL");
  t.model = object.text("model");
  t.answers_as = object.text("answers_as");
  if (const std::string name = object.text("dialect"); name != "text") {
    t.dialect = dialect_of(name);
    if (!t.dialect) object.fail("dialect", "is unknown to this version");
  }
  t.sends_ids = object.flag("sends_ids");
  t.shifted = object.flag("shifted");
  t.top_k = object.integer("top_k", 0, 255);
  t.vocab_size = object.integer("vocab_size", 1, 1 << 24);
  const std::string auth = object.text("auth");
  const auto found = std::ranges::find(kAuths, auth, &std::pair<ServerAuth, std::string_view>::second);
  if (found == kAuths.end()) object.fail("auth", "is unknown to this version");
  t.auth = found->first;
  t.api_version = object.text("api_version");
  t.region = object.text("region");
  return t;
}

Json RemoteTeacher::to_json() const {
  return {{"format", kFormat},
          {"url", url},
          {"model", model},
          {"answers_as", answers_as},
          {"dialect", dialect ? std::string(dialect_name(*dialect)) : "text"},
          {"sends_ids", sends_ids},
          {"shifted", shifted},
          {"top_k", top_k},
          {"vocab_size", vocab_size},
          {"auth", std::string(std::ranges::find(kAuths, auth, &std::pair<ServerAuth, std::string_view>::first)->second)},
          {"api_version", api_version},
          {"region", region}};
}

bool is_remote_teacher(const fs::path& artifact) {
  std::error_code error;
  return fs::is_regular_file(artifact / kServerFile, error);
}

void require_answers_as(const RemoteTeacher& teacher, const std::string& model) {
  if (model != teacher.answers_as)
    throw MismatchError(fmt::format("{}: the server answers as model '{}', and did as '{}' when it was connected; run connect again, or restore the "
                                    "server",
                                    url_without_secrets(teacher.url), model.substr(0, 200), teacher.answers_as));
}

std::string server_key(const std::string& variable) {
  const char* value = variable.empty() ? nullptr : std::getenv(variable.c_str());
  return value ? value : "";
}

RemoteRequest score_request(const RemoteTeacher& teacher, const std::string& key, std::span<const int32_t> ids, const std::string& text) {
  OVERPROOF_CHECK(teacher.dialect.has_value());
  Json body = Json::object();
  const Json prompt = teacher.sends_ids ? Json(std::vector<int32_t>(ids.begin(), ids.end())) : Json(text);
  std::string url = teacher.url + "/completions";
  switch (*teacher.dialect) {
    case Dialect::vllm:
      body = {{"prompt", prompt}, {"max_tokens", 1}, {"temperature", 1}, {"prompt_logprobs", teacher.top_k}, {"return_token_ids", true}};
      break;
    case Dialect::sglang:
      url = root_of(teacher.url) + "/generate";
      body = {{"input_ids", prompt},
              {"sampling_params", {{"max_new_tokens", 1}, {"temperature", 1}}},
              {"return_logprob", true},
              {"logprob_start_len", 0},
              {"top_logprobs_num", teacher.top_k}};
      break;
    case Dialect::echo:
      body = {{"prompt", prompt}, {"max_tokens", 1}, {"temperature", 1}, {"echo", true}, {"logprobs", teacher.top_k}};
      if (teacher.sends_ids) body["return_tokens_as_token_ids"] = true;
      break;
    case Dialect::llama:
      url = root_of(teacher.url) + "/completion";
      body = {{"prompt", prompt},         {"n_predict", 1},       {"temperature", 1}, {"n_probs", teacher.top_k},
              {"post_sampling_probs", false}, {"cache_prompt", true}, {"stream", false}};
      break;
    case Dialect::completions:
      body = {{"prompt", prompt}, {"max_tokens", 1}, {"temperature", 1}, {"logprobs", teacher.top_k}};
      break;
  }
  if (!teacher.model.empty() && *teacher.dialect != Dialect::sglang) body["model"] = teacher.model;
  return paid_request(teacher, key, url, body, int64_t(ids.size()) + 1);
}

RemoteRequest chat_request(const RemoteTeacher& teacher, const std::string& key, Json body, int64_t tokens) {
  body["stream"] = false;
  if (!teacher.model.empty()) body["model"] = teacher.model;
  return paid_request(teacher, key, teacher.url + "/chat/completions", body, tokens);
}

HttpRequest get_request(const RemoteTeacher& teacher, const std::string& key, const std::string& path) {
  return request_to(teacher, key, teacher.url + path);
}

std::string without_key(std::string text, const std::string& key) {
  if (key.empty()) return text;
  // Servers also shorten keys: whatever has eight characters of it in a row is cut out. A key that is shorter is replaced as a whole.
  const size_t piece = std::min<size_t>(key.size(), 8);
  std::string kept;
  size_t at = 0;
  while (at + piece <= text.size()) {
    const size_t in_key = key.find(std::string_view(text).substr(at, piece));
    if (in_key == std::string::npos) {
      kept += text[at++];
      continue;
    }
    size_t length = piece;
    while (at + length < text.size() && in_key + length < key.size() && text[at + length] == key[in_key + length]) ++length;
    kept += "***";
    at += length;
  }
  return kept.append(text, at);
}

TokenNames token_names(const Tokenizer& tokenizer) {
  std::vector<std::string> bytes(size_t(tokenizer.vocab_size()));
  std::vector<int32_t> special;
  for (size_t id = 0; id < bytes.size(); ++id) {
    const std::string text = tokenizer.token_text(int32_t(id));
    bytes[id] = byte_level_bytes(text).value_or(text);
  }
  for (const AddedToken& token : tokenizer.special_tokens()) {
    if (token.id < 0 || size_t(token.id) >= bytes.size()) continue;
    bytes[size_t(token.id)] = token.text;
    special.push_back(int32_t(token.id));
  }
  std::ranges::sort(special);
  return TokenNames(std::move(bytes), std::move(special));
}

std::optional<std::string> text_for(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  const std::vector<int32_t> all(ids.begin(), ids.end());
  std::string text = tokenizer.decode(all);
  if (invalid_utf8_at(text) >= 0) return std::nullopt;  // JSON has no bytes
  std::vector<int32_t> again;
  tokenizer.encode(text, again, true);
  if (again != all) return std::nullopt;
  return text;
}

}  // namespace overproof
