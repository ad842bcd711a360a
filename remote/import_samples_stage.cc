#include "remote/import_samples_stage.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "data/chat_records.h"
#include "data/corpus.h"

namespace overproof {

StageReport run_import_samples(const ImportSamplesConfig& config, const Inputs& inputs, Outputs& outputs) {
  const MappedFile table(inputs.path("source"));
  const std::string teacher = inputs.path("teacher").filename().string(), root = inputs.root("teacher").hex();
  const std::string source = fmt::format("{} sha256:{}", teacher, root);
  const Json parents = Json::array({{{"slot", "teacher"}, {"name", teacher}, {"digest", "sha256:" + root}}});
  int64_t documents = 0, chats = 0;
  OutputFile out = outputs.folder().open("documents.jsonl");
  for_each_line(table, [&](std::string_view line, int64_t offset) {
    throw_if_interrupted();
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
    Json json = parse_json(line, table.path(), offset);
    const auto fail = [&](std::string_view cause) { throw FormatError(table.path(), offset, cause); };
    if (!json.is_object()) fail("is not one JSON object a line");
    if (is_chat_record(json)) {
      read_chat_record(line, table.path(), offset);  // what fails, fails here
      ++chats;
    } else if (!json.contains("text") || !json["text"].is_string()) {
      fail("has neither a conversation, nor 'prompt' and 'completion', nor 'text'");
    }
    // Ids of another tokenizer would be taken for the corpus's.
    if (json.contains("ids")) fail("has 'ids'; texts are cut into tokens by the corpus");
    const Json added = {{"name", fmt::format("samples/{:06}", documents++)}, {"license", config.license}, {"source", source}, {"parents", parents}};
    bool replaces = false;
    for (const auto& [name, value] : added.items()) replaces |= json.contains(name);
    if (replaces) {
      json.update(added);
      out.write(dump_text(json) + "\n");
    } else {  // keys of a conversation keep their order, which a template may print
      const std::string_view open = line.substr(0, line.find_last_of('}'));
      out.write(fmt::format("{},{}\n", open, dump_text(added).substr(1)));
    }
  });
  if (documents == 0) throw FormatError(table.path(), -1, "has no record");
  outputs.folder().finish(std::move(out));
  const Json facts = {{"format", "overproof-samples-1"},
                      {"teacher", {{"name", teacher}, {"digest", "sha256:" + root}}},
                      {"documents", documents},
                      {"chats", chats},
                      {"evidence", "recorded"}};
  outputs.folder().write_file("sampling.json", dump_text(facts, 1) + "\n");
  StageReport report;
  report.metrics() = {{"documents", documents}, {"chats", chats}, {"evidence", "recorded"}};
  report.summary = {fmt::format("{} documents, {} of them conversations", documents, chats),
                    fmt::format("that '{}' wrote them is recorded as it was stated; nothing here shows it", teacher)};
  return report;
}

}  // namespace overproof
