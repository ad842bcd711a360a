#pragma once
// A teacher behind a URL, as stage `connect` recorded it in an artifact:
//
//   teacher/server.json   {"format": "overproof-teacher-url-1", ...}: the members of RemoteTeacher
//   teacher/tokenizer.json, ...   its tokenizer, copied from a local model
//
// No key is in it: keys come from the environment when a request is sent.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "core/http.h"
#include "core/json_fwd.h"
#include "data/tokenizer.h"
#include "formats/teacher_answer.h"

namespace overproof {

inline constexpr const char* kServerFile = "server.json";

enum class ServerAuth { bearer, api_key, none };

struct RemoteTeacher {
  std::string url;    ///< base: "https://host/v1", of Azure ".../openai/deployments/NAME"
  std::string model;  ///< as it is asked for; "": not sent
  std::string answers_as;  ///< the name in its answers; "": it gives none
  std::optional<Dialect> dialect;  ///< nothing: it gives text only
  bool sends_ids = true;           ///< the prompt is sent as ids, else as text
  bool shifted = false;            ///< AnswerShape::shifted
  int64_t top_k = 20;              ///< log-probabilities that it gives at each position
  int64_t vocab_size = 0;
  ServerAuth auth = ServerAuth::bearer;
  std::string api_version;   ///< Azure's query parameter; "": none
  std::string region;        ///< as its user states it

  static RemoteTeacher read(const fs::path& artifact);  ///< throws FormatError, IoError
  Json to_json() const;
};

/// Whether the artifact is a teacher behind a URL.
bool is_remote_teacher(const fs::path& artifact);

std::string_view dialect_name(Dialect dialect);
std::optional<Dialect> dialect_of(std::string_view name);

/// What targets a teacher gives, in one sentence.
std::string targets_sentence(const RemoteTeacher& teacher);

/// One request that is paid for.
struct RemoteRequest {
  HttpRequest http;    ///< with the key in its headers: never written, printed or recorded
  Digest digest;       ///< SHA-256("overproof request v1\n" | path of the URL | "\n" | body): key of the ledger
  int64_t tokens = 0;  ///< that it is estimated to cost: the prompt's and one that is generated
};

/// Throws MismatchError when an answer is of another model than the one that was connected.
void require_answers_as(const RemoteTeacher& teacher, const std::string& model);

/// The key in an environment variable; "" where there is none. An artifact does not name the variable: it may come from others, who
/// would choose what is sent to their server.
std::string server_key(const std::string& variable);

/// `text`: of the ids, where the teacher takes text.
RemoteRequest score_request(const RemoteTeacher& teacher, const std::string& key, std::span<const int32_t> ids, const std::string& text);
/// Asks for a text. `body`: of a chat completion, with its messages and how it is drawn; `tokens`: the estimate of what the messages have and of
/// what may be written.
RemoteRequest chat_request(const RemoteTeacher& teacher, const std::string& key, Json body, int64_t tokens);
/// A GET of `path` below the base, for the probe.
HttpRequest get_request(const RemoteTeacher& teacher, const std::string& key, const std::string& path);

/// `text` without what it has of the key: servers quote keys in their errors.
std::string without_key(std::string text, const std::string& key);

/// Names of a tokenizer's ids, for servers that answer with texts.
TokenNames token_names(const Tokenizer& tokenizer);
/// The text that is sent for `ids`, if the tokenizer cuts it into these ids again; nothing where no text has these tokens.
std::optional<std::string> text_for(const Tokenizer& tokenizer, std::span<const int32_t> ids);

}  // namespace overproof
