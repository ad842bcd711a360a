#include "quantize/journal.h"

#include <cmath>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {
constexpr int kFormatVersion = 1;
constexpr int64_t kMaxJournalBytes = int64_t{256} << 20;
}  // namespace

Digest plan_digest(const Plan& plan) {
  Json items = Json::array();
  for (const PlanItem& item : plan.items) {
    Json outputs = Json::array();
    for (const TensorInfo& out : item.outputs) outputs.push_back({out.name, dtype_name(out.dtype), out.shape});
    items.push_back({item.source.name, dtype_name(item.source.dtype), item.source.shape,
                     item.scheme ? item.scheme->name() : "none", outputs});
  }
  return sha256(items.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void write_journal(const fs::path& file, const Journal& journal) {
  Json errors = Json::array(), outputs = Json::array(), inputs = Json::array();
  for (const RowError& e : journal.errors) errors.push_back({e.signal, e.noise});  // the writer keeps every bit of a double
  for (const FileRecord& r : journal.outputs)
    outputs.push_back({{"name", r.name}, {"bytes", r.bytes}, {"sha256", r.digest.hex()}});
  for (const InputMark& m : journal.inputs) inputs.push_back({{"file", m.file}, {"bytes", m.bytes}, {"sha256", m.digest.hex()}});
  const Json json = {{"format_version", kFormatVersion},
                     {"plan", journal.plan.hex()},
                     {"items", journal.items},
                     {"bytes", journal.bytes},
                     {"errors", errors},
                     {"outputs", outputs},
                     {"inputs", inputs}};
  write_file_atomically(file, json.dump() + "\n");
}

std::optional<Journal> read_journal(const fs::path& file, const Plan& plan) {
  std::error_code error;
  if (!fs::exists(file, error)) return std::nullopt;
  try {
    const Json json = parse_json(read_file(file, kMaxJournalBytes), file);
    if (json.at("format_version") != kFormatVersion) return std::nullopt;
    Journal journal;
    journal.plan = Digest::from_hex(json.at("plan").get<std::string>());
    journal.items = json.at("items").get<size_t>();
    journal.bytes = json.at("bytes").get<int64_t>();
    for (const Json& e : json.at("errors")) journal.errors.push_back({e.at(0).get<double>(), e.at(1).get<double>()});
    for (const Json& r : json.at("outputs"))
      journal.outputs.push_back(
          {r.at("name").get<std::string>(), r.at("bytes").get<int64_t>(), Digest::from_hex(r.at("sha256").get<std::string>())});
    for (const Json& m : json.at("inputs"))
      journal.inputs.push_back(
          {m.at("file").get<int>(), m.at("bytes").get<int64_t>(), Digest::from_hex(m.at("sha256").get<std::string>())});
    int64_t bytes = 0;
    if (journal.plan != plan_digest(plan) || journal.items > plan.items.size() || journal.errors.size() != journal.items)
      return std::nullopt;
    for (size_t i = 0; i < journal.items; ++i)
      for (const TensorInfo& out : plan.items[i].outputs) bytes += out.bytes();
    if (bytes != journal.bytes) return std::nullopt;
    return journal;
  } catch (const Json::exception&) {
    return std::nullopt;
  } catch (const FormatError&) {
    return std::nullopt;
  } catch (const UsageError&) {
    return std::nullopt;
  }
}

}  // namespace overproof
