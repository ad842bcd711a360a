#include "provenance/signed_note.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "core/error.h"
#include "core/private_file.h"
#include "provenance/dsse.h"

namespace overproof {
namespace {

constexpr std::string_view kDash = "\xe2\x80\x94 ";  // the em dash before every signature
constexpr std::string_view kPrivatePrefix = "PRIVATE+KEY+";
constexpr char kEd25519 = 1;
constexpr size_t kKeyBytes = 32, kSignatureBytes = 64, kIdBytes = 4;
constexpr size_t kMostNoteBytes = 1 << 20;
constexpr size_t kMostNameBytes = 256;
constexpr int64_t kMostKeyFileBytes = 4096;

using KeyPointer = std::shared_ptr<EVP_PKEY>;
using DigestContext = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

const unsigned char* bytes_of(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }

/// Printable ASCII without '+': the format allows more of Unicode, but nothing that a name needs.
bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kMostNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > 0x20 && c < 0x7f && c != '+'; });
}

uint32_t key_id(std::string_view name, std::string_view key) {
  Sha256 hash;
  hash.update(name);
  hash.update(std::string_view("\n\x01", 2));
  hash.update(key);
  const Digest digest = hash.finish();
  return uint32_t(digest.bytes[0]) << 24 | uint32_t(digest.bytes[1]) << 16 | uint32_t(digest.bytes[2]) << 8 | digest.bytes[3];
}

std::string id_bytes(uint32_t id) { return {char(id >> 24), char(id >> 16), char(id >> 8), char(id)}; }

std::string_view without_newline(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

/// NAME+ID+BASE64, whose ID is right for the public key that `public_key` makes of the 32 bytes.
struct KeyFields {
  std::string name, bytes;
  uint32_t id = 0;
};
KeyFields split_key(std::string_view text, const fs::path& origin) {
  const auto fail = [&](std::string_view cause) {
    throw FormatError(origin, -1, fmt::format("no note key (NAME+ID+KEY): {}", cause));
  };
  const size_t first = text.find('+'), second = first == std::string_view::npos ? first : text.find('+', first + 1);
  if (second == std::string_view::npos) fail("two '+' are missing");
  KeyFields fields;
  fields.name = text.substr(0, first);
  if (!is_name(fields.name)) fail("its name is empty, too long, or not of printable ASCII");
  const std::string_view id = text.substr(first + 1, second - first - 1);
  const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), fields.id, 16);
  if (error != std::errc() || end != id.data() + id.size() || fmt::format("{:08x}", fields.id) != id)
    fail("its ID is not 8 lower-case hex digits");
  const std::string decoded = base64_decode(text.substr(second + 1), origin);
  if (decoded.size() != 1 + kKeyBytes || decoded[0] != kEd25519) fail("it is no Ed25519 key");
  fields.bytes = decoded.substr(1);
  return fields;
}

std::string spell_key(std::string_view name, uint32_t id, std::string_view bytes) {
  return fmt::format("{}+{:08x}+{}", name, id, base64_encode(std::string(1, kEd25519).append(bytes)));
}

std::string public_key_of(EVP_PKEY* key) {
  std::string bytes(kKeyBytes, '\0');
  size_t size = bytes.size();
  OVERPROOF_CHECK(EVP_PKEY_get_raw_public_key(key, reinterpret_cast<unsigned char*>(bytes.data()), &size) == 1 &&
                  size == kKeyBytes);
  return bytes;
}

