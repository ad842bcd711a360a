// Every kind of forgery of a run, with all statements signed again, and the check that detects it.
#ifdef OVERPROOF_WITH_TORCH

#include <catch2/catch.hpp>
#include <cmath>

#include "core/error.h"
#include "data/commitment.h"
#include "data/corpus.h"
#include "data/order.h"
#include "distill/replay.h"
#include "records/soft_targets.h"
#include "teacher/check_rows.h"
#include "tests/data/fixtures.h"
#include "tests/pipeline/forged_run.h"

using namespace overproof;

namespace {

/// Writes the commitment again for the changed document table.
void recommit(const fs::path& corpus) {
  const Corpus table(corpus);
  const std::string lines = read_file(corpus / "documents.jsonl");
  CommitmentWriter writer(std::nullopt);
  size_t at = 0;
  for (const Document& d : table.documents()) {
    writer.add(d.digest, d.split, d.tokens, int64_t(at));
    at = lines.find('\n', at) + 1;
  }
  for (const char* file : {"commitment.json", "tiles.safetensors", "index.safetensors"}) fs::remove(corpus / file);
  OutputFolder folder(corpus);
  writer.finish(folder, int64_t(lines.size()));
}

/// The batch root of step records, computed from the files alone.
Digest batch_root(const fs::path& run, int64_t position, int64_t batch) {
  const Corpus corpus(run / "corpus");
  const SoftTargets targets(run / "soft-targets");
  const TrainingOrder order(targets.order_key(), corpus.windows(Split::train), targets.blocks());
  std::string text = "overproof batch v1";
  const auto add = [&](const auto& value) { text.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t block = order.block_at(position + b), window = order.window_of_block(block);
    std::vector<int64_t> ids(size_t(corpus.window_length()) + 1);
    corpus.read_window(Split::train, window, ids);
    std::string tokens;
    for (const int64_t id : ids)
      for (int i = 0; i < 4; ++i) tokens += char(id >> (8 * i));
    add(window);
    add(sha256(tokens).bytes);
    add(targets.block_digest(block).bytes);
  }
  return sha256(text);
}

bool rows_hold(const fs::path& run, int64_t row = -1) {
  CheckRowsConfig config;
  config.row = row;
  config.rows = 12;
  config.seed = "5f2c9a41";
  return check_rows(config, run / "soft-targets").holds();
}

}  // namespace

TEST_CASE("an honest run passes every check") {
  const ForgedRun run;  // a copy
  CHECK(verifies(run.path()));
  CHECK(rows_hold(run.path()));
  const Replay all = replayed(run.path(), 100);
  INFO(all.to_json().dump(1));
  CHECK(all.holds());
  CHECK(all.segments_total == 6);
  CHECK(all.segments.size() == 6);
  CHECK(all.steps_planned_equal == 24);
  const StepRecords records = read_step_records(run / "student");
  for (const StepRecord& r : records.steps()) CHECK(r.batch == batch_root(run.path(), r.position, 4));
  CHECK(all.to_json().at("odds").at(0).at("caught") == 1.0);
  CHECK(replayed(run.path(), 100, "calibrated").segments.size() == 2);
  CHECK(replayed(run.path(), 100, "calibrated").holds());
  const Recomputation again =
      recomputed(run.path(), {"all"}, {{"source", (fs::path(OVERPROOF_SOURCE_DIR) / "examples/texts").string()}});
  INFO(again.to_json().dump(1));
  CHECK(again.holds());
  for (const Recomputed& a : again.artifacts) CHECK(a.status == Recomputed::Status::equal);
  // Signed again with another key: only the signer differs.
  run.reseal();
  CHECK(verifies(run.path()));
  CHECK(replayed(run.path(), 2).holds());
}

