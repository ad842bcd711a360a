#include "evaluate/answers.h"
#include "model/decode_speed.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>

#include "core/json.h"
#include "data/bpe.h"
#include "data/chat_template.h"
#include "evaluate/prompts.h"
#include "evaluate/weight_reads.h"
#include "formats/safetensors.h"
#include "student/tiny_teacher_stage.h"
#include "tests/model/random_model.h"
#include "tests/support.h"

using namespace overproof;

namespace {

void make_model(const fs::path& folder, int64_t seed) {
  fs::create_directories(folder);
  Outputs outputs(folder, folder / "scratch");
  run_tiny_teacher({.layers = 2, .hidden_size = 32, .intermediate_size = 64, .seed = seed}, Inputs({}), outputs);
}

/// The most probable id after `ids`, by a pass over all of them.
int32_t most_probable(const Decoder& model, const Ids& ids) {
  const at::Tensor tokens = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong).unsqueeze(0);
  return int32_t(model.logits(model.hidden(tokens).narrow(0, int64_t(ids.size()) - 1, 1)).argmax().item<int64_t>());
}

}  // namespace

TEST_CASE("a loop is four ids in a row that come up four times") {
  CHECK_FALSE(has_loop({}));
  CHECK_FALSE(has_loop(Ids{1, 1, 1, 1, 1, 1}));
  CHECK(has_loop(Ids{1, 1, 1, 1, 1, 1, 1}));
  Ids turns;
  for (int i = 0; i < 4; ++i) {
    CHECK_FALSE(has_loop(turns));
    turns.insert(turns.end(), {5, 6, 7, 8, i});
  }
  CHECK(has_loop(turns));
  Ids counting;
  for (int i = 0; i < 64; ++i) counting.push_back(i);
  CHECK_FALSE(has_loop(counting));
  CHECK(loop_share({turns, counting, {}, turns}) == 0.5);
  CHECK(loop_share({}) == 0.0);
}

TEST_CASE("greedy answers are those of passes over whole texts, and agree with their own model") {
  TempFolder folder;
  make_model(folder.path() / "a", 0);
  make_model(folder.path() / "b", 1);
  const Decoder a(open_checkpoint(folder.path() / "a")), b(open_checkpoint(folder.path() / "b"));
  const Generator writer(open_checkpoint(folder.path() / "a"));
  const auto tokenizer = open_tokenizer(folder.path() / "a");
  at::NoGradGuard no_grad;
  const std::vector<Ids> prompts = prompt_ids(*tokenizer, nullptr, 3);
  const std::vector<Ids> answers = greedy_answers(writer, *tokenizer, prompts);
  REQUIRE(answers.size() == prompts.size());
  int64_t ids = 0, own = 0, other = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    CHECK(int64_t(answers[i].size()) <= kAnswerTokens);
    Ids text = prompts[i];
    for (const int32_t id : answers[i]) {
      own += most_probable(a, text) == id;
      other += most_probable(b, text) == id;
      text.push_back(id);
      ++ids;
    }
    CHECK(greedy_answers(writer, *tokenizer, {prompts[i]})[0] == answers[i]);
  }
  REQUIRE(ids > 0);
  // Tokens that would break UTF-8 are passed over, so even the own model need not agree everywhere.
  CHECK(answer_agreement(a, prompts, answers).value() == Approx(double(own) / double(ids)));
  CHECK(answer_agreement(b, prompts, answers).value() == Approx(double(other) / double(ids)));
  CHECK(own > other);
  CHECK_FALSE(answer_agreement(a, {{1}}, {{}}));
  CHECK(decode_speed(writer, prompts[0]) > 0);
}

TEST_CASE("half of the prompts are chat turns of the model's template, else plain text") {
  REQUIRE(int64_t(evaluation_prompts().size()) == kPrompts);
  CHECK(std::ranges::count(evaluation_prompts(), true, &EvaluationPrompt::chat) == kPrompts / 2);
  TempFolder folder;
  make_model(folder.path() / "a", 0);
  const auto plain = open_tokenizer(folder.path() / "a");
  const auto texts = prompt_ids(*plain, nullptr, kPrompts);
  for (size_t i = 0; i < texts.size(); ++i) CHECK(plain->decode(texts[i]) == evaluation_prompts()[i].text);

  BpeDefinition definition = read_tokenizer_json(folder.path() / "a/tokenizer.json");
  for (const char* marker : {"<|im_start|>", "<|im_end|>"}) {
    definition.added.push_back({.id = int32_t(definition.tokens.size()), .text = marker, .special = true});
    definition.tokens.push_back(marker);
  }
  fs::create_directories(folder.path() / "chat");
  write_file_atomically(folder.path() / "chat/tokenizer.json", write_tokenizer_json(definition));
  write_file_atomically(folder.path() / "chat/chat_template.jinja",
                        "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
                        "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}");
  const auto tokenizer = open_tokenizer(folder.path() / "chat");
  const auto ids = prompt_ids(*tokenizer, open_chat_template(folder.path() / "chat", *tokenizer).get(), 2);
  REQUIRE(ids.size() == 2);
  CHECK(ids[0] == texts[0]);
  std::vector<int32_t> expected;
  tokenizer->encode("<|im_start|>user: " + evaluation_prompts()[1].text + "<|im_end|><|im_start|>assistant: ", expected, true);
  CHECK(ids[1] == expected);
}

TEST_CASE("the bytes that a token needs leave out experts that it does not choose, and all but a row of an untied embedding") {
  for (const bool moe : {false, true}) {
    const ModelConfig config = moe ? random_moe_config() : random_dense_config();
    const Decoder decoder(config, RandomSource(config));
    TempFolder scratch;
    OutputFolder folder(scratch.path());
    save_decoder(decoder, folder, DType::bf16);
    double expected = 0;
    const SafetensorsFile file(scratch.path() / "model.safetensors");
    for (const TensorInfo& t : file.tensors()) {
      if (t.name.find(".mlp.experts.") != std::string::npos) expected += double(t.bytes() * config.top_k) / double(config.n_routed_experts);
      else if (t.name == "model.embed_tokens.weight" && !config.tie_embeddings) expected += double(2 * config.hidden_size);
      else expected += double(t.bytes());
    }
    CHECK(weight_bytes_per_token(scratch.path(), config) == Approx(expected).epsilon(1e-6));
  }
}
