#pragma once
// Stage "connect": finds out what a server gives, and records it as an artifact that teaches (remote/remote_teacher.h).

#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "remote/remote_teacher.h"

namespace overproof {

enum class AskedDialect { automatic, vllm, sglang, echo, llama, completions, text, offline };

struct ConnectConfig {
  std::string url, model, name, license, region, api_version;
  std::string key_variable = "OVERPROOF_TEACHER_KEY";
  AskedDialect dialect = AskedDialect::automatic;
  ServerAuth auth = ServerAuth::bearer;
  int64_t top_k = 20, vocab_size = 0;
  double timeout = 60;
  template <class V>
  void visit(V&& v) {
    v("url", url, any_value(), "base URL: https://host/v1; of Azure https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT. No key in it");
    v("model", model, any_value(), "name of the model in requests; empty: the server has one");
    v("dialect", dialect,
      enum_of<AskedDialect>({{"auto", AskedDialect::automatic},
                             {"vllm", AskedDialect::vllm},
                             {"sglang", AskedDialect::sglang},
                             {"echo", AskedDialect::echo},
                             {"llama", AskedDialect::llama},
                             {"completions", AskedDialect::completions},
                             {"text", AskedDialect::text},
                             {"offline", AskedDialect::offline}}),
      "how log-probabilities are asked for; auto tries one after the other (docs/teachers.md). offline: send nothing, for a teacher whose outputs "
      "are here already");
    v("top-k", top_k, in_range(1, 255), "log-probabilities asked for at each position; fewer where the server allows fewer");
    v("auth", auth, enum_of<ServerAuth>({{"bearer", ServerAuth::bearer}, {"api-key", ServerAuth::api_key}, {"none", ServerAuth::none}}),
      "header that carries the key: 'Authorization: Bearer', or Azure's 'api-key'");
    v("key-variable", key_variable, any_value(), "environment variable that holds the API key; the key itself is never written anywhere");
    v("api-version", api_version, any_value(), "Azure: the api-version of each request");
    v("license", license, any_value(), "licence or terms of what the teacher writes: an SPDX identifier, or LicenseRef-... (docs/audit.md)");
    v("region", region, any_value(), "where the server is, as you state it: for records only");
    v("name", name, any_value(), "name of the teacher, for reports");
    v("vocab-size", vocab_size, in_range(0, 1 << 24), "ids of the teacher; 0: those of its tokenizer");
    v("timeout", timeout, in_range(0.01, 86400), "seconds that one answer may take");
  }
};

/// Slot "tokenizer": a model that has the teacher's tokenizer. Sends a few short prompts. Throws UsageError for a URL with a key or a
/// query in it, MismatchError when the server has no such model or gives nothing that can be used, IoError when it does not answer or
/// refuses the key.
StageReport run_connect(const ConnectConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
