// Keys in PEM, private and public, and the secret of a private corpus: any bytes are refused with an error of ours or accepted;
// what is accepted is written as one text, which reads back, and a private key signs what its public key verifies.

#include <sys/stat.h>

#include "core/error.h"
#include "fuzz/fuzz_file.h"
#include "provenance/corpus_proof.h"
#include "provenance/keys.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  [[maybe_unused]] static const mode_t mask = umask(077);  // or a private file is refused before it is read
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const PublicKey key = PublicKey::from_pem(text, "key.pem");
    fuzz::require(PublicKey::from_pem(key.pem(), "again.pem") == key && key.hint().size() == 64);
    fuzz::require(!key.verify("message", text));
  } catch (const FormatError&) {
  }
  folder.put("key.pem", text);
  try {
    const Key key = Key::read(folder / "key.pem", [](const std::string&) { return std::optional<std::string>(); });
    fuzz::require(key.public_key().verify("message", key.sign("message")));
    folder.put("again.pem", key.private_pem());
    fuzz::require(Key::read(folder / "again.pem", {}).public_key() == key.public_key());
  } catch (const FormatError&) {
  } catch (const UsageError&) {  // encrypted
  }
  try {
    const CorpusSalt salt = CorpusSalt::read(folder / "key.pem");
    fuzz::require(size == 32 && salt.sorted_salt() == CorpusSalt::from_bytes(text, "salt").sorted_salt());
  } catch (const FormatError&) {
  }
  return 0;
}
