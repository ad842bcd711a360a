#include "student/tiny_teacher_stage.h"

#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "model/decoder.h"
#include "student/random_tensors.h"

namespace overproof {
namespace {

constexpr int64_t kEndOfText = 256;

/// Variance 1 / fan-in. The head is 3 times larger, so that the teacher's distribution is far from uniform.
double tiny_deviation(std::string_view name, int64_t columns) {
  const double gain = name == "lm_head.weight" ? 3.0 : name == "model.embed_tokens.weight" ? std::sqrt(double(columns)) : 1.0;
  return gain / std::sqrt(double(columns));
}

std::string utf8(int code) {
  if (code < 0x80) return std::string(1, char(code));
  return {char(0xc0 | (code >> 6)), char(0x80 | (code & 0x3f))};
}

}  // namespace

std::string byte_tokenizer_json() {
  // GPT-2's printable characters for bytes: the byte itself where printable, else U+0100 and up in order.
  Json vocabulary = Json::object();
  int next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
    vocabulary[utf8(printable ? b : next++)] = b;
  }
  vocabulary["<|endoftext|>"] = kEndOfText;
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const Json end = {{"id", kEndOfText}, {"content", "<|endoftext|>"}, {"single_word", false}, {"lstrip", false},
                    {"rstrip", false},  {"normalized", false},        {"special", true}};
  const Json json = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", Json::array({end})},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", byte_level},
                     {"post_processor", nullptr},
                     {"decoder", byte_level},
                     {"model",
                      {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"vocab", vocabulary},
                       {"merges", Json::array()}}}};
  return json.dump() + "\n";
}

StageReport run_tiny_teacher(const TinyTeacherConfig& config, const Inputs&, Outputs& outputs) {
  prepare_torch();
  if (config.hidden_size % (2 * config.heads) != 0 || config.heads % config.kv_heads != 0)
    throw UsageError(fmt::format("hidden-size {} must be a multiple of 2 x heads ({}), and heads of kv-heads ({})",
                                 config.hidden_size, config.heads, config.kv_heads));
  ModelConfig shape;
  shape.model_type = "llama";
  shape.vocab_size = kEndOfText + 1;
  shape.hidden_size = config.hidden_size;
  shape.intermediate_size = config.intermediate_size;
  shape.layers = config.layers;
  shape.heads = config.heads;
  shape.kv_heads = config.kv_heads;
  shape.head_dim = config.hidden_size / config.heads;
  shape.max_position = 2048;
  shape.bos_id = shape.eos_id = kEndOfText;
  const Decoder teacher(shape, RandomTensors(shape, uint64_t(config.seed), "tiny", tiny_deviation));
  save_decoder(teacher, outputs.folder(), DType::f32);
  outputs.folder().write_file("tokenizer.json", byte_tokenizer_json());
  outputs.folder().write_file("tokenizer_config.json",
                              Json{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"eos_token", "<|endoftext|>"}}.dump() + "\n");
  StageReport report;
  report.metrics() = {{"parameters", shape.parameters()}};
  report.summary.push_back(fmt::format("a Llama of {} parameters, of random weights", shape.parameters()));
  return report;
}

}  // namespace overproof
