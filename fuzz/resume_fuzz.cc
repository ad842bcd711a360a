// Resume points and what stages make of them. The first byte chooses:
//   0  resume.json as it is, with the digest of its first line put right: read back, it is the same point
//   1  a spool of rows: 8 bytes of shape, then the bytes of its batches
//   2  statistics of layers: the progress of a resume point whose files are what they should be
//   3  ids of drawn documents

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "records/activation_journal.h"
#include "records/batch_spool.h"
#include "records/document_spool.h"
#include "records/resume.h"

using namespace overproof;

namespace {

const Digest kKey = sha256(std::string_view("key"));

void point(std::string_view text) {
  parse_resume(text, kKey);
  const std::string line(text.substr(0, text.find('\n')));
  if (const auto read = parse_resume(line + "\n" + sha256(line).hex() + "\n", kKey)) {
    for (const FileRecord& r : read->files) fuzz::require(is_safe_relative_name(r.name) && r.bytes >= 0);
    const auto again = parse_resume(encode_resume(*read, kKey), kKey);
    fuzz::require(again && again->progress == read->progress && again->files.size() == read->files.size());
  }
}

void spool(std::string_view rest) {
  const std::string_view head = fuzz::take_bytes(rest, 3);
  if (head.size() < 3) return;
  const auto at = [&](size_t i) { return int64_t(uint8_t(head[i])); };
  const BatchSpool::Shape shape{.entry_bytes = 1 + at(0) % 5, .batch_rows = 1 + at(1) % 8, .total_rows = 1 + at(2)};
  const std::span bytes(reinterpret_cast<const uint8_t*>(rest.data()), rest.size());
  int64_t rows = 0, taken = 0;
  for (int64_t batches = 0; batches <= shape.batches(); ++batches) {
    rows = taken = 0;
    const bool whole = split_batches(bytes, shape, batches, [&](std::span<const uint8_t> lengths, std::span<const uint8_t> entries) {
      rows += int64_t(lengths.size());
      taken += int64_t(lengths.size() + entries.size());
    });
    fuzz::require(rows <= shape.total_rows && taken <= int64_t(bytes.size()));
    if (whole) fuzz::require(taken == int64_t(bytes.size()));
  }
}

void layers(std::string_view text) {
  static const fuzz::FuzzFolder folder;
  const fs::path scratch = folder / "scratch", out = folder / "out";
  for (const fs::path& path : {scratch, out}) {
    fs::remove_all(path);
    fs::create_directory(path);
  }
  ResumePoint point;
  try {
    point.progress = parse_json(text, "fuzz");
  } catch (const FormatError&) {
    return;
  }
  if (!point.progress.is_object()) return;
  const std::string spilled(132, '\1'), stream(32, '\2');  // what the seed's groups take; tokens 4, hidden size 2
  folder.put("scratch/activations.spill", spilled);
  folder.put("scratch/stream-1.f32", stream);
  point.files = {{"activations.spill", int64_t(spilled.size()), sha256(spilled)}, {"stream-1.f32", int64_t(stream.size()), sha256(stream)}};
  Resume(scratch, kKey).write(point);
  ActivationJournal journal(scratch, kKey, {.layers = 2, .tokens = 4, .hidden = 2});
  fuzz::require(journal.progress().layers_done >= 0 && journal.progress().layers_done <= 2);
  if (journal.progress().layers_done > 0) {
    std::vector<float> values(8);
    journal.read_stream(values);
  }
  OutputFolder folder_out(out);
  journal.finish(folder_out, {{"model_root", kKey.hex()}});
}

void documents(std::string_view text) {
  if (const auto drawn = parse_drawn_documents(text, 1000))
    for (const auto& ids : *drawn)
      for (const int32_t id : ids) fuzz::require(id >= 0 && id < 1000);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0: point(rest); break;
    case 1: spool(rest); break;
    case 2: layers(rest); break;
    default: documents(rest);
  }
  return 0;
}
