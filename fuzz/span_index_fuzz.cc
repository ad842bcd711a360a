// An index of texts: the input is a shard; its table is made to fit. Any bytes are refused with a FormatError, or the spans that
// are found are in the texts.

#include "core/error.h"
#include "data/span_index.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

namespace {

constexpr std::string_view kQuery = "the cat sat on the mat, and the cat sat on the hat";

void write_table(const fs::path& folder, int64_t bytes) {
  OutputFolder out(folder);
  const int64_t first[] = {0, bytes / 2, bytes}, records[] = {0, 0};
  SafetensorsWriter writer(out, "documents.safetensors", {{"first_byte", DType::i64, {3}}, {"record_offset", DType::i64, {2}}},
                           {{"corpus_root", std::string(64, '0')}, {"shards", "1"}});
  writer.append(first, sizeof first);
  writer.append(records, sizeof records);
  writer.close();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  folder.put(shard_file_name(0), {reinterpret_cast<const char*>(data), size});
  try {
    write_table(folder.path(), SafetensorsFile(folder.path() / shard_file_name(0)).info("text").elements());
    const SpanIndex index(folder.path());
    SpanQuery query;
    query.min_words = query.min_bytes = 1;
    for (const MatchedSpan& span : index.find(kQuery, query)) {
      fuzz::require(span.begin >= 0 && span.begin < span.end && span.end <= int64_t(kQuery.size()) && span.occurrences >= 0);
      for (const SpanHit& hit : span.hits) {
        fuzz::require(hit.document >= 0 && hit.document < index.documents());
        fuzz::require(hit.byte >= 0 && hit.byte <= int64_t(index.text_of(hit.document).size()));
      }
    }
  } catch (const FormatError&) {
  }
  return 0;
}
