// Audit records: any bytes are refused with a FormatError or accepted, and no unsigned content counts as signed.

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "provenance/audit_record.h"

using namespace overproof;

namespace {

std::optional<AuditRecord> read(std::string_view text, const PublicKey* trusted) {
  const fuzz::FuzzFile file(text);
  try {
    return read_audit_record(file.path(), trusted);
  } catch (const FormatError&) {
    return std::nullopt;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Key key = Key::generate();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto record = read(text, &key.public_key())) fuzz::require(!record->signature_valid);  // the key is random
  read(text, nullptr);
  // The input as what was signed: base64 hides it from mutation.
  const Envelope envelope = sign_envelope(kInTotoPayloadType, std::string(text), key, key.public_key().hint());
  if (const auto record = read(envelope.to_json().dump(), &key.public_key())) {
    fuzz::require(record->signature_valid && !record->subjects.empty() && !record->kind.empty());
    static const fuzz::FuzzFolder folder;
    write_audit_record(folder / "again.json", *record, key);
    const AuditRecord again = read_audit_record(folder / "again.json", &key.public_key());
    fuzz::require(again.signature_valid && again.kind == record->kind && again.result == record->result &&
                  again.subjects.size() == record->subjects.size());
  }
  return 0;
}