struct NoteParts {
  std::string_view text;
  std::vector<std::pair<std::string_view, std::string>> signatures;  // name; key ID and signature
};
NoteParts split_note(std::string_view note, const fs::path& origin) {
  const auto fail = [&](std::string_view cause) { throw FormatError(origin, -1, fmt::format("not a signed note: {}", cause)); };
  if (note.size() > kMostNoteBytes) fail("it is too large");
  if (std::any_of(note.begin(), note.end(), [](char c) { return uint8_t(c) < 0x20 && c != '\n'; }))
    fail("it holds control characters");
  const size_t blank = note.rfind("\n\n");
  if (blank == std::string_view::npos || !note.ends_with('\n')) fail("no signatures follow an empty line");
  NoteParts parts{note.substr(0, blank + 1), {}};
  std::string_view rest = note.substr(blank + 2);
  if (rest.empty()) fail("it has no signature");
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    if (!line.starts_with(kDash)) fail("a line of its signatures does not begin with an em dash");
    line.remove_prefix(kDash.size());
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || space == 0) fail("a signature has no name");
    parts.signatures.emplace_back(line.substr(0, space), base64_decode(line.substr(space + 1), origin));
    if (parts.signatures.back().second.size() <= kIdBytes) fail("a signature is too short");
  }
  return parts;
}

KeyPointer private_key(std::string_view seed) {
  KeyPointer key(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, bytes_of(seed), seed.size()), EVP_PKEY_free);
  OVERPROOF_CHECK(key);
  return key;
}

}  // namespace

NoteVerifier::NoteVerifier(std::string name, std::string_view key, const fs::path& origin)
    : name_(std::move(name)), key_(key), id_(key_id(name_, key)) {
  pkey_ = KeyPointer(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, bytes_of(key_), key_.size()), EVP_PKEY_free);
  if (!pkey_) {
    ERR_clear_error();
    throw FormatError(origin, -1, "no Ed25519 key");
  }
}

NoteVerifier NoteVerifier::parse(std::string_view text, const fs::path& origin) {
  const KeyFields fields = split_key(text, origin);
  NoteVerifier verifier(fields.name, fields.bytes, origin);
  if (verifier.id_ != fields.id)
    throw FormatError(origin, -1,
                      fmt::format("the note key's ID is {:08x}, but its name and key give {:08x}", fields.id, verifier.id_));
  return verifier;
}

NoteVerifier NoteVerifier::from_text_or_file(const std::string& text_or_file) {
  std::error_code error;
  if (fs::is_regular_file(text_or_file, error))
    return parse(without_newline(read_file(text_or_file, kMostKeyFileBytes)), text_or_file);
  if (text_or_file.find('+') == std::string::npos)
    throw UsageError(fmt::format("'{}' is neither a file nor a note key (NAME+ID+KEY)", text_or_file));
  return parse(text_or_file, "the note key");
}

std::string NoteVerifier::text() const { return spell_key(name_, id_, key_); }

bool NoteVerifier::verify(std::string_view message, std::string_view signature) const {
  DigestContext context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  OVERPROOF_CHECK(context && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, pkey_.get()) == 1);
  const int result = EVP_DigestVerify(context.get(), bytes_of(signature), signature.size(), bytes_of(message), message.size());
  ERR_clear_error();
  return result == 1;
}

NoteSigner::NoteSigner(std::string name, std::string seed, const fs::path& origin)
    : seed_(std::move(seed)), pkey_(private_key(seed_)), verifier_(std::move(name), public_key_of(pkey_.get()), origin) {}

NoteSigner NoteSigner::generate(const std::string& name) {
  std::string seed(kKeyBytes, '\0');
  if (RAND_priv_bytes(reinterpret_cast<unsigned char*>(seed.data()), int(seed.size())) != 1)
    throw ProvenanceError("cannot make a note key: the system gives no random bytes");
  const std::string chosen =
      name.empty() ? "overproof-" + sha256(public_key_of(private_key(seed).get())).hex().substr(0, 20) : name;
  if (!is_name(chosen))
    throw UsageError(fmt::format("'{}' cannot name a note key: use printable ASCII without spaces and '+'", chosen));
  return NoteSigner(chosen, seed, {});
}

NoteSigner NoteSigner::parse(std::string_view text, const fs::path& origin) {
  if (!text.starts_with(kPrivatePrefix)) throw FormatError(origin, -1, "no private note key (PRIVATE+KEY+NAME+ID+KEY)");
  const KeyFields fields = split_key(text.substr(kPrivatePrefix.size()), origin);
  NoteSigner signer(fields.name, fields.bytes, origin);
  if (signer.verifier_.id_ != fields.id) throw FormatError(origin, -1, "the note key's ID is not that of its name and key");
  return signer;
}