TEST_CASE("segments start from the nearest kept state, and a forged state is not trusted") {
  const ForgedRun run;
  int64_t kept = 0;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) kept += entry.path().extension() == ".safetensors";
  CHECK(kept == 2);  // after 8 and 16 steps; after 24 the artifact itself is
  const Replay one = replayed(run.path(), 1);
  REQUIRE(one.drawn() == 1);
  const ReplayedSegment& s = one.segments[0];
  CHECK(s.from_step == s.first_step / 8 * 8);
  CHECK(one.holds());
  for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
    ForgedRun::rewrite(run / "checkpoints", entry.path().filename().string(),
                       [](auto& tensors, Metadata&) { tensors.begin()->second[5] ^= 1; });
  const Replay all = replayed(run.path(), 6);
  INFO(all.to_json().dump(1));
  CHECK(all.holds());
  CHECK(replayed(run.path(), 1).segments[0].from_step == 0);
  const Replay coarse = replayed(run.path(), 6, "student", 1e-4);
  CHECK(coarse.holds());
  CHECK(coarse.segments_total == 1);
  CHECK(has(coarse.notes, "a kept state is not used"));
  fs::remove_all(run / "checkpoints");
  CHECK(replayed(run.path(), 6).holds());
  CHECK(verifies(run.path()));
}

TEST_CASE("a changed document is detected") {
  const ForgedRun run;
  const Corpus corpus(run / "corpus");
  const auto used = std::find_if(corpus.documents().begin(), corpus.documents().end(),
                                 [](const Document& d) { return d.split == Split::train; });
  REQUIRE(used != corpus.documents().end());
  const fs::path texts = run / "corpus" / texts_file_name(used->source);
  const std::string text = document_text(run / "corpus", *used), changed = "Another beginning. " + text;
  const auto replace = [](const fs::path& file, const std::string& from, const std::string& to) {
    std::string content = read_file(file);
    const size_t at = content.find(from);
    REQUIRE(at != std::string::npos);
    write_file_atomically(file, content.replace(at, from.size(), to));
  };
  replace(texts, Json(text).dump(), Json(changed).dump());

  SECTION("in its text alone: by verify") {
    run.reseal();
    CHECK(verifies(run.path(), "corpus"));
  }
  SECTION("in text and table: by verify, for the order of training hangs on the corpus; then by replay and by rows") {
    for (const fs::path& file : {texts, run / "corpus/documents.jsonl"}) replace(file, used->digest.hex(), sha256(changed).hex());
    replace(run / "corpus/documents.jsonl",
            Json{{"bytes", text.size()}}.dump().substr(1, Json{{"bytes", text.size()}}.dump().size() - 2),
            Json{{"bytes", changed.size()}}.dump().substr(1, Json{{"bytes", changed.size()}}.dump().size() - 2));
    run.reseal();
    CHECK(verifies(run.path(), "corpus/"));  // its commitment is not of this table
    recommit(run / "corpus");
    run.reseal();
    CHECK(verifies(run.path(), "trains in the order of key"));
    // With the order corrected as well, each step had other windows, and the teacher other draws.
    const Digest root = scan_artifact(run / "corpus").root;
    ForgedRun::change_metadata(run / "soft-targets", "targets.safetensors",
                               [&](Metadata& m) { m["order_key"] = order_key(root, std::stoll(m.at("seed"))).hex(); });
    run.reseal();
    CHECK(verifies(run.path(), "holds other tokens for"));
    const Replay r = replayed(run.path(), 0);
    CHECK_FALSE(r.holds());
    CHECK(has(r.faults, "batch root"));
    CHECK_FALSE(rows_hold(run.path()));
  }
}

TEST_CASE("a changed learning rate is detected by replay") {
  const ForgedRun run;
  SECTION("in the statement") {
    run.reseal([](Lineage& l) {
      if (l.name == "student") l.config["learning-rate"] = 2e-3;
    });
  }
  SECTION("in the step records") {
    run.change_records("student", [](StepRecord& r) {
      if (r.step == 11) r.learning_rate *= 1.5;
    });
    run.reseal();
  }
  CHECK(verifies(run.path()));  // all statements are signed and agree
  const Replay r = replayed(run.path(), 0);
  CHECK_FALSE(r.holds());
  CHECK(has(r.faults, "learning rate"));
}

