#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"
#include "provenance/claims.h"
#include "provenance/dsse.h"
#include "provenance/oms.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

TEST_CASE("the bytes signed are those of the DSSE specification's example") {
  // https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, "Test Vectors"
  CHECK(pre_authentication_encoding("http://example.com/HelloWorld", "hello world") ==
        "DSSEv1 29 http://example.com/HelloWorld 11 hello world");
}

TEST_CASE("base64 as in RFC 4648, section 10, and nothing else") {
  const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"}};
  for (const auto& [plain, coded] : vectors) {
    CHECK(base64_encode(plain) == coded);
    CHECK(base64_decode(coded, "memory") == plain);
  }
  for (const char* bad : {"Zg", "Zg=", "Zh==", "Zm9=", "====", "Zm9v\n", " Zm9v", "Zm9v    ", "Zm-_", "Z===", "Zg==Zg=="})
    CHECK_THROWS_AS(base64_decode(bad, "memory"), FormatError);
}

TEST_CASE("an envelope survives its JSON and refuses any other") {
  const Key key = Key::generate();
  const Envelope envelope = sign_envelope("type", "payload", key, "id");
  const Json json = envelope.to_json();
  const Envelope read = Envelope::from_json(json, "memory");
  CHECK(read.payload == "payload");
  CHECK(read.key_id == "id");
  CHECK(read.verify(key.public_key()));
  Envelope retyped = read;
  retyped.payload_type = "typf";
  CHECK_FALSE(retyped.verify(key.public_key()));

  Json broken = json;
  broken["signatures"].push_back(broken["signatures"][0]);
  CHECK_THROWS_AS(Envelope::from_json(broken, "memory"), FormatError);
  broken = json;
  broken["more"] = 1;
  CHECK_THROWS_AS(Envelope::from_json(broken, "memory"), FormatError);
  for (const Json& other : {Json(), Json(3), Json::array(), Json::object(), Json("text")})
    CHECK_THROWS_AS(Envelope::from_json(other, "memory"), FormatError);
}

TEST_CASE("claims are read line by line; a cut-off line is named with its offset") {
  TempFolder folder;
  const Key key = Key::generate();
  const fs::path file = folder / "claims.jsonl";
  append_claim(file, sign_envelope(kInTotoPayloadType, R"({"predicateType":"one"})", key, "k"));
  append_claim(file, sign_envelope(kInTotoPayloadType, R"({"predicateType":"two"})", key, "k"));
  const auto claims = read_claims(file);
  REQUIRE(claims.size() == 2);
  CHECK(find_claim(claims, "two", file)->payload == R"({"predicateType":"two"})");
  CHECK_FALSE(find_claim(claims, "three", file));

  const std::string text = read_file(file);
  const size_t second = text.find('\n') + 1;
  for (size_t cut = second + 1; cut < text.size(); cut += 7) {
    write_text(file, text.substr(0, cut));
    CHECK_THROWS_WITH(read_claims(file), Contains(std::to_string(second)));
  }
  write_text(file, text + "\n");
  CHECK_THROWS_AS(read_claims(file), FormatError);
}

TEST_CASE("names are ordered as Python orders paths") {
  CHECK(oms_name_less("a/b", "a-b"));
  CHECK(oms_name_less("a/b", "a.b"));
  CHECK(oms_name_less("a", "a/b"));
  CHECK(oms_name_less("b", "\xc3\xa4"));  // bytes are unsigned
  CHECK_FALSE(oms_name_less("a", "a"));
}

TEST_CASE("a bundle is read back; forged lists are refused") {
  const Key key = Key::generate(), other = Key::generate();
  const std::vector<FileRecord> files = {{"b", 1, sha256("b")}, {"a/c", 1, sha256("c")}};
  const std::string text = make_oms_bundle("model", files, key);
  const OmsManifest manifest = read_oms_bundle(text, "model.sig", &key.public_key());
  CHECK(manifest.signature_valid);
  CHECK(manifest.root == oms_root(files));
  CHECK(manifest.files[0].name == "a/c");
  CHECK_FALSE(read_oms_bundle(text, "model.sig", &other.public_key()).signature_valid);
  CHECK_FALSE(read_oms_bundle(text, "model.sig", nullptr).signature_valid);

  const Json bundle = Json::parse(text);
  const std::string payload = base64_decode(bundle["dsseEnvelope"]["payload"].get<std::string>(), "memory");
  const auto refused = [&](auto change) {
    Json statement = Json::parse(payload), forged = bundle;
    change(statement);
    forged["dsseEnvelope"] = sign_envelope(kInTotoPayloadType, statement.dump(), key, "").to_json();
    CHECK_THROWS_AS(read_oms_bundle(forged.dump(), "model.sig", &key.public_key()), FormatError);
  };
  refused([](Json& s) { s["predicate"]["resources"][0]["name"] = "../c"; });
  refused([](Json& s) { s["predicate"]["resources"][0]["name"] = "b"; });
  refused([](Json& s) { std::swap(s["predicate"]["resources"][0], s["predicate"]["resources"][1]); });
  refused([](Json& s) { s["predicate"]["resources"][0]["digest"] = sha256("x").hex(); });
  refused([](Json& s) { s["predicate"]["resources"][0]["algorithm"] = "blake3"; });
  refused([](Json& s) { s["predicate"]["serialization"]["method"] = "shards"; });
  refused([](Json& s) { s["subject"].push_back(s["subject"][0]); });
  refused([](Json& s) { s["predicateType"] = "https://model_signing/Digests/v0.1"; });
  refused([](Json& s) { s["_type"] = 1; });
  refused([](Json& s) { s["predicate"] = Json::array(); });
}

TEST_CASE("no prefix and no small damage of a bundle does worse than a format error") {
  const Key key = Key::generate();
  const std::string text = make_oms_bundle("model", {{"b", 1, sha256("b")}}, key);
  for (size_t size = 0; size < text.size(); ++size)
    CHECK_THROWS_AS(read_oms_bundle(text.substr(0, size), "model.sig", &key.public_key()), FormatError);
  CHECK_THROWS_AS(read_oms_bundle(std::string(100000, '['), "model.sig", nullptr), FormatError);
}