NoteSigner NoteSigner::load_or_create(const fs::path& file, const std::string& name) {
  if (!fs::exists(file)) create_private_file(file, generate(name).text() + "\n", "the note key");
  NoteSigner signer = parse(without_newline(read_private_file(file, kMostKeyFileBytes, "the note key")), file);
  if (!name.empty() && name != signer.verifier_.name())
    throw UsageError(
        fmt::format("{}: the note key is called '{}'; another name needs another key", file.string(), signer.verifier_.name()));
  fs::path shared = file;
  shared += ".pub";
  if (!fs::exists(shared)) write_file_atomically(shared, signer.verifier_.text() + "\n");
  return signer;
}

std::string NoteSigner::text() const { return std::string(kPrivatePrefix) + spell_key(verifier_.name_, verifier_.id_, seed_); }

std::string NoteSigner::sign(std::string_view message) const {
  DigestContext context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  std::string signature(kSignatureBytes, '\0');
  size_t size = signature.size();
  OVERPROOF_CHECK(context && EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, pkey_.get()) == 1);
  OVERPROOF_CHECK(EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size, bytes_of(message),
                                 message.size()) == 1 &&
                  size == kSignatureBytes);
  return signature;
}

std::string NoteSigner::sign_note(std::string_view text) const {
  OVERPROOF_CHECK(text.ends_with('\n'));
  return fmt::format("{}\n{}{} {}\n", text, kDash, verifier_.name_, base64_encode(id_bytes(verifier_.id_) + sign(text)));
}

fs::path note_key_path(const fs::path& signing_key) {
  fs::path file = signing_key;
  file += ".note";
  return file;
}

std::string unverified_note_text(std::string_view note, const fs::path& origin) {
  return std::string(split_note(note, origin).text);
}

std::optional<std::string> open_note(std::string_view note, const NoteVerifier& key, const fs::path& origin) {
  const NoteParts parts = split_note(note, origin);
  bool signed_by_key = false, forged = false;
  for (const auto& [name, signature] : parts.signatures) {
    if (name != key.name() || signature.substr(0, kIdBytes) != id_bytes(key.id())) continue;
    (key.verify(parts.text, std::string_view(signature).substr(kIdBytes)) ? signed_by_key : forged) = true;
  }
  if (!signed_by_key || forged) return std::nullopt;
  return std::string(parts.text);
}

std::string TreeHead::text() const {
  const std::string_view raw(reinterpret_cast<const char*>(root.bytes.data()), root.bytes.size());
  return fmt::format("{}\n{}\n{}\n", origin, size, base64_encode(raw));
}

TreeHead TreeHead::parse(std::string_view text, const fs::path& origin) {
  const auto fail = [&](std::string_view cause) { throw FormatError(origin, -1, fmt::format("not a checkpoint: {}", cause)); };
  std::vector<std::string_view> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos) fail("its last line does not end");
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  if (lines.size() != 3) fail(fmt::format("it has {} lines; origin, size and root are expected", lines.size()));
  TreeHead checkpoint;
  checkpoint.origin = lines[0];
  if (checkpoint.origin.empty()) fail("its origin is empty");
  const auto [end, error] = std::from_chars(lines[1].data(), lines[1].data() + lines[1].size(), checkpoint.size);
  if (error != std::errc() || end != lines[1].data() + lines[1].size() || checkpoint.size < 0 ||
      std::to_string(checkpoint.size) != lines[1])
    fail("its size is no whole number");
  const std::string root = base64_decode(lines[2], origin);
  if (root.size() != checkpoint.root.bytes.size()) fail("its root is no SHA-256");
  std::copy(root.begin(), root.end(), reinterpret_cast<char*>(checkpoint.root.bytes.data()));
  return checkpoint;
}

}  // namespace overproof
