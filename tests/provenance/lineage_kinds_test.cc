#include "provenance/lineage_kinds.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "provenance/statement.h"

using namespace overproof;
using Catch::Contains;

TEST_CASE("every row of the lineage kinds is complete and consistent") {
  std::set<std::string_view> names, stages;
  for (const LineageKind& kind : lineage_kinds()) {
    INFO(kind.name);
    CHECK(names.insert(kind.name).second);
    CHECK(kind.role != Role::unknown);
    CHECK(kind.sentence.ends_with("."));
    // A stage makes one kind, so that neither can be signed for the other.
    CHECK_FALSE(kind.stages.empty());
    for (const std::string_view stage : kind.stages) CHECK(stages.insert(stage).second);
    for (const SlotRule& rule : kind.slots) CHECK(std::ranges::count(kind.slots, rule.slot, &SlotRule::slot) == 1);
    CHECK(kind.trains == (std::ranges::count(kind.files, "steps.safetensors") == 1));
    CHECK(find_lineage_kind(kind.name) == &kind);
    // What has no inputs needs none and can only be a model.
    if (kind.origin != Origin::inputs) CHECK((kind.is_model() && !kind.needs_model && !kind.needs_corpus && !kind.trains));
    CHECK(kind.trains == (kind.shown_by == ShownBy::replay));
    CHECK((kind.window_tweak != 0) == (kind.draw == WindowDraw::sample));
    // A model made from inputs inherits the weights of one, or is trained on a corpus alone.
    const auto enters = [&](Entry entry) { return std::ranges::any_of(kind.slots, [&](const SlotRule& rule) { return rule.entry == entry; }); };
    if (kind.is_model() && kind.origin == Origin::inputs) CHECK(enters(Entry::inherited) == kind.needs_model);
    if (kind.is_model() && kind.origin == Origin::inputs && !kind.needs_model) CHECK((kind.trains && kind.needs_corpus && enters(Entry::documents)));
  }
}

TEST_CASE("an unknown lineage kind is an error, never a model") {
  CHECK(find_lineage_kind("grafted-from") == nullptr);
  CHECK(find_lineage_kind("") == nullptr);
  CHECK_THROWS_AS(lineage_kind("unheard-of"), std::logic_error);
  Lineage lineage;
  lineage.kind = "unheard-of";
  lineage.stage = "distill";
  CHECK_THROWS_WITH(make_statement(lineage), Contains("unheard-of"));
}

TEST_CASE("each slot enters by the way of its row") {
  const LineageKind &distilled = lineage_kind("distilled-from"), &observed = lineage_kind("observed");
  CHECK(way_through(distilled, "student", Way::weights) == Way::weights);
  CHECK(way_through(distilled, "student", Way::statistics) == Way::statistics);
  CHECK(way_through(distilled, "targets", Way::weights) == Way::outputs);
  CHECK(way_through(distilled, "corpus", Way::weights) == Way::documents);
  CHECK(way_through(distilled, "corpus", Way::statistics) == Way::statistics);
  CHECK(way_through(observed, "corpus", Way::weights) == Way::statistics);
  CHECK(way_through(lineage_kind("corpus-of"), "tokenizer", Way::documents) == Way::tokenizer);
  CHECK(way_through(lineage_kind("sampled-from"), "teacher", Way::documents) == Way::outputs);
  CHECK(way_through(lineage_kind("experts-dropped-from"), "counts", Way::weights) == Way::statistics);
  CHECK(way_through(lineage_kind("quantized-from"), "corpus", Way::weights) == std::nullopt);
  CHECK(way_through(lineage_kind("evaluated"), "int8", Way::weights) == std::nullopt);
}

TEST_CASE("a slot without a rule is never taken for inherited weights") {
  CHECK_FALSE(lineage_kind("calibrated-from").find_entry("parent"));
  CHECK_THROWS_AS(lineage_kind("calibrated-from").entry("parent"), std::logic_error);
  CHECK(lineage_kind("distilled-from").entry("parent") == Entry::outputs);  // one of several teachers, by its own name
  CHECK_THROWS_AS(way_through(lineage_kind("taught"), "student", Way::weights), std::logic_error);
  CHECK(lineage_kind("evaluated").entry("anything") == Entry::nothing);
  CHECK(lineage_kind("corpus-of").entry("samples") == Entry::inherited);
}

TEST_CASE("files of our own belong to the kinds that list them") {
  CHECK(lineage_kind("carved-from").is_foreign_file("steps.safetensors"));
  CHECK(lineage_kind("carved-from").is_foreign_file("routing/router_counts.safetensors"));
  CHECK(lineage_kind("quantized-from").is_foreign_file("targets.safetensors"));
  CHECK_FALSE(lineage_kind("distilled-from").is_foreign_file("steps.safetensors"));
  CHECK_FALSE(lineage_kind("carved-from").is_foreign_file("model.safetensors"));
  CHECK_FALSE(lineage_kind("imported").is_foreign_file("steps.safetensors"));  // whatever a publisher put there
}

TEST_CASE("a sentence names the artifacts in its slots") {
  CHECK(lineage_sentence(lineage_kind("taught"), {{"corpus", "texts"}, {"teacher", "big"}}) ==
        "The outputs of ‘big’ on the texts of ‘texts’.");
  CHECK(lineage_sentence(lineage_kind("observed"), {{"corpus", "c"}, {"model", "m"}}) ==
        "What the layers of ‘m’ receive on ‘c’.");
  CHECK(lineage_sentence(lineage_kind("pruned-from"), {}) == "an unnamed artifact with parts removed.");
}
