// A run on a private corpus: what is published of it confirms no guess, and every audit that is given the corpus holds.
#ifdef OVERPROOF_WITH_TORCH

#include <catch2/catch.hpp>
#include <set>

#include "data/private_corpus.h"
#include "data/token_batch.h"
#include "pipeline/run_stage.h"
#include "provenance/corpus_proof.h"
#include "records/soft_targets.h"
#include "teacher/check_rows.h"
#include "tests/pipeline/forged_run.h"

using namespace overproof;

namespace {

const fs::path kTexts = fs::path(OVERPROOF_SOURCE_DIR) / "examples/texts";

struct PrivateRun {
  TempFolder folder;
  fs::path path() const { return folder / "run"; }
  fs::path secret() const { return folder / "corpus.salt"; }
  PrivateRun() {
    set_progress_mode(ProgressMode::off);
    bind_torch_functions();
    CorpusSalt::create(secret());
    RecipeOptions options;
    options.out = path();
    options.only = "student";
    run_recipe(read_recipe(fs::path(OVERPROOF_SOURCE_DIR) / "examples/kill-test.ini",
                           {"student.steps=8", "student.warmup=2", "student.digest-every=4", "soft-targets.tokens=1280",
                            "corpus.salt=" + secret().string()}),
               options, Key::generate());
  }
};

}  // namespace

TEST_CASE("a private corpus confirms no guess, and every audit that has it holds") {
  const PrivateRun run;
  const ArtifactCheck check = check_artifact(run.path() / "corpus", VerifyFiles::yes, nullptr);
  REQUIRE(check.faults.empty());

  // The same corpus in public has the content that an outsider would build from the right texts.
  std::set<std::string> published;
  for (const FileRecord& file : check.lineage->files) published.insert(file.digest.hex());
  const StageSpec& spec = find_stage("corpus", "test");
  const auto instance = spec.make();
  for (Option& o : instance->options())
    if (o.name == "window-length") o.assign("64");
    else if (o.name == "held-out") o.assign("0.25");
  run_stage({&spec, instance.get(), {{"source", kTexts}, {"tokenizer", run.path() / "teacher"}}, run.folder / "public"},
            Key::generate());
  const auto open = check_artifact(run.folder / "public", VerifyFiles::yes, nullptr);
  for (const FileRecord& file : open.lineage->files) {
    INFO(file.name);
    CHECK_FALSE(published.contains(file.digest.hex()));
  }
  CHECK(open.lineage->config.at("source-sha256") != check.lineage->config.at("source-sha256"));
  CHECK(check.lineage->config.at("source-sha256") != scan_artifact(kTexts).root.hex());
  // A source's file with its salt left out is the guess itself.
  for (const auto& entry : fs::directory_iterator(run.path() / "corpus/texts")) {
    Json first = Json::parse(read_file(entry.path()).substr(0, read_file(entry.path()).find('\n')));
    CHECK(first.contains(kSaltMember));
  }
  for (const char* table : {"licenses", "sources", "license_rules", "splits"})
    for (const auto& [name, sums] : check.lineage->metrics.at(table).items()) {
      CHECK(sums.size() == 1);
      CHECK(sums.contains("documents"));
    }

  // Batch roots and draws, with everything known but the secret.
  const Corpus corpus(run.path() / "corpus");
  const SoftTargets targets(run.path() / "soft-targets");
  const StepRecords records = read_step_records(run.path() / "student");
  CHECK(records.format().salted_batches);
  const auto order = TrainingOrder(targets.order_key(), corpus.windows(Split::train), targets.blocks());
  const auto shared = std::make_shared<const Corpus>(run.path() / "corpus");
  const WindowBatches batches(shared, Split::train, order_of(order), records.steps()[0].sequences, 8);
  const auto salt = corpus_batch_salt(run.path() / "corpus");
  REQUIRE(salt);
  for (const StepRecord& step : records.steps()) {
    const TokenBatch batch = batches.at(step.step);
    std::vector<Digest> taught;
    for (const int64_t window : batch.numbers) taught.push_back(targets.block_digest(order.block_of_window(window)));
    const Digest plain = batch.root(taught);
    CHECK(step.batch != plain);
    CHECK(step.batch == salted_batch_root(plain, salt));
  }
  CHECK(draw_key(corpus.documents()[0].digest, salt) != corpus.documents()[0].digest);

  // Every audit that is given the corpus.
  VerifyConfig config;
  CHECK(verify_run(run.path(), config).holds());
  config.salt = run.secret();
  CHECK(verify_run(run.path(), config).holds());
  const Replay all = replayed(run.path(), 10);
  INFO(all.to_json().dump(1));
  CHECK(all.holds());
  CheckRowsConfig rows;
  rows.rows = 8;
  rows.seed = "5f2c9a41";
  CHECK(check_rows(rows, run.path() / "soft-targets").holds());
  CHECK(recomputed(run.path(), {}).holds());
  const StringMap source = {{"source", kTexts.string()}}, both = {{"source", kTexts.string()}, {"salt", run.secret().string()}};
  const Recomputation without = recomputed(run.path(), {"corpus"}, source), with = recomputed(run.path(), {"corpus"}, both);
  INFO(with.to_json().dump(1));
  CHECK(of(without, "corpus").status == Recomputed::Status::not_made);
  CHECK(has(of(without, "corpus").details, "is recorded under the secret 'salt'"));
  CHECK(of(with, "corpus").status == Recomputed::Status::equal);
}

#endif