TEST_CASE("a changed option of training is detected by replay") {
  const ForgedRun run;
  run.reseal([](Lineage& l) {
    if (l.name == "student") l.config["beta2"] = 0.99;
  });
  CHECK(replayed(run.path(), 0).holds());  // nothing in the plan depends on it
  const Replay r = replayed(run.path(), 2);
  CHECK_FALSE(r.holds());
  // AdamW's first step does not depend on beta2, so the losses begin to differ later than the moments.
  CHECK(std::none_of(r.segments.begin(), r.segments.end(), [](const ReplayedSegment& s) { return s.equal; }));
}

TEST_CASE("one changed weight is detected") {
  const ForgedRun run;
  const auto nudge = [&](const std::string& artifact) {
    ForgedRun::rewrite(run / artifact, "model.safetensors",
                       [](auto& tensors, Metadata&) { tensors.at("model.layers.0.self_attn.o_proj.weight")[3] ^= 1; });
  };
  SECTION("of the student: by verify, against its last step record") {
    nudge("student");
    run.reseal();
    CHECK(verifies(run.path(), "its weights are not those that training ended with"));
    CHECK(of(recomputed(run / "student"), "student").status == Recomputed::Status::differs);
  }
  SECTION("with a matching record: by replaying the last segment, or all") {
    nudge("student");
    const Digest weights = digest_of_checkpoint(run / "student");
    run.change_records("student", [&](StepRecord& r) {
      if (r.step == 23) r.weights = weights;
    });
    run.reseal();
    CHECK(verifies(run.path()));
    const Replay r = replayed(run.path(), 6);
    CHECK_FALSE(r.holds());
    REQUIRE(r.segments.size() == 6);
    CHECK_FALSE(r.segments[5].equal);
    CHECK(r.segments[5].difference.find("step 23: weights") == 0);
    CHECK(r.segments[4].equal);
    // Whatever the draw: the last segment is always made.
    for (const char* seed : {"00", "01", "02"}) {
      const Replay one = replayed(run.path(), 1, "student", std::nullopt, seed);
      CHECK_FALSE(one.holds());
      CHECK(one.drawn() == 1);
      CHECK(one.segments.back().number == 5);
      CHECK_FALSE(one.segments.back().equal);
    }
    CHECK(of(recomputed(run / "student"), "student").status == Recomputed::Status::differs);
  }
  SECTION("of the model that training began with: by replay and by recompute") {
    nudge("student-init");
    run.reseal();
    CHECK(verifies(run.path()));
    CHECK(has(replayed(run.path(), 0).faults, "do not begin with the weights of the parent"));
    const Recomputation r = recomputed(run.path());
    CHECK(of(r, "student-init").status == Recomputed::Status::differs);
    CHECK(has(of(r, "student-init").details, "model.safetensors"));
  }
  SECTION("of the 8-bit model: by recompute") {
    ForgedRun::rewrite(run / "int8", "model.safetensors", [](auto& tensors, Metadata&) { tensors.begin()->second[0] ^= 1; });
    run.reseal();
    CHECK(verifies(run.path()));
    CHECK(replayed(run.path(), 1).holds());
    const Recomputation r = recomputed(run.path());
    CHECK_FALSE(r.holds());
    CHECK(of(r, "int8").status == Recomputed::Status::differs);
    CHECK(of(r, "statistics").status == Recomputed::Status::equal);
    CHECK(of(r, "student").status == Recomputed::Status::left);
    CHECK(has(of(r, "student").details, "audit replay"));
    CHECK(has(of(r, "corpus").details, "stages"));
  }
  SECTION("of a metric: by recompute") {
    run.reseal([](Lineage& l) {
      if (l.name == "student-init") l.metrics["recall"] = 0.99;
    });
    CHECK(verifies(run.path()));
    CHECK(has(of(recomputed(run / "student-init"), "student-init").details, "metric 'recall'"));
  }
}

