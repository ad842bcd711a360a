#pragma once
// Stage "import": copies a model from outside into a run, so that the chain of statements ends at bytes that can be checked.

#include <string>

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

struct ImportConfig {
  std::string sha256;
  std::string license;
  std::string name;
  template <class V>
  void visit(V&& v) {
    v("sha256", sha256, any_value(), "required digest of the file, or OMS root of the folder; empty accepts any");
    v("license", license, any_value(), "SPDX identifier of the model's licence; empty: what the GGUF or README.md states");
    v("name", name, any_value(), "name of the model, for reports");
  }
};

/// Slot "path": a .gguf file, or a folder with config.json, safetensors and tokenizer files. Copies it byte for byte.
/// Throws ProvenanceError when the digest is not config.sha256, FormatError when it is not a model.
StageReport run_import(const ImportConfig& config, const Inputs& inputs, Outputs& outputs);

/// What the publisher states: general.license of a GGUF, or `license` in the front matter of README.md, where `license: other` has its
/// name in `license_name`. Empty where there is neither; perhaps not valid UTF-8. Throws FormatError on a broken GGUF, IoError.
std::string stated_license(const fs::path& model);

}  // namespace overproof
