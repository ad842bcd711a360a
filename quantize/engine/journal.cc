#include "quantize/engine/journal.h"

#include "core/error.h"
#include "core/json.h"

namespace overproof {

Digest layout_digest(const Plan& plan) {
  Json items = Json::array();
  for (const PlanItem& item : plan.items) {
    Json outputs = Json::array();
    for (const TensorInfo& out : item.outputs) outputs.push_back({out.name, dtype_name(out.dtype), out.shape});
    items.push_back({item.source.name, dtype_name(item.source.dtype), item.source.shape,
                     item.scheme ? item.scheme->name() : "none", outputs});
  }
  return sha256(items.dump(-1, ' ', false, Json::error_handler_t::replace));
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
  Journal journal;
  if (json.at("layout") != layout_digest(plan).hex()) return std::nullopt;
  journal.items = json.at("items").get<size_t>();
  journal.bytes = json.at("bytes").get<int64_t>();
  for (const Json& e : json.at("errors")) journal.errors.push_back({e.at(0).get<double>(), e.at(1).get<double>()});
  for (const Json& m : json.at("inputs"))
    journal.inputs.push_back(
        {m.at("file").get<int>(), m.at("bytes").get<int64_t>(), Digest::from_hex(m.at("sha256").get<std::string>())});
  if (journal.items > plan.items.size() || journal.errors.size() != journal.items) return std::nullopt;
  int64_t bytes = 0;
  for (size_t i = 0; i < journal.items; ++i)
    for (const TensorInfo& out : plan.items[i].outputs) bytes += out.bytes();
  if (bytes != journal.bytes) return std::nullopt;
  return journal;
} catch (const Json::exception&) {
  return std::nullopt;
} catch (const Error&) {  // not a digest
  return std::nullopt;
}

}  // namespace overproof
