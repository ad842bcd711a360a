#include "quantize/engine/journal.h"

#include "core/error.h"
#include "core/json_object.h"

namespace overproof {

Digest layout_digest(const Plan& plan) {
  Json items = Json::array();
  for (const PlanItem& item : plan.items) {
    Json outputs = Json::array();
    for (const TensorInfo& out : item.outputs) outputs.push_back({out.name, dtype_name(out.dtype), out.shape});
    items.push_back({item.source.name, dtype_name(item.source.dtype), item.source.shape,
                     item.scheme ? item.scheme->name() : "none", outputs});
  }
  return sha256(dump_text(items));
}

Json to_json(const Journal& journal, const Plan& plan) {
  Json errors = Json::array(), inputs = Json::array();
  for (const RowError& e : journal.errors) errors.push_back({e.signal, e.noise});  // written with every bit of a double
  for (const InputMark& m : journal.inputs) inputs.push_back({{"file", m.file}, {"bytes", m.bytes}, {"sha256", m.digest.hex()}});
  return {{"layout", layout_digest(plan).hex()},
          {"items", journal.items},
          {"bytes", journal.bytes},
          {"errors", errors},
          {"inputs", inputs}};
}

std::optional<Journal> journal_from_json(const Json& json, const Plan& plan) try {
  const JsonObject object(json, "resume.json", "progress");
  if (object.digest("layout") != layout_digest(plan)) return std::nullopt;
  Journal journal;
  journal.items = size_t(object.integer("items", 0, int64_t(plan.items.size())));
  journal.bytes = object.count("bytes");
  for (const Json& e : object.list("errors")) {
    if (!e.is_array() || e.size() != 2 || !e[0].is_number() || !e[1].is_number()) return std::nullopt;
    journal.errors.push_back({e[0].get<double>(), e[1].get<double>()});
  }
  for (const JsonObject& mark : object.objects("inputs"))
    journal.inputs.push_back({int(mark.integer("file", 0, INT32_MAX)), mark.count("bytes"), mark.digest("sha256")});
  int64_t bytes = 0;
  for (size_t i = 0; i < journal.items; ++i)
    for (const TensorInfo& out : plan.items[i].outputs) bytes += out.bytes();
  if (journal.errors.size() != journal.items || journal.bytes != bytes) return std::nullopt;
  return journal;
} catch (const FormatError&) {
  return std::nullopt;
}

}  // namespace overproof