TEST_CASE("a weight stored in another type than the signed one is detected by verify") {
  const ForgedRun run;
  const fs::path file = run / "student/model.safetensors";
  // One norm in 16 bits, and all output projections negated.
  std::vector<TensorInfo> infos;
  std::map<std::string, std::vector<float>> values;
  {
    const SafetensorsFile weights(file);
    infos = weights.tensors();
    for (const TensorInfo& t : infos) {
      values[t.name].resize(size_t(t.elements()));
      elements_to_f32(t.dtype, weights.bytes(t.name).data(), values[t.name]);
      if (t.name.find("o_proj") != std::string::npos)
        for (float& v : values[t.name]) v = -v;
    }
  }
  {
    OutputFolder out(run / "student");
    for (TensorInfo& t : infos)
      if (t.name == "model.norm.weight") t.dtype = DType::bf16;
    SafetensorsWriter writer(out, "model.safetensors", infos, {});
    for (const TensorInfo& t : infos) {
      std::vector<uint8_t> bytes(size_t(t.bytes()));
      f32_to_elements(t.dtype, values[t.name], bytes.data());
      writer.append(bytes.data(), bytes.size());
    }
    writer.close();
  }
  run.reseal();
  CHECK(verifies(run.path(), "student/: stores model.norm.weight as BF16, but by its statement it is F32"));
  // Signed as a training in bf16, the others have the wrong type.
  run.reseal([](Lineage& l) {
    if (l.name == "student") l.metrics["dtype"] = "BF16";
  });
  CHECK(verifies(run.path(), "as F32, but by its statement it is BF16"));
}

TEST_CASE("rows that are drawn follow from seed and targets, and a draw needs a seed") {
  const ForgedRun run;
  CheckRowsConfig config;
  CHECK_THROWS_WITH(check_rows(config, run / "soft-targets"), Catch::Contains("'seed' is missing"));
  config.seed = "lottery";
  CHECK_THROWS_WITH(check_rows(config, run / "soft-targets"), Catch::Contains("is not hex"));
  config.seed = "5f2c9a41";
  config.rows = 5;
  const RowCheck check = check_rows(config, run / "soft-targets");
  CHECK(check.holds());
  std::vector<int64_t> rows;
  for (const CheckedRow& r : check.rows) rows.push_back(r.row);
  CHECK(rows == draw_rows(check.rows_total, 5, "5F2C9A41", check.root));
  CHECK(rows != draw_rows(check.rows_total, 5, "5f2c9a41", sha256(std::string_view("other targets"))));
  // Rows of a teacher that is out of reach.
  ForgedRun::change_metadata(run / "soft-targets", "targets.safetensors", [](Metadata& m) { m["evidence"] = "recorded"; });
  CHECK_THROWS_AS(check_rows(config, run / "soft-targets"), MismatchError);
  run.reseal();
  CHECK(verifies(run.path(), "states that its rows are recorded, which the statement denies"));
}

