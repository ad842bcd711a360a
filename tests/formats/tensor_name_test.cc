#include <catch2/catch.hpp>

#include "formats/model_kinds.h"

using namespace overproof;
using Part = TensorName::Part;

TEST_CASE("a tensor's name gives its layer, expert and part") {
  const auto expert = TensorName::parse("model.layers.12.mlp.experts.3.up_proj.weight");
  CHECK(expert.in_decoder());
  CHECK(expert.layer == 12);
  CHECK(expert.expert == 3);
  CHECK(expert.part == Part::up);
  CHECK(expert.is_ffn());
  CHECK_FALSE(expert.shared);
  CHECK_FALSE(expert.bias);
  CHECK(expert.rest == "mlp.experts.3.up_proj.weight");
  CHECK(expert.unit == "model.layers.12.mlp.experts.3");
  CHECK(expert.expert_prefix == "model.layers.12.mlp.experts.3.");

  const auto shared = TensorName::parse("model.layers.0.mlp.shared_experts.down_proj.weight");
  CHECK(shared.shared);
  CHECK(shared.expert == -1);
  CHECK(shared.part == Part::down);

  const auto mixtral = TensorName::parse("model.layers.1.block_sparse_moe.experts.7.w3.weight");
  CHECK(mixtral.expert == 7);
  CHECK(mixtral.part == Part::up);
  CHECK(TensorName::parse("model.layers.1.block_sparse_moe.experts.7.w1.weight").part == Part::gate);
  CHECK(TensorName::parse("model.layers.1.block_sparse_moe.experts.7.w2.weight").part == Part::down);

  const auto bias = TensorName::parse("model.layers.2.self_attn.q_proj.bias");
  CHECK(bias.part == Part::q);
  CHECK(bias.bias);
  CHECK(bias.unit == "model.layers.2.self_attn");
  CHECK(bias.block == "self_attn");
  CHECK(expert.block == "mlp.experts.3");
  CHECK(TensorName::parse("model.layers.2.input_layernorm.weight").block.empty());
  CHECK(TensorName::parse("model.layers.2.input_layernorm.weight").unit == "model.layers.2");
  CHECK(TensorName::parse("model.layers.2.mlp.x.gate_proj.weight").block == "mlp.x");

  CHECK(TensorName::parse("model.layers.2.mlp.gate.weight").part == Part::router);
  CHECK(TensorName::parse("model.layers.2.mlp.gate.e_score_correction_bias").part == Part::router_bias);
  CHECK(TensorName::parse("model.layers.2.block_sparse_moe.router.layer.weight").part == Part::router);
  // Scales are no weights, and a stack of experts is none of their matrices.
  CHECK(TensorName::parse("model.layers.2.mlp.gate_proj.weight_scale").part == Part::other);
  CHECK(TensorName::parse("model.layers.2.mlp.experts.gate_up_proj").part == Part::other);
}

TEST_CASE("names outside of a numbered layer, of other lists and of no model") {
  const auto head = TensorName::parse("lm_head.weight");
  CHECK(head.layer == -1);
  CHECK(head.rest == "lm_head.weight");
  CHECK(head.list.empty());
  const auto other = TensorName::parse("transformer.h.4.attn.q_proj.weight");
  CHECK(other.list == "transformer.h");
  CHECK(other.layer == 4);
  CHECK_FALSE(other.in_decoder());
  for (const char* name : {"", ".", "model.layers.", "model.layers.x.mlp", "model.layers.3", "model.layers.-1.a",
                           "model.layers.01.a", "model.layers.1000000000.a", "layers", "3.weight", "....", "xlayers.3.a"}) {
    INFO(name);
    CHECK(TensorName::parse(name).layer == -1);
    CHECK(TensorName::parse(name).rest == name);
  }
  CHECK(TensorName::parse("model.layers.1.mlp.experts.x.up_proj.weight").expert == -1);
  CHECK(TensorName::parse("model.layers.1.mlp.experts.2").expert == -1);
}

TEST_CASE("every kind names its experts' matrices by its own table") {
  for (const ModelKind& kind : model_kinds()) {
    if (kind.experts != ModelKind::Experts::by_projection && kind.experts != ModelKind::Experts::by_number) continue;
    for (const Part part : {Part::gate, Part::up, Part::down}) {
      const std::string name = "model.layers.0." + expert_tensor_name(kind, 5, part);
      const auto parsed = TensorName::parse(name);
      CHECK(parsed.expert == 5);
      CHECK(parsed.part == part);
      std::string pattern(parsed.rest);
      pattern.replace(pattern.find(".5."), 3, ".#.");
      bool listed = false;
      for (const TensorEntry& entry : layer_tensors())
        listed |= kind.is(entry.kinds) && entry.hf == pattern && entry.role == TensorRole::expert_linear;
      CHECK(listed);
    }
  }
}
