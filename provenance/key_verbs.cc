#include "provenance/key_verbs.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <chrono>

#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "core/real_path.h"
#include "provenance/digest_cache.h"
#include "provenance/signed_json.h"
#include "provenance/key_rotation.h"
#include "provenance/oms.h"

namespace overproof {
namespace {

constexpr int64_t kMostToReplace = int64_t{1} << 30;

Json facts_of(const PublicKey& key) {
  return {{"curve", curve_name(key.curve())}, {"hint", key.hint()}, {"public_key", key.pem()}};
}

/// A signature may replace a signature. Whatever else is there, a private key first of all, is not ours to destroy.
void require_replaceable(const fs::path& file, std::string_view option, std::string_view what, std::string_view member) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(file, error))) return;
  const std::string found = fs::is_regular_file(file, error) ? read_file(file, kMostToReplace) : "";
  if (!found.starts_with('{') || found.find(member) == std::string::npos)
    throw UsageError(fmt::format("{}: exists and is no {}, so {} does not overwrite it; name another file", file.string(), what, option));
}

/// A damaged cache is made anew. Any other file, a model or a key first of all, is not overwritten.
void require_cache(const fs::path& cache, const KeyOptions& keys, const fs::path& signature) {
  require_apart(cache, {{"key", is_key_uri(keys.key) ? fs::path() : fs::path(keys.key)},
                        {"key-passphrase-file", keys.key_passphrase_file},
                        {"public-key-of", keys.public_key_of},
                        {"signature", signature}});
  if (fs::exists(fs::symlink_status(cache)) && !may_be_digest_cache(cache))
    throw UsageError(fmt::format("{}: exists and is no cache of digests, so --cache does not overwrite it; name another file", cache.string()));
}

}  // namespace

Answer run_key_new(const NewKeyConfig& config) {
  const fs::path file = config.out.empty() ? default_key_path() : config.out;
  if (is_key_uri(file.string()))
    throw UsageError(fmt::format("{}: keys in tokens are made by the token's own tools", file.string()));
  std::error_code error;
  if (fs::exists(fs::symlink_status(file, error)))
    throw UsageError(
        fmt::format("{}: exists already; a key is never overwritten, because its signatures could no longer be renewed", file.string()));
  std::string passphrase;
  if (config.encrypt) {
    const PassphraseSource source =
        config.key_passphrase_file.empty() ? passphrase_from_user() : passphrase_from_file(config.key_passphrase_file);
    passphrase = new_passphrase(source, file.string());
  } else if (!config.key_passphrase_file.empty()) {
    throw UsageError("--key-passphrase-file needs --encrypt: without it the key is not encrypted");
  }
  const Key key = Key::generate(config.curve);
  std::string pem = key.private_pem(passphrase);
  OPENSSL_cleanse(passphrase.data(), passphrase.size());
  const bool created = create_key_file(file, pem);
  OPENSSL_cleanse(pem.data(), pem.size());
  if (!created) throw UsageError(fmt::format("{}: was made by another process in the meantime; it was not changed", file.string()));
  Json facts = facts_of(key.public_key());
  facts["out"] = file.string();
  facts["encrypted"] = config.encrypt;
  return {facts, fmt::format("{}: a {} key{}, hint {}\n{}", printable(file.string()), curve_name(key.public_key().curve()),
                             config.encrypt ? ", encrypted" : "", key.public_key().hint(), key.public_key().pem())};
}

Answer run_key_show(const ShowKeyConfig& config) {
  KeyOptions options = config.key;
  if (options.sign_with.empty()) {
    // Showing is no use of the key, so it makes none.
    const std::string file = options.key.empty() ? default_key_path().string() : options.key;
    if (!is_key_uri(file) && !fs::exists(file)) throw IoError(file, "cannot read the signing key", ENOENT);
    options.key = file;
  }
  const PublicKey key = open_key(options).public_key();
  return {facts_of(key),
          config.pem ? key.pem() : fmt::format("{} key, hint {}\n{}", curve_name(key.curve()), key.hint(), key.pem())};
}