TEST_CASE("a changed row of the teacher is detected by rows and by replay") {
  const ForgedRun run;
  int64_t row = -1;
  ForgedRun::rewrite(run / "soft-targets", "targets.safetensors", [&](auto& tensors, Metadata&) {
    // One draw is moved from a row's first id to its second, so that the row's sum stays the same.
    const auto& lengths = tensors.at("row_lengths");
    auto& entries = tensors.at("entries");
    size_t first = 0;
    for (size_t r = 0; r < lengths.size() && row < 0; first += 3 * size_t(lengths[r]), ++r)
      if (lengths[r] >= 2 && (entries[first] & 63) > 1 && (entries[first + 3] & 63) < 63) {
        row = int64_t(r);
        --entries[first];
        ++entries[first + 3];
      }
  });
  REQUIRE(row >= 0);
  SECTION("as it is") {
    run.reseal();
    CHECK(verifies(run.path()));
    CHECK_FALSE(rows_hold(run.path(), row));
    CHECK(rows_hold(run.path(), row + 64));
    const Replay r = replayed(run.path(), 0);
    CHECK_FALSE(r.holds());
    CHECK(has(r.faults, "batch root"));
  }
  SECTION("with matching batch roots: by the losses of the segment") {
    run.reseal();
    run.change_records("student", [&](StepRecord& r) { r.batch = batch_root(run.path(), r.position, 4); });
    run.reseal();
    CHECK(verifies(run.path()));
    CHECK(replayed(run.path(), 0).holds());
    const Replay r = replayed(run.path(), 6);
    CHECK_FALSE(r.holds());
    CHECK(r.segments[5].difference.find("loss") != std::string::npos);
  }
}

TEST_CASE("a changed step record is detected") {
  ForgedRun run;
  SECTION("alone: by verify, for the chain breaks") {
    ForgedRun::rewrite(run / "student", kStepRecordsFile,
                       [](auto& tensors, Metadata&) { tensors.at("steps")[7 * 320 + 56] ^= 1; });
    run.reseal();
    CHECK(verifies(run.path(), "does not follow from the record before it"));
    CHECK(has(replayed(run.path(), 1).faults, "does not follow"));
  }
  SECTION("and chained anew, under the chain that was signed: by verify") {
    run.change_records("student", [](StepRecord& r) {
      if (r.step == 7) r.loss -= 0.25;
    });
    run.sign_chain = false;
    run.reseal();
    CHECK(verifies(run.path(), "does not end in the chain that the statement signs"));
    CHECK(has(replayed(run.path(), 0).faults, "is not the signed chain"));
  }
  SECTION("and chained and signed anew: by replaying its segment") {
    run.change_records("student", [](StepRecord& r) {
      if (r.step == 7) r.loss -= 0.25;
    });
    run.reseal();
    CHECK(verifies(run.path()));
    const Replay r = replayed(run.path(), 6);
    CHECK_FALSE(r.holds());
    for (size_t i = 0; i < 6; ++i) CHECK(r.segments[i].equal == (i != 1));
    CHECK(r.segments[1].difference.find("step 7: loss") == 0);
  }
  SECTION("in the readable log only: by verify") {
    std::string log = read_file(run / "student/steps.jsonl");
    log.replace(log.find("\"loss\":"), 8, "\"loss\":9");
    write_file_atomically(run / "student/steps.jsonl", log);
    run.reseal();
    CHECK(verifies(run.path(), "steps.jsonl: step 0: 'loss'"));
  }
}

TEST_CASE("within a tolerance, rounding passes and forgery does not") {
  const ForgedRun run;
  const Replay honest = replayed(run.path(), 10, "student", 1e-4);
  INFO(honest.to_json().dump(1));
  CHECK(honest.holds());
  CHECK(honest.segments_total == 3);  // from the beginning and from both kept states
  for (const ReplayedSegment& s : honest.segments) CHECK(s.weight_difference == 0);
  // A difference as large as reordered sums cause passes; a larger one does not.
  for (const auto& [scale, passes] : {std::pair{1e-6, true}, std::pair{1e-2, false}}) {
    const ForgedRun off;
    ForgedRun::rewrite(off / "student", "model.safetensors", [&, s = scale](auto& tensors, Metadata&) {
      for (auto& [name, bytes] : tensors) {
        auto* values = reinterpret_cast<float*>(bytes.data());
        if (name.find("o_proj") != std::string::npos)
          for (size_t i = 0; i < bytes.size() / 4; ++i) values[i] *= float(1 + s);
      }
    });
    const Digest weights = digest_of_checkpoint(off / "student");
    off.change_records("student", [&](StepRecord& r) {
      if (r.step == 23) r.weights = weights;
    });
    off.reseal();
    const Replay r = replayed(off.path(), 10, "student", 1e-4);
    INFO(r.to_json().dump(1));
    CHECK(r.segments.at(2).equal == passes);
    CHECK(r.segments.at(2).weight_difference > 0);
    CHECK_FALSE(replayed(off.path(), 10).holds());
  }
}

