#include "provenance/audit_record.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "provenance/artifact.h"
#include "provenance/run_folder.h"
#include "tests/support.h"

using namespace overproof;

TEST_CASE("an audit record comes back as it was signed, and not otherwise") {
  const TempFolder folder;
  const Key key = Key::generate(), other = Key::generate();
  const fs::path file = folder / "audits" / "replay-student.json";
  AuditRecord record;
  record.kind = "replay";
  record.subjects = {{"student", sha256(std::string_view("a")), sha256(std::string_view("s"))},
                     {"suspect", sha256(std::string_view("b"))}};
  record.result = {{"segments", 3}};
  write_audit_record(file, record, key);

  SECTION("by the key it names") {
    const AuditRecord back = read_audit_record(file, nullptr);
    CHECK(back.signature_valid);
    CHECK(back.kind == "replay");
    CHECK(back.format == 2);
    REQUIRE(back.subjects.size() == 2);
    CHECK(back.subjects[0].root == record.subjects[0].root);
    CHECK(back.subjects[0].statement == record.subjects[0].statement);
    CHECK_FALSE(back.subjects[1].statement);
    CHECK(back.result == record.result);
    CHECK(audit_record_files(folder / "audits") == std::vector{file});
    CHECK(audit_record_files(folder / "none").empty());
  }
  SECTION("another key does not vouch for it") {
    const PublicKey& stranger = other.public_key();
    CHECK_FALSE(read_audit_record(file, &stranger).signature_valid);
  }
  SECTION("a changed result breaks the signature") {
    Json envelope = read_json(file);
    std::string payload = base64_decode(envelope["payload"].get<std::string>(), file);
    payload.replace(payload.find("\"segments\":3"), 12, "\"segments\":4");
    envelope["payload"] = base64_encode(payload);
    write_file_atomically(file, envelope.dump());
    CHECK_FALSE(read_audit_record(file, nullptr).signature_valid);
  }
  SECTION("what is cut off is refused") {
    const std::string text = read_file(file);
    for (size_t n = 0; n + 2 < text.size(); n += 37) {
      write_file_atomically(file, text.substr(0, n));
      CHECK_THROWS_AS(read_audit_record(file, nullptr), FormatError);
    }
  }
  SECTION("it belongs to the run of what was examined, and a lone model has none") {
    write_text(folder / "run/student/weights", "w");
    write_text(folder / "lone/weights", "w");
    Lineage lineage;
    lineage.kind = "imported";
    lineage.stage = "import";
    lineage.name = "student";
    seal_artifact(folder / "run/student", scan_artifact(folder / "run/student").files, lineage, key);
    const fs::path wanted = fs::canonical(folder.path()) / "run/audits/rows-x.json";
    CHECK(audit_record_path(folder / "run", "rows", "x") == wanted);
    CHECK(audit_record_path(folder / "run/student", "rows", "x") == wanted);
    for (const char* place : {"lone", "lone/weights", "none"})
      CHECK_THROWS_AS(audit_record_path(folder / place, "rows", "x"), UsageError);
    REQUIRE(create_key_file(folder / "key.pem", key.private_pem()));
    const RecordOptions options{true, {.key = (folder / "key.pem").string()}};
    CHECK_THROWS_AS(AuditRecorder(options, folder / "lone"), UsageError);  // before any work
    AuditRecorder(options, folder / "run/student").write("x", record);
    CHECK(read_audit_record(folder / "run/audits/replay-x.json", &key.public_key()).signature_valid);
    AuditRecorder({false, {.key = "is not read"}}, folder / "lone").write("x", record);
    CHECK_FALSE(fs::exists(folder / "lone/audits"));
  }
  SECTION("it is about one statement of the same files, and no other") {
    write_text(folder / "run/student/weights", "w");
    Lineage lineage;
    lineage.kind = "imported";
    lineage.stage = "import";
    lineage.name = "student";
    const auto files = scan_artifact(folder / "run/student").files;
    seal_artifact(folder / "run/student", files, lineage, key);
    const AuditSubject subject = audit_subject(folder / "run/student");
    REQUIRE(subject.statement);
    std::string why;
    RunFolder run = load_run(folder / "run", VerifyFiles::no, nullptr);
    CHECK(examined_artifact(run, subject, why) == run.find("student"));
    CHECK(examined_artifact(run, {"student", subject.root}, why) == nullptr);
    CHECK_THAT(why, Catch::Contains("format 1"));
    lineage.config["license"] = "MIT";
    seal_artifact(folder / "run/student", files, lineage, key);
    run = load_run(folder / "run", VerifyFiles::no, nullptr);
    CHECK(examined_artifact(run, subject, why) == nullptr);
    CHECK_THAT(why, Catch::Contains("signed anew"));
    CHECK(examined_artifact(run, {"student", sha256(std::string_view("x")), subject.statement}, why) == nullptr);
    CHECK_THAT(why, Catch::Contains("is not here"));
  }
  SECTION("kinds are safe words") {
    record.kind = "../x";
    CHECK_THROWS_AS(write_audit_record(file, record, key), std::logic_error);
  }
}