Answer run_key_rotate(const RotateKeyConfig& config) {
  if (config.to.empty()) throw UsageError("key rotate: --to is missing (the new signing key)");
  if (config.out.empty()) throw UsageError("key rotate: --out is missing (file of the rotation)");
  KeyOptions old_options = config.key;
  if (old_options.sign_with.empty()) {
    const std::string file = old_options.key.empty() ? default_key_path().string() : old_options.key;
    if (!is_key_uri(file) && !fs::exists(file)) throw IoError(file, "cannot read the old signing key", ENOENT);
  }
  KeyOptions new_options;
  new_options.key = config.to;
  new_options.key_passphrase_file = config.to_passphrase_file;
  if (!is_key_uri(config.to) && !fs::exists(config.to)) throw IoError(config.to, "cannot read the new signing key", ENOENT);
  const Key from = open_key(old_options), to = open_key(new_options);
  require_replaceable(config.out, "--out", "rotation of a key", "\"payloadType\"");
  write_file_atomically(config.out, make_rotation(from, to));
  const std::string file = config.out.string();
  return {{{"out", file}, {"from", from.public_key().hint()}, {"to", to.public_key().hint()}},
          fmt::format("{}: from key {}\n{}  to key {}\n", printable(file), from.public_key().hint(),
                      std::string(file.size(), ' '), to.public_key().hint())};
}

Answer run_sign(const SignConfig& config, const fs::path& folder) {
  const auto started = std::chrono::steady_clock::now();
  if (config.trust_change_time && config.cache.empty())
    throw UsageError("--trust-change-time needs --cache, the file with the times");
  if (!fs::exists(folder)) throw IoError(folder, "cannot sign this folder", ENOENT);
  if (!fs::is_directory(folder)) throw UsageError(fmt::format("{}: is no folder; a model is signed as a folder", folder.string()));
  if (!config.cache.empty() && lies_within(config.cache, folder))
    throw UsageError(fmt::format("{}: is in the folder to be signed, and would be signed too; put it elsewhere",
                                 config.cache.string()));
  const fs::path signature = config.signature.empty() ? folder / kModelSignatureName : config.signature;
  if (!config.signature.empty() && lies_within(signature, folder) && real_path(signature) != real_path(folder / kModelSignatureName))
    throw UsageError(
        fmt::format("{}: in the folder itself a signature must be called {}, or it would be an unsigned file in it",
                    signature.string(), kModelSignatureName));
  std::error_code error;
  if (fs::exists(fs::symlink_status(folder / kClaimsName, error)))
    throw UsageError(fmt::format(
        "{}: is an artifact, whose lineage ({}) names its files as its stage made them; sign a copy without it, or let the "
        "stage run again",
        folder.string(), kClaimsName));
  require_replaceable(signature, config.signature.empty() ? "sign" : "--signature", "signature", "\"dsseEnvelope\"");
  if (!config.cache.empty()) require_cache(config.cache, config.key, signature);
  const Key key = open_key(config.key);

  StoredCache stored;
  std::string note;
  if (!config.cache.empty() && fs::exists(config.cache)) {
    try {
      stored = read_digest_cache(config.cache, key.public_key());
      if (config.trust_change_time && !stored.signed_by_key) note = "the cache is not signed by this key, so all files were read";
    } catch (const FormatError& e) {
      note = fmt::format("the cache was of no use and was made anew: {}", e.what());
    }
  }
  CachedScan scan;
  if (config.cache.empty()) {
    scan.record = scan_artifact(folder);
    for (const FileRecord& file : scan.record.files) scan.bytes += file.bytes;
    scan.bytes_hashed = scan.bytes;
  } else {
    scan = scan_with_cache(folder, stored.cache, config.trust_change_time && stored.signed_by_key);
  }
  const std::string name = !config.name.empty() ? config.name : real_path(folder).filename().string();
  write_file_atomically(signature, make_oms_bundle(name, scan.record.files, key, OmsRoomFor::signature_only));
  if (!config.cache.empty()) write_digest_cache(config.cache, scan.cache, key);

  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  Json facts = {{"signature", signature.string()},
                {"root", "sha256:" + scan.record.root.hex()},
                {"signer", key.public_key().hint()},
                {"files", scan.record.files.size()},
                {"bytes", scan.bytes},
                {"bytes_hashed", scan.bytes_hashed},
                {"bytes_in_row", scan.bytes_in_row},
                {"files_not_read", scan.files_not_read},
                {"seconds", seconds}};
  std::string text;
  if (!note.empty()) facts["note"] = note, text = fmt::format("note: {}\n", printable(note));
  text += fmt::format("{}: {} files, {:.1f} MB, sha256:{} in {:.2f} s\n", printable(signature.string()), scan.record.files.size(),
                      double(scan.bytes) / 1e6, scan.record.root.hex(), seconds);
  if (scan.files_not_read > 0)
    text += fmt::format("  {} files were not read: their times of change match the cache\n", scan.files_not_read);
  return {facts, text};
}

}  // namespace overproof
