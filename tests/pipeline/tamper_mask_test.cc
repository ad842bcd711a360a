// Forgeries of what a training on conversations learns from: masks, trained stretches, counts, attention. All statements are signed again by
// the maker, and the order of training is the one that the forged corpus draws.
#ifdef OVERPROOF_WITH_TORCH

#include <catch2/catch.hpp>
#include <fmt/format.h>

#include "data/corpus.h"
#include "data/order.h"
#include "tests/pipeline/forged_run.h"

using namespace overproof;

namespace {

constexpr const char* kTemplate =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
constexpr int64_t kTurnBytes = 40;  // of each question and each answer, and as many tokens
const std::string kUser = "user: ", kAssistant = "assistant: ";

/// Conversations of one question and one answer, of equal length; rendered by the template, each is
/// "user: ", a question, the end, "assistant: ", an answer, the end, and the separator of documents.
struct ChatRun {
  TempFolder folder;
  fs::path run() const { return folder / "run"; }
  fs::path source() const { return folder / "chats.jsonl"; }
  fs::path chat_template() const { return folder / "chat.jinja"; }

  ChatRun() {
    set_progress_mode(ProgressMode::off);
    bind_torch_functions();
    std::string table;
    for (int i = 0; i < 60; ++i) {
      std::string question = fmt::format("what is the number {} times {} plus one", i, i), answer = fmt::format("it is {}, and the next one is {}", i * i + 1, i * i + 2);
      question.resize(size_t(kTurnBytes), '?');
      answer.resize(size_t(kTurnBytes), '.');
      table += Json{{"name", fmt::format("chat {:02}", i)},
                    {"license", "CC0-1.0"},
                    {"messages", {{{"role", "user"}, {"content", question}}, {{"role", "assistant"}, {"content", answer}}}}}
                   .dump() +
               "\n";
    }
    write_text(source(), table);
    write_text(chat_template(), kTemplate);
    RecipeOptions options;
    options.out = run();
    options.only = "student";
    run_recipe(read_recipe(fs::path(OVERPROOF_SOURCE_DIR) / "examples/kill-test.ini",
                           {"student.steps=8", "student.warmup=2", "student.digest-every=4", "soft-targets.tokens=1280",
                            "corpus.source=" + source().string(), "corpus.chat-template=" + chat_template().string()}),
               options, Key::generate());
  }
};

const ChatRun& chat_run() {
  static const ChatRun run;
  return run;
}

void sign_again(const ForgedRun& run) {
  const Digest root = scan_artifact(run / "corpus").root;
  ForgedRun::change_metadata(run / "soft-targets", "targets.safetensors",
                             [&](Metadata& m) { m["order_key"] = order_key(root, std::stoll(m.at("seed"))).hex(); });
  run.reseal();
}

/// Changes each line of a JSON Lines file.
void change_lines(const fs::path& file, const std::function<void(Json&)>& change) {
  std::istringstream lines(read_file(file));
  std::string out;
  for (std::string line; std::getline(lines, line);) {
    Json json = Json::parse(line);
    change(json);
    out += json.dump() + "\n";
  }
  write_file_atomically(file, out);
}

StringMap from_source() {
  return {{"source", chat_run().source().string()}, {"chat-template", chat_run().chat_template().string()}};
}

}  // namespace

TEST_CASE("an honest run on conversations passes verify, replay and recompute from its source") {
  const ForgedRun run(CopyOf{chat_run().run()});
  REQUIRE(Corpus(run / "corpus").has_mask());
  CHECK(Corpus(run / "corpus").documents()[0].trained == kTurnBytes + 1);  // the answer and its end
  sign_again(run);
  CHECK(verifies(run.path()));
  CHECK(replayed(run.path(), 1).holds());
  const Recomputation again = recomputed(run / "corpus", kStages, from_source());
  INFO(again.to_json().dump(1));
  CHECK(of(again, "corpus").status == Recomputed::Status::equal);
}

TEST_CASE("a forged mask of conversations is found by verify") {
  const ForgedRun run(CopyOf{chat_run().run()});
  SECTION("questions are trained, too") {
    ForgedRun::rewrite(run / "corpus", "tokens.safetensors", [](auto& tensors, Metadata&) { std::ranges::fill(tensors.at("train_mask"), uint8_t{1}); });
    sign_again(run);
    CHECK(verifies(run.path(), "corpus/tokens.safetensors: has another mask for 'chat "));
  }
  SECTION("one token of one answer is not trained") {
    ForgedRun::rewrite(run / "corpus", "tokens.safetensors", [](auto& tensors, Metadata&) { *std::ranges::find(tensors.at("train_mask"), uint8_t{1}) = 0; });
    sign_again(run);
    CHECK(verifies(run.path(), "has another mask for 'chat "));
  }
  SECTION("the table gives another number of trained tokens") {
    change_lines(run / "corpus/documents.jsonl", [](Json& d) { d["trained"] = d["trained"].get<int64_t>() + 1; });
    sign_again(run);
    CHECK(verifies(run.path(), "belongs to a table that gives 'chat "));
  }
  SECTION("attention crosses documents") {
    ForgedRun::change_metadata(run / "corpus", "tokens.safetensors", [](Metadata& m) { REQUIRE(m.erase("document_attention") == 1); });
    sign_again(run);
    CHECK(verifies(run.path(), "records that attention crosses documents"));
  }
  SECTION("the metrics give another number of trained tokens") {
    run.reseal([](Lineage& l) {
      if (l.name == "corpus") l.metrics["trained_tokens"]["train"] = 7;
    });
    CHECK(verifies(run.path(), "signs the metric 'trained_tokens'"));
  }
}

TEST_CASE("questions passed off as answers, in stretches and mask alike, are found by the rows that were taught and by recompute from the source") {
  const ForgedRun run(CopyOf{chat_run().run()});
  const int64_t question = int64_t(kUser.size()), answer = question + kTurnBytes + 1 + int64_t(kAssistant.size());  // in tokens
  for (const auto& file : fs::directory_iterator(run / "corpus/texts"))
    change_lines(file.path(), [&](Json& d) {
      const std::string text = d["text"];
      const auto from = int64_t(text.find(kAssistant) + kAssistant.size()), to = int64_t(kUser.size());
      for (Json& stretch : d["trained"])
        for (Json& end : stretch) end = end.get<int64_t>() - from + to;
    });
  const Corpus honest(chat_run().run() / "corpus");
  ForgedRun::rewrite(run / "corpus", "tokens.safetensors", [&](auto& tensors, Metadata&) {
    for (const Document& d : honest.documents()) {
      auto& mask = tensors.at(d.split == Split::train ? "train_mask" : "held_out_mask");
      for (int64_t i = 0; i <= kTurnBytes; ++i) {
        mask[size_t(d.first_token + answer + i)] = 0;
        mask[size_t(d.first_token + question + i)] = 1;
      }
    }
  });
  sign_again(run);
  // Text, stretches, mask and counts agree with each other: which turn is whose is in the source alone. But answers alone were taught.
  CHECK(verifies(run.path(), "by the corpus's mask its token is"));
  CHECK_THROWS_WITH(replayed(run.path(), 1), Catch::Contains("no row for token"));
  CHECK(of(recomputed(run / "corpus", kStages, from_source()), "corpus").status == Recomputed::Status::differs);
}

#endif  // OVERPROOF_WITH_TORCH
