#include <fmt/format.h>

#include <cstdio>
#include <iostream>

#include "cli/stage_verb.h"
#include "core/error.h"
#include "core/json.h"
#include "data/tokenizer_tools.h"
#include "data/watermark.h"
#include "formats/inspect.h"
#include "provenance/key_verbs.h"
#include "quantize/gpu/gpu_report.h"
#ifdef OVERPROOF_WITH_TORCH
#include "teacher/generate.h"
#include "teacher/logits.h"
#endif

namespace overproof {
namespace {

using Arguments = std::vector<std::string>;

Answer count_written(const std::string& out, const char* what, int64_t count) {
  return {{{"out", out}, {what, count}}, fmt::format("{}: {} {}\n", out, count, what)};
}

}  // namespace

std::vector<VerbSpec> tool_verbs() {
  std::vector<VerbSpec> list;
#ifdef OVERPROOF_WITH_TORCH
  list.push_back({"generate",
                  "Generates text.",
                  "overproof generate runs/smollm2-moe/int8 --prompt 'A pipe is' --max-tokens 40",
                  {{"model", "a checkpoint folder or a .gguf file"}},
                  false,
                  false,
                  verb_maker<GenerateConfig>([](const CommonConfig& common, const GenerateConfig& config, const Arguments& a) {
                    if (common.json) return run_generate(config, a[0]);
                    return run_generate(config, a[0], [](std::string_view text) { std::cout << text << std::flush; });
                  })});
  list.push_back({"logits",
                  "Writes a model's logits for given token ids, to compare implementations.",
                  "overproof logits runs/smollm2-moe/int8 --ids ids.safetensors --out logits.safetensors",
                  {{"model", "a checkpoint folder or a .gguf file"}},
                  false,
                  false,
                  verb_maker<LogitsConfig>([](const CommonConfig& common, const LogitsConfig& config, const Arguments& a) {
                    return count_written(config.out.string(), "positions", run_logits(config, a[0]));
                  })});
#endif
  list.push_back({"watermark-key",
                  "Makes the secret key of a watermark, for sample and generate.",
                  "overproof watermark-key --out keys/watermark.json",
                  {},
                  false,
                  false,
                  verb_maker<WatermarkKeyConfig>([](const CommonConfig&, const WatermarkKeyConfig& config, const Arguments&) {
                    return make_watermark_key(config);
                  })});
  list.push_back({"gpu",
                  "Lists GPUs, and compares their kernels with the CPU's.",
                  "overproof gpu --self-test",
                  {},
                  false,
                  false,
                  verb_maker<GpuConfig>([](const CommonConfig& common, const GpuConfig& config, const Arguments&) {
                    return run_gpu(config);
                  })});
  list.push_back({"inspect",
                  "Lists what is in a checkpoint, safetensors or GGUF file.",
                  "overproof inspect runs/smollm2-moe/int8",
                  {{"path", "a file or a checkpoint folder"}},
                  false,
                  false,
                  verb_maker<InspectConfig>([](const CommonConfig& common, const InspectConfig& config, const Arguments& a) {
                    return config.as_model || config.digests ? inspect_model(config, a[0]) : inspect(a[0]);
                  })});
  list.push_back(
      {"tokenizer encode",
       "Turns a text file into token ids.",
       "overproof tokenizer encode --tokenizer runs/smollm2-moe/teacher --text book.txt --out ids.safetensors",
       {},
       false,
       false,
       verb_maker<TokenizerEncodeConfig>([](const CommonConfig& common, const TokenizerEncodeConfig& config, const Arguments&) {
         return count_written(config.out, "tokens", run_tokenizer_encode(config));
       })});
  list.push_back(
      {"tokenizer train",
       "Trains a new SentencePiece vocabulary.",
       "overproof tokenizer train --input runs/smollm2-moe/corpus --vocab-size 8000 --out mine.model",
       {},
       false,
       false,
       verb_maker<TokenizerTrainConfig>([](const CommonConfig& common, const TokenizerTrainConfig& config, const Arguments&) {
         return count_written(config.out, "pieces", run_tokenizer_train(config));
       })});
  list.push_back({"sign",
                  "Signs a model's folder for everybody's verifiers (OpenSSF Model Signing), quickly again after small changes.",
                  "overproof sign models/mine --cache ~/.cache/mine.digests",
                  {{"folder", "a folder; every file in it is signed"}},
                  false,
                  false,
                  verb_maker<SignConfig>([](const CommonConfig& common, const SignConfig& config, const Arguments& a) {
                    return run_sign(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"key new",
                  "Makes a signing key.",
                  "overproof key new --curve p384 --encrypt --out release-key.pem",
                  {},
                  false,
                  false,
                  verb_maker<NewKeyConfig>([](const CommonConfig& common, const NewKeyConfig& config, const Arguments&) {
                    return run_key_new(config, common.json, std::cout);
                  })});
  list.push_back({"key show",
                  "Prints the public half of the signing key.",
                  "overproof key show --pem > key.pub",
                  {},
                  false,
                  false,
                  verb_maker<ShowKeyConfig>([](const CommonConfig& common, const ShowKeyConfig& config, const Arguments&) {
                    return run_key_show(config, common.json, std::cout);
                  })});
  list.push_back({"key rotate",
                  "Signs, by the old key, that a new one takes its place.",
                  "overproof key rotate --key old.pem --to new.pem --out rotation.json",
                  {},
                  false,
                  false,
                  verb_maker<RotateKeyConfig>([](const CommonConfig& common, const RotateKeyConfig& config, const Arguments&) {
                    return run_key_rotate(config, common.json, std::cout);
                  })});
  return list;
}

}  // namespace overproof
