// Students whose published weights are rounded to bf16 after the training: what verify and replay find in an honest run and in a
// forged one.
#ifdef OVERPROOF_WITH_TORCH

#include <catch2/catch.hpp>

#include "audit/verify.h"
#include "core/error.h"
#include "distill/replay.h"
#include "tests/pipeline/forged_run.h"

using namespace overproof;

namespace {

bool finds(const std::vector<std::string>& lines, const std::string& word) {
  return std::ranges::any_of(lines, [&](const std::string& line) { return line.find(word) != std::string::npos; });
}

/// Changes the bits of one bf16 weight of the student.
void change_weight(const ForgedRun& run) {
  ForgedRun::rewrite(run / "student", "model.safetensors", [](auto& tensors, Metadata&) {
    tensors.at("model.layers.0.self_attn.o_proj.weight")[1] ^= 0x80;  // its sign
  });
}

void publish(Lineage& lineage, const fs::path& run) {
  if (lineage.name == "student") lineage.metrics[kPublishedWeights] = digest_of_checkpoint(run / "student").hex();
}

}  // namespace

TEST_CASE("an honest run in bf16 verifies and replays, bitwise and within a tolerance") {
  const ForgedRun run("bf16");
  CHECK(open_checkpoint(run / "student").tensors->find("model.layers.0.self_attn.o_proj.weight")->dtype == DType::bf16);
  CHECK(verify_run(run.path(), {}).holds());
  for (const char* artifact : {"student", "calibrated"}) {
    const Replay all = replayed(run.path(), 100, artifact), near = replayed(run.path(), 100, artifact, 1e-4);
    INFO(all.to_json().dump(1) << near.to_json().dump(1));
    CHECK(all.holds());
    CHECK(near.holds());
  }
  run.reseal();
  CHECK(verify_run(run.path(), {}).holds());
}

TEST_CASE("a bf16 weight that was changed after the training is found") {
  const ForgedRun run("bf16");
  change_weight(run);
  SECTION("signed again: by verify, and by replay without a step made again") {
    run.reseal();
    CHECK_FALSE(verify_run(run.path(), {}).holds());
    const Replay checked = replayed(run.path(), 0);
    CHECK(finds(checked.faults, "not those that the statement has the digest of"));
  }
  SECTION("with another digest in the statement: by replay of the last segment") {
    run.reseal([&](Lineage& lineage) { publish(lineage, run.path()); });
    CHECK(verify_run(run.path(), {}).holds());  // what a maker can forge who makes all records
    CHECK(finds(replayed(run.path(), 100).faults, "not the rounded weights of the last step"));
    CHECK_FALSE(replayed(run.path(), 100, "student", 1e-4).holds());
    // Whatever the draw: the last segment is always made.
    for (const char* seed : {"01", "02", "03"}) {
      CHECK(finds(replayed(run.path(), 1, "student", std::nullopt, seed).faults, "not the rounded weights of the last step"));
      CHECK_FALSE(replayed(run.path(), 1, "student", 1e-4, seed).segments.back().equal);
    }
  }
  SECTION("stored in another type: by verify, because the statement has one") {
    run.reseal([](Lineage& lineage) {
      if (lineage.name == "student") lineage.metrics["dtype"] = "F16", lineage.metrics.erase(kPublishedWeights);
    });
    CHECK_FALSE(verify_run(run.path(), {}).holds());
  }
  SECTION("without a digest in the statement: by verify, because the statement has a dtype") {
    run.reseal([](Lineage& lineage) {
      if (lineage.name == "student") lineage.metrics.erase(kPublishedWeights);
    });
    CHECK_FALSE(verify_run(run.path(), {}).holds());
  }
}

#endif
