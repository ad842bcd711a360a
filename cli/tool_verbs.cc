#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <string_view>

#include "cli/stage_verb.h"
#include "core/printable.h"
#include "data/tokenizer_tools.h"
#include "data/watermark.h"
#include "pipeline/model_summary.h"
#include "pipeline/scratch.h"
#include "pipeline/student_plan.h"
#include "pipeline/torch_functions.h"
#include "provenance/key_verbs.h"
#include "provenance/signers.h"
#include "quantize/gpu/gpu_report.h"
#include "teacher/generate.h"
#include "teacher/logits.h"

namespace overproof {
namespace {

/// A tool that reads a model, which may be an artifact: whose signature it must have.
template <class Config>
struct OfModel {
  Config config;
  TrustOptions trust;
  template <class V>
  void visit(V&& v) {
    config.visit(v);
    trust.visit(v);
  }
};

Answer count_written(const std::string& out, const char* what, int64_t count) {
  return {{{"out", out}, {what, count}}, fmt::format("{}: {} {}\n", printable(out), count, what)};
}

}  // namespace

std::vector<VerbSpec> tool_verbs() {
  return {
      {.name = "generate",
       .group = VerbGroup::use,
       .help = "Generates text.",
       .example = "overproof generate runs/smollm2-moe/int8 --prompt 'A pipe is' --max-tokens 40",
       .arguments = {{"model", "a checkpoint folder or a .gguf file"}},
       .needs = Needs::torch,
       .make = verb_maker<OfModel<GenerateConfig>>([](const CommonConfig& common, const OfModel<GenerateConfig>& config, const Arguments& a) {
         require_signed(a[0], config.trust);
         TextSink sink;
         const bool terminal = ::isatty(STDOUT_FILENO);
         if (!common.json)
           sink = [terminal](std::string_view text) {
             std::cout << (terminal ? printable_lines(text) : std::string(text)) << std::flush;
           };
         MessageSource next_message;
         if (!common.json)
           next_message = [input = ::isatty(STDIN_FILENO)]() -> std::optional<std::string> {
             if (input) std::cout << "> " << std::flush;
             std::string line;
             if (!std::getline(std::cin, line)) return std::nullopt;
             return line;
           };
         return TorchFunction<decltype(run_generate)>::call(config.config, a[0], sink, next_message);
       })},
      {.name = "logits",
       .group = VerbGroup::use,
       .help = "Writes a model's logits for given token ids, to compare implementations.",
       .example = "overproof logits runs/smollm2-moe/int8 --ids ids.safetensors --out logits.safetensors",
       .arguments = {{"model", "a checkpoint folder or a .gguf file"}},
       .needs = Needs::torch,
       .make = verb_maker<OfModel<LogitsConfig>>([](const CommonConfig&, const OfModel<LogitsConfig>& config, const Arguments& a) {
         require_signed(a[0], config.trust);
         return count_written(config.config.out.string(), "positions", TorchFunction<decltype(run_logits)>::call(config.config, a[0]));
       })},
      {.name = "watermark-key",
       .group = VerbGroup::keys,
       .help = "Makes the secret key of a watermark, for sample and generate.",
       .example = "overproof watermark-key --out keys/watermark.json",
       .make = make_verb(make_watermark_key)},
      {.name = "gpu",
       .group = VerbGroup::program,
       .help = "Lists GPUs, and compares their kernels with the CPU's.",
       .example = "overproof gpu --self-test",
       .make = make_verb(run_gpu)},
      {.name = "inspect",
       .group = VerbGroup::use,
       .help = "Prints what a model is: type, size, licence, what made it; then its tensors and metadata.",
       .example = "overproof inspect runs/smollm2-moe/int8",
       .arguments = {{"path", "a file or a checkpoint folder"}},
       .make = verb_maker<OfModel<InspectConfig>>([](const CommonConfig&, const OfModel<InspectConfig>& config, const Arguments& a) {
         require_signed(a[0], config.trust);
         return inspect_with_summary(config.config, a[0], config.trust.key().get());
       })},
      {.name = "plan",
       .group = VerbGroup::use,
       .help = "Lists the students of a dense model that reach an activation, with their costs and what a budget of tokens pays for.",
       .example = "overproof plan --model runs/mine/teacher --target-activation 0.055 --active-params 50M --tokens 2M",
       .make = make_verb(run_plan)},
      {.name = "tokenizer encode",
       .group = VerbGroup::data,
       .help = "Encodes a text file as token ids.",
       .example = "overproof tokenizer encode --tokenizer runs/smollm2-moe/teacher --text book.txt --out ids.safetensors",
       .make = verb_maker<TokenizerEncodeConfig>([](const CommonConfig&, const TokenizerEncodeConfig& config, const Arguments&) {
         return count_written(config.out, "tokens", run_tokenizer_encode(config));
       })},
      {.name = "tokenizer render",
       .group = VerbGroup::data,
       .help = "Renders conversations by a chat template.",
       .example = "overproof tokenizer render --tokenizer runs/smollm2-moe/teacher --conversations chats.jsonl --out rendered.jsonl",
       .make = verb_maker<TokenizerRenderConfig>([](const CommonConfig&, const TokenizerRenderConfig& config, const Arguments&) {
         return count_written(config.out, "conversations", run_tokenizer_render(config));
       })},
      {.name = "tokenizer train",
       .group = VerbGroup::data,
       .help = "Trains a new SentencePiece vocabulary.",
       .example = "overproof tokenizer train --input runs/smollm2-moe/corpus --vocab-size 8000 --out mine.model",
       .make = verb_maker<TokenizerTrainConfig>([](const CommonConfig&, const TokenizerTrainConfig& config, const Arguments&) {
         return count_written(config.out, "pieces", run_tokenizer_train(config));
       })},
      {.name = "scratch",
       .group = VerbGroup::program,
       .help = "Lists what runs that ended early have left in a run folder, and clears it.",
       .example = "overproof scratch runs/mine --clear",
       .arguments = {{"run", "the folder that holds the artifacts"}},
       .make = make_verb(run_scratch)},
      {.name = "sign",
       .group = VerbGroup::keys,
       .help = "Signs a model's folder for other verifiers (OpenSSF Model Signing); fast again after small changes.",
       .example = "overproof sign models/mine --cache ~/.cache/mine.digests",
       .arguments = {{"folder", "a folder; every file in it is signed"}},
       .make = make_verb(run_sign)},
      {.name = "key new",
       .group = VerbGroup::keys,
       .help = "Makes a signing key.",
       .example = "overproof key new --curve p384 --encrypt --out release-key.pem",
       .make = make_verb(run_key_new)},
      {.name = "key show",
       .group = VerbGroup::keys,
       .help = "Prints the public half of the signing key.",
       .example = "overproof key show --pem > key.pub",
       .make = make_verb(run_key_show)},
      {.name = "key rotate",
       .group = VerbGroup::keys,
       .help = "Signs with the old key that a new key replaces it.",
       .example = "overproof key rotate --key old.pem --to new.pem --out rotation.json",
       .make = make_verb(run_key_rotate)},
  };
}

}  // namespace overproof
