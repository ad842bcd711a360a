#pragma once
// `overproof logits`: the logits of any checkpoint for given ids, to compare implementations.

#include "core/config.h"
#include "core/file.h"

namespace overproof {

struct LogitsConfig {
  fs::path ids, out;
  template <class V>
  void visit(V&& v) {
    v("ids", ids, any_value(), "safetensors file with a tensor 'ids': I32 or I64, [length] or [batch, length]");
    v("out", out, any_value(), "safetensors file to write: 'logits' F32 [ids, vocabulary]");
  }
};

/// Returns the number of ids. Throws UsageError when an option is missing, FormatError on faulty files.
int64_t run_logits(const LogitsConfig& config, const fs::path& model);

}  // namespace overproof