TEST_CASE("draws are without replacement, follow from the seed, and cover all segments evenly") {
  const Digest root = sha256(std::string_view("root"));
  CHECK(draw_segments(10, 20, "00", root).size() == 10);
  CHECK(draw_segments(1000, 7, "abcd", root) == draw_segments(1000, 7, "ABCD", root));
  CHECK(draw_segments(1000, 7, "abcd", root) != draw_segments(1000, 7, "abce", root));
  CHECK(draw_segments(1000, 7, "abcd", root) != draw_segments(1000, 7, "abcd", Digest{}));
  CHECK_THROWS_AS(draw_segments(10, 1, "xyz", root), UsageError);
  CHECK_THROWS_AS(draw_segments(10, 1, "", root), UsageError);
  std::vector<int> hits(8);
  for (int i = 0; i < 2000; ++i)
    for (const int64_t s : draw_segments(8, 3, std::to_string(i), root)) ++hits[size_t(s)];
  for (const int h : hits) CHECK(std::abs(h - 750) < 100);  // sigma is 22
  CHECK(caught_exactly(100, 59, 5) > 1 - std::pow(0.95, 59));
  CHECK(caught_exactly(20, 1, 1) == Approx(0.05));
  CHECK(caught_exactly(20, 20, 1) == 1.0);
}

TEST_CASE("what cannot be replayed or made again is reported with the reason") {
  const ForgedRun run;
  CHECK_THROWS_WITH(replayed(run.path(), 1, "int8"), Catch::Contains("was not trained"));
  CHECK_THROWS_WITH(replayed(run.path(), 1, "studnt"), Catch::Contains("calibrated"));
  ReplayConfig loose;
  Options options = options_of(loose);
  CHECK_THROWS_WITH(find_option(options, "tolerance", "").assign("loose"), Catch::Contains("'bitwise' or a number"));
  CHECK_THROWS_WITH(recomputed(run.path(), {"quantise"}), Catch::Contains("did you mean 'quantize'"));
  CHECK_THROWS_WITH(recomputed(run / "int8", {}, {{"source", "/nowhere"}}),
                    Catch::Contains("no artifact that was made again has an input"));
  CHECK(of(recomputed(run / "corpus"), "corpus").status == Recomputed::Status::left);
  CHECK(has(of(recomputed(run / "corpus"), "corpus").details, "--file source=PATH"));
  // Other texts than those that were signed.
  fs::create_directories(run / "audits");
  write_file_atomically(run / "audits/a.txt", "x");
  CHECK(of(recomputed(run / "corpus", {}, {{"corpus.source", (run / "audits").string()}}), "corpus").status ==
        Recomputed::Status::differs);
  // A statement with an unknown option, or one of another type.
  run.reseal([](Lineage& l) {
    if (l.name == "int8") l.config["schem"] = "int8";
    if (l.name == "student") l.config["steps"] = "24";
  });
  CHECK(has(of(recomputed(run / "int8"), "int8").details, "did you mean 'scheme'"));
  CHECK(has(replayed(run.path(), 1).faults, "wrong type"));
  // A parent that was changed after it was signed is reported before any training.
  write_file_atomically(run / "student-init/config.json", "{}");
  CHECK(has(replayed(run.path(), 1).faults, "student-init/config.json"));
  CHECK(has(of(recomputed(run / "student"), "student").details, "student-init"));
  write_file_atomically(run / "static.txt", "");  // a file in the run is not an artifact
  write_file_atomically(run / "statistics/more.txt", "");
  CHECK(has(of(recomputed(run / "statistics"), "statistics").details, "do not match its statement"));
}

#endif
