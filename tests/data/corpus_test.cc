#include "data/corpus.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <fmt/format.h>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "data/commitment.h"
#include "data/corpus_stage.h"
#include "data/document_finder.h"
#include "data/private_corpus.h"
#include "formats/safetensors.h"
#include "provenance/merkle.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

namespace overproof {
namespace {

std::string text_of(int i) {
  std::string text = "document " + std::to_string(i) + ":";
  for (int w = 0; w < 20 + i % 7; ++w) text += " word" + std::to_string((w * 31 + i) % 50);
  return text + "\n";
}

/// 60 documents in two packages, one of them twice.
struct Source {
  TempFolder folder;
  Source() {
    set_progress_mode(ProgressMode::off);
    write_text(folder / "tok/tokenizer.json",
               write_tokenizer_json(small_bpe({{"w", "o"}, {"r", "d"}, {"wo", "rd"}, {"Ġ", "word"}})));
    write_text(folder / "src/alpha/copyright",
               "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
               "Files: *\nCopyright: A\nLicense: GPL-2+\n\nFiles: man2/doc1*\nCopyright: B\nLicense: BSD-3-clause\n");
    for (int i = 0; i < 40; ++i) write_text(folder / ("src/alpha/usr/man2/doc" + std::to_string(i) + ".2.txt"), text_of(i));
    for (int i = 40; i < 60; ++i) write_text(folder / ("src/beta/notes/doc" + std::to_string(i) + ".txt"), text_of(i));
    write_text(folder / "src/beta/notes/copy.txt", text_of(45));
    write_text(folder / "src/beta/notes/short.txt", "x");
  }
  StageReport run(const std::string& out, const CorpusConfig& config) const {
    fs::create_directories(folder / out);
    Outputs outputs(folder / out, folder / (out + ".scratch"));
    return run_corpus(config, Inputs({{"source", {folder / "src", {}}}, {"tokenizer", {folder / "tok", {}}}}), outputs);
  }
  static CorpusConfig config() {
    CorpusConfig config;
    config.held_out = 0.2;
    config.window_length = 16;
    return config;
  }
};

TEST_CASE("the corpus artifact holds every document once, with licence, tokens and text") {
  const Source source;
  const StageReport report = source.run("out", Source::config());
  const fs::path artifact = source.folder / "out";
  const Corpus corpus(artifact);
  const auto tokenizer = open_tokenizer(source.folder / "tok");
  REQUIRE(corpus.documents().size() == 60);
  CHECK(report.metrics()["duplicates"] == 1);
  CHECK(report.metrics()["too_short"] == 1);
  CHECK(report.metrics()["licenses"]["BSD-3-clause"]["documents"] == 11);  // doc1, doc10 ... doc19
  CHECK(report.metrics()["licenses"]["GPL-2+"]["documents"] == 29);
  CHECK(report.metrics()["licenses"]["unspecified"]["documents"] == 20);
  CHECK(corpus.tokenizer_probe() == tokenizer->probe());
  CHECK(corpus.vocab_size() == tokenizer->vocab_size());

  for (const Document& d : corpus.documents()) {
    const std::string text = document_text(artifact, d);
    CHECK(sha256(text) == d.digest);
    std::vector<int32_t> ids;
    tokenizer->encode(text, ids);
    REQUIRE(int64_t(ids.size()) + 1 == d.tokens);
    CHECK(&corpus.document_at(d.split, d.first_token) == &d);
    CHECK(&corpus.document_at(d.split, d.first_token + d.tokens - 1) == &d);
    CHECK(corpus.find(d.name) == &d);
    CHECK(corpus.find(d.digest.hex()) == &d);
    CHECK(corpus.find("sha256:" + d.digest.hex()) == &d);
  }
  CHECK(corpus.find("alpha/usr/man2/doc1.2")->license == "BSD-3-clause");
  CHECK(corpus.find("alpha/usr/man2/doc1.2")->license_rule == "path");
  CHECK(corpus.find("alpha/usr/man2/doc2.2")->license_rule == "package");
  CHECK(corpus.find("beta/notes/doc45") == nullptr);  // "copy" comes first and has the same text
  CHECK(corpus.find("unknown") == nullptr);
  CHECK(corpus.find(std::string(64, '0')) == nullptr);

  // The windows give back the stream: ids of the documents, each followed by the separator.
  for (const Split split : {Split::train, Split::held_out}) {
    std::vector<int64_t> stream;
    for (const Document& d : corpus.documents()) {
      if (d.split != split) continue;
      std::vector<int32_t> ids;
      tokenizer->encode(document_text(artifact, d), ids);
      stream.insert(stream.end(), ids.begin(), ids.end());
      stream.push_back(small_bpe({{"w", "o"}, {"r", "d"}, {"wo", "rd"}, {"Ġ", "word"}}).eos);
    }
    REQUIRE(int64_t(stream.size()) == corpus.tokens(split));
    REQUIRE(corpus.windows(split) == (corpus.tokens(split) - 1) / 16);
    std::vector<int64_t> window(17);
    for (int64_t w = 0; w < corpus.windows(split); ++w) {
      corpus.read_window(split, w, window);
      REQUIRE(std::equal(window.begin(), window.end(), stream.begin() + w * 16));
    }
  }
  int64_t visited = 0;
  for_each_text(artifact, [&](const Document& d, std::string_view text) {
    CHECK(sha256(text) == d.digest);
    ++visited;
  });
  CHECK(visited == 60);
}

TEST_CASE("the corpus commits to its table, and its index agrees with the table") {
  const Source source;
  const StageReport report = source.run("out", Source::config());
  const Corpus corpus(source.folder / "out");
  const CorpusCommitment commitment(source.folder / "out");
  const std::string table = read_file(source.folder / "out/documents.jsonl");
  CHECK(report.metrics()["documents_root"] == commitment.roots().documents.root.hex());
  CHECK(report.metrics()["sorted_root"] == commitment.roots().sorted.root.hex());
  std::vector<Digest> leaves;
  for (size_t i = 0; i < corpus.documents().size(); ++i) {
    const Document& d = corpus.documents()[i];
    leaves.push_back(merkle_leaf(d.digest));
    CHECK(commitment.index().find(d.digest) == int64_t(i));
    const TokenRange range = commitment.index().tokens(int64_t(i));
    CHECK(range.split == d.split);
    CHECK(range.first == d.first_token);
    CHECK(range.count == d.tokens);
    const auto [begin, end] = commitment.index().record(int64_t(i));
    REQUIRE(size_t(end) <= table.size());
    CHECK(parse_document(std::string_view(table).substr(size_t(begin), size_t(end - begin - 1)), "table", begin).name == d.name);
  }
  CHECK(commitment.roots().documents.root == merkle_root(leaves));
}

TEST_CASE("single documents are found as in memory, with an index and without") {
  const Source source;
  source.run("out", Source::config());
  const Corpus corpus(source.folder / "out");
  const auto same = [&] {
    const DocumentFinder finder(source.folder / "out");
    CHECK(finder.window_length() == corpus.window_length());
    for (const Split split : {Split::train, Split::held_out}) CHECK(finder.windows(split) == corpus.windows(split));
    for (const Document& d : corpus.documents())
      for (const std::string& way : {d.name, d.digest.hex(), "sha256:" + d.digest.hex()}) {
        const auto found = finder.find(way);
        REQUIRE(found);
        CHECK(found->name == d.name);
        CHECK(found->digest == d.digest);
        CHECK(found->first_token == d.first_token);
      }
    REQUIRE(finder.documents() == int64_t(corpus.documents().size()));
    for (int64_t i = 0; i < finder.documents(); ++i) {
      const Document& d = corpus.documents()[size_t(i)];
      CHECK(finder.document(i).name == d.name);
      CHECK(finder.tokens(i).split == d.split);
      CHECK(finder.tokens(i).first == d.first_token);
      CHECK(finder.tokens(i).count == d.tokens);
    }
    for (const Split split : {Split::train, Split::held_out})
      for (int64_t first = 0; first < corpus.tokens(split); first += 13) {
        const int64_t end = std::min(first + 90, corpus.tokens(split));
        std::vector<std::string> expected, found;
        for (const Document& d : corpus.documents())
          if (d.split == split && d.first_token < end && d.first_token + d.tokens > first) expected.push_back(d.name);
        for (const Document& d : finder.at(split, first, end)) found.push_back(d.name);
        REQUIRE(found == expected);
      }
    CHECK(finder.at(Split::train, 5, 5).empty());
    for (const std::string& unknown : {std::string("unknown"), std::string("doc1"), std::string(), std::string("MIT"),
                                       std::string(64, '0'), corpus.documents()[0].source})
      CHECK_FALSE(finder.find(unknown));
  };
  same();
  for (const char* name : {"commitment.json", "tiles.safetensors", "index.safetensors"}) fs::remove(source.folder / "out" / name);
  same();
}

TEST_CASE("an index that hides a document, or contradicts the table, is refused when it is used") {
  const Source source;
  source.run("out", Source::config());
  const Corpus corpus(source.folder / "out");
  TempFolder other;
  {
    OutputFolder out(other.path());
    CommitmentWriter writer(std::nullopt);
    const std::string table = read_file(source.folder / "out/documents.jsonl");
    int64_t record = 0, shorter = 1;
    for (size_t i = 0; i < corpus.documents().size(); ++i) {
      const Document& d = corpus.documents()[i];
      // The first is hidden behind another digest, the second has another length, and so has the next of its split.
      const bool taken = i > 1 && shorter > 0 && d.split == corpus.documents()[1].split;
      writer.add(i == 0 ? sha256("another") : d.digest, d.split, d.tokens + (i == 1) - taken, record);
      if (taken) shorter = 0;
      record = int64_t(table.find('\n', size_t(record))) + 1;
    }
    writer.finish(out, record);
  }
  for (const char* name : {"commitment.json", "tiles.safetensors", "index.safetensors"})
    fs::copy_file(other / name, source.folder / "out" / name, fs::copy_options::overwrite_existing);
  const DocumentFinder finder(source.folder / "out");
  CHECK_THROWS_AS(finder.find(corpus.documents()[0].digest.hex()), FormatError);
  CHECK_THROWS_AS(finder.find(corpus.documents()[1].digest.hex()), FormatError);
  CHECK_THROWS_AS(finder.find(sha256("another").hex()), FormatError);
  CHECK_THROWS_AS(finder.find(corpus.documents()[1].name), FormatError);
  CHECK_THROWS_AS(finder.document(0), FormatError);
  CHECK(finder.document(finder.documents() - 1).name == corpus.documents().back().name);
  const Document& longer = corpus.documents()[1];
  CHECK_THROWS_AS(finder.at(longer.split, longer.first_token, longer.first_token + longer.tokens), FormatError);
  // Streams whose length differs from the index are refused at once.
  {
    OutputFolder out(source.folder / "out");
    SafetensorsWriter writer(out, "tokens.safetensors", {{"train", DType::u16, {1}}, {"held_out", DType::u16, {1}}},
                             {{"window_length", "16"}});
    writer.append("abcd", 4);
    writer.close();
  }
  CHECK_THROWS_AS(DocumentFinder(source.folder / "out"), FormatError);
}

TEST_CASE("every file of a private corpus depends on its secret, which only its owner can read") {
  const Source source;
  source.run("open", Source::config());
  const fs::path salt = source.folder / "corpus.salt";
  CorpusSalt::create(salt);
  const auto run = [&](const std::string& out) {
    fs::create_directories(source.folder / out);
    Outputs outputs(source.folder / out, source.folder / (out + ".scratch"));
    run_corpus(
        Source::config(),
        Inputs({{"source", {source.folder / "src", {}}}, {"tokenizer", {source.folder / "tok", {}}}, {"salt", {salt, {}}}}),
        outputs);
  };
  run("private");
  run("again");
  for (const char* name : {"documents.jsonl", "tokens.safetensors", "texts/alpha.jsonl", "licenses.json", "commitment.json",
                           "tiles.safetensors", "index.safetensors"}) {
    CHECK(sha256_file(source.folder / "open" / name) != sha256_file(source.folder / "private" / name));
    CHECK(sha256_file(source.folder / "again" / name) == sha256_file(source.folder / "private" / name));
  }
  const CorpusCommitment commitment(source.folder / "private");
  const CorpusSalt secret = CorpusSalt::read(salt);
  const Corpus corpus(source.folder / "private");
  CHECK(corpus_batch_salt(source.folder / "private") == secret.batch_salt());
  CHECK_FALSE(corpus_batch_salt(source.folder / "open"));
  for (const Document& d : corpus.documents()) CHECK(commitment.prove(d.digest, CorpusTree::documents, &secret).present);
  CHECK_FALSE(commitment.prove(sha256("elsewhere"), CorpusTree::documents, &secret).present);
  fs::permissions(salt, fs::perms::others_read, fs::perm_options::add);
  CHECK_THROWS_AS(run("leaky"), ProvenanceError);
}

TEST_CASE("the corpus does not depend on the number of threads, and the split follows the digest") {
  const Source source;
  const int64_t before = thread_count();
  set_thread_count(1);
  source.run("one", Source::config());
  set_thread_count(4);
  source.run("four", Source::config());
  set_thread_count(before);
  for (const char* name : {"documents.jsonl", "tokens.safetensors", "licenses.json", "texts/alpha.jsonl", "texts/beta.jsonl",
                           "commitment.json", "tiles.safetensors", "index.safetensors"}) {
    CHECK(sha256_file(source.folder / "one" / name) == sha256_file(source.folder / "four" / name));
  }
  const Corpus corpus(source.folder / "one");
  int64_t held_out = 0;
  for (const Document& d : corpus.documents()) held_out += d.split == Split::held_out;
  CHECK(held_out > 2);
  CHECK(held_out < 30);
  // A larger fraction keeps what a smaller one held out.
  CorpusConfig more = Source::config();
  more.held_out = 0.5;
  source.run("more", more);
  const Corpus larger(source.folder / "more");
  for (const Document& d : corpus.documents()) {
    if (d.split == Split::held_out) CHECK(larger.find(d.digest.hex())->split == Split::held_out);
  }
}

TEST_CASE("a broken document stops the corpus by name, unless it may be skipped") {
  const Source source;
  write_text(source.folder / "src/beta/notes/broken.txt", std::string(100, 'a') + "\xff" + std::string(100, 'b'));
  try {
    source.run("out", Source::config());
    FAIL("a document that is not UTF-8 was taken");
  } catch (const FormatError& e) {
    CHECK(std::string(e.what()).find("broken.txt") != std::string::npos);
    CHECK(e.offset() == 100);
  }
  CorpusConfig config = Source::config();
  config.allow_broken = 1;
  const StageReport report = source.run("skipped", config);
  CHECK(report.metrics()["broken"][0]["name"] == "beta/notes/broken");
  CHECK(Corpus(source.folder / "skipped").documents().size() == 60);
  // A copyright file that a person wrote for people gives no licence, and does not end the corpus.
  write_text(source.folder / "src/beta/copyright", "no fields here\n");
  const StageReport free_form = source.run("other", config);
  CHECK(free_form.metrics()["licenses"]["unspecified"]["documents"] == 20);
  CHECK(std::ranges::any_of(free_form.summary, [](const std::string& s) { return s.find("1 copyright files") != std::string::npos; }));
}

/// The outcome of a table with these lines.
struct Table {
  Source source;
  CorpusConfig config = Source::config();
  Table() {
    fs::remove_all(source.folder / "src");
    config.min_bytes = 1;
  }
  StageReport run(const std::string& lines, const std::string& file = "src/documents.jsonl") {
    fs::remove_all(source.folder / "out");
    write_text(source.folder / file, lines);
    return source.run("out", config);
  }
  std::string fault(const std::string& lines) {
    try {
      run(lines);
    } catch (const FormatError& e) {
      return e.what();
    }
    return "";
  }
  Corpus corpus() const { return Corpus(source.folder / "out"); }
};

std::string record(const Json& more, int i) {
  Json all = {{"name", "n" + std::to_string(i)}, {"license", "MIT"}, {"source", "s"}, {"text", text_of(i)}};
  if (!more.is_null()) all.update(more);
  return all.dump();
}

TEST_CASE("a broken record is named by its line, and skipped where that is allowed") {
  Table table;
  const std::string good = record({}, 1), also = record({}, 2), surrogate = R"({"name":"b","license":"MIT","source":"s","text":"xx\udcb2"})";
  for (const std::string& bad :
       {surrogate, std::string("{\"text\":\"\xff\"}"), good.substr(0, 40), std::string("{\"a\":NaN,\"text\":\"t\"}"),
        std::string("{\"a\":1e999,\"text\":\"t\"}"), std::string("[1]"), std::string(R"({"name":"x","name":"y","text":"t"})"),
        std::string(R"({"name":"x","text":5})"), std::string(R"({"name":"x","license":5,"text":"t"})"),
        std::string(R"({"name":"","text":"t"})"), std::string(R"({"name":"a\u0000b","text":"t"})"),
        std::string(R"({"name":"https://e.org/a","license":"MIT","source":"s"})"), std::string(R"({"name":"c","messages":[]})"),
        std::string(R"({"license":"MIT"})"), record({}, 1)}) {
    INFO(bad);
    const std::string lines = good + "\n\n" + bad + "\n" + also + "\n";
    table.config.allow_broken = 0;
    const std::string fault = table.fault(lines);
    CHECK_THAT(fault, Catch::Contains("documents.jsonl") && Catch::Contains("line 3") && Catch::Contains("allow-broken"));
    CHECK(fault.size() < 1000);
    table.config.allow_broken = 1;
    const StageReport report = table.run(lines);
    CHECK(table.corpus().documents().size() == 2);
    REQUIRE(report.metrics()["broken"].size() == 1);
    CHECK(report.metrics()["broken"][0]["line"] == 3);
    CHECK_THAT(report.summary.back(), Catch::Contains("line 3"));
    CHECK_FALSE(table.fault(lines + bad + "\n").empty());  // one more than is allowed
  }
  table.config.allow_broken = 0;
  CHECK(table.fault(R"({"name":"b","text":")" + std::string(1 << 20, 'x') + R"(\udcb2"})").size() < 1000);
  CHECK_THAT(table.fault(good + "\n" + also + "\n" + good), Catch::Contains("line 3") && Catch::Contains("that of line 1"));
}

TEST_CASE("blank lines, line ends of other systems and a byte-order mark change nothing") {
  Table table;
  const std::string a = record({}, 1), b = record({}, 2);
  table.run(a + "\n" + b + "\n");
  const Digest wanted = sha256_file(table.source.folder / "out/tokens.safetensors"), names = sha256_file(table.source.folder / "out/documents.jsonl");
  for (const std::string& lines : {a + "\n\n" + b + "\n\n", "\n  \t\n" + a + "\n" + b, a + "\r\n\r\n" + b + "\r\n", "\xef\xbb\xbf" + a + "\n" + b}) {
    table.run(lines);
    CHECK(sha256_file(table.source.folder / "out/tokens.safetensors") == wanted);
    CHECK(sha256_file(table.source.folder / "out/documents.jsonl") == names);
  }
  CHECK_THAT(table.fault("\xff\xfe{\0"), Catch::Contains("UTF-16") && Catch::Contains("iconv"));
  CHECK_THAT(table.fault("[\n" + a + "\n]\n"), Catch::Contains("line 1") && Catch::Contains("one JSON object a line"));
}

TEST_CASE("where the text is in the record, a name is any text; of two sources, too, only one document has it") {
  Table table;
  std::string lines;
  const std::vector<std::string> names = {"https://e.org/a//b?x=1", "/abs/p", "a/../b", "a/", "C:\\x", "\xe5\x90\x8d", std::string(4000, 'n'), "a\nb"};
  for (size_t i = 0; i < names.size(); ++i) lines += record({{"name", names[i]}}, int(i)) + "\n";
  table.run(lines);
  for (const std::string& name : names) CHECK(table.corpus().find(name) != nullptr);
  CHECK_THAT(table.fault(record({{"name", "i"}, {"source", "a"}}, 1) + "\n" + record({{"name", "i"}, {"source", "b"}}, 2)),
             Catch::Contains("line 2") && Catch::Contains("that of line 1"));
}

TEST_CASE("what a record does not say is unspecified, and its name is its line") {
  Table table;
  for (const Json& absent : {Json{{"text", text_of(1)}}, Json{{"text", text_of(1)}, {"license", nullptr}, {"source", nullptr}},
                             Json{{"text", text_of(1)}, {"license", ""}, {"source", ""}}}) {
    table.run("\n" + absent.dump() + "\n");
    const Corpus corpus = table.corpus();
    REQUIRE(corpus.documents().size() == 1);
    const Document& d = corpus.documents()[0];
    CHECK(d.name == "documents.jsonl:2");
    CHECK(d.license == "unspecified");
    CHECK(d.source == "unspecified");
    CHECK(document_text(table.source.folder / "out", d) == text_of(1));
  }
}

TEST_CASE("own texts come in as a flat folder, as one file of records and as one text") {
  Table table;
  const fs::path src = table.source.folder / "src";
  for (const char* name : {"b.txt", "C.TXT", "d.md", "sub/e.txt", ".hidden.txt", ".git/f.txt", "g.csv", "README"})
    write_text(src / name, text_of(int(name[0])) + name);
  const StageReport report = table.source.run("out", table.config);
  std::set<std::string> names;
  const Corpus flat = table.corpus();
  for (const Document& d : flat.documents()) {
    names.insert(d.name);
    CHECK_FALSE(document_text(table.source.folder / "out", d).empty());
  }
  CHECK(names == std::set<std::string>{"b", "C.TXT", "d.md", "sub/e"});
  CHECK(flat.find("b")->source == "src");
  CHECK(flat.find("sub/e")->source == "sub");
  CHECK(std::ranges::any_of(report.summary, [](const std::string& s) { return s.find("passed over 2 files") != std::string::npos; }));

  const auto run_file = [&](const std::string& name) {
    fs::create_directories(table.source.folder / "one");
    Outputs outputs(table.source.folder / "one", table.source.folder / "one.scratch");
    run_corpus(table.config, Inputs({{"source", {table.source.folder / name, {}}}, {"tokenizer", {table.source.folder / "tok", {}}}}), outputs);
    return Corpus(table.source.folder / "one");
  };
  write_text(table.source.folder / "mine.jsonl", Json{{"text", text_of(3)}}.dump() + "\n");
  CHECK(run_file("mine.jsonl").documents().at(0).name == "mine.jsonl:1");
  write_text(table.source.folder / "book.rst", text_of(4));
  const Corpus book = run_file("book.rst");
  CHECK(book.documents().at(0).name == "book.rst");
  CHECK(book.documents().at(0).bytes == int64_t(text_of(4).size()));
}

TEST_CASE("a source of any name has a file for its texts that needs no escaping, and files of 0.1 are still found") {
  Table table;
  std::string seven, lines;
  for (int i = 0; i < 28; ++i) seven += "\xe7\xbb\xb4";
  const std::vector<std::string> sources = {seven, "https://e.org/" + std::string(300, 'a'), ".", "..", "a/b", "a%2Fb", "Ab", "aB", "ab", "my source", "q?x#y", "\xc3\xbc"};
  for (size_t i = 0; i < sources.size(); ++i) lines += record({{"name", std::to_string(i)}, {"source", sources[i]}}, int(i)) + "\n";
  table.run(lines);
  std::set<std::string> files;
  const std::string kPlain = "abcdefghijklmnopqrstuvwxyz0123456789._+-";
  for (const std::string& source : sources) {
    const std::string file = texts_file_name(source);
    CHECK(fs::is_regular_file(table.source.folder / "out" / file));
    CHECK(file.size() < 120);
    CHECK(file.substr(6).find_first_not_of(kPlain) == std::string::npos);
    CHECK(file[6] != '.');
    files.insert(file);
  }
  CHECK(files.size() == sources.size());
  CHECK(texts_file_name("libstdc++-12-doc") == "texts/libstdc++-12-doc.jsonl");
  CHECK(texts_file_name("ab") == "texts/ab.jsonl");

  table.run(record({{"source", "my source"}}, 1));
  fs::rename(table.source.folder / "out" / texts_file_name("my source"), table.source.folder / "out/texts/my%20source.jsonl");
  const Corpus earlier = table.corpus();
  CHECK(document_text(table.source.folder / "out", earlier.documents()[0]) == text_of(1));
}

TEST_CASE("a file whose name or text is in another encoding is broken, by a name that can be read") {
  Table table;
  const fs::path src = table.source.folder / "src";
  write_text(src / "pkg/good.txt", text_of(1));
  write_text(src / "pkg/caf\xe9.txt", text_of(2));
  CHECK_THROWS_WITH(table.source.run("out", table.config), Catch::Contains("caf\\xe9") && Catch::Contains("rename"));
  table.config.allow_broken = 1;
  const StageReport report = table.source.run("out", table.config);
  CHECK(report.metrics()["broken"][0]["name"] == "pkg/caf\\xe9");
  CHECK(table.corpus().documents().size() == 1);
  fs::remove(src / "pkg/caf\xe9.txt");
  table.config.allow_broken = 0;
  write_text(src / "pkg/utf16.txt", std::string("\xff\xfeh\0i\0", 6));
  CHECK_THROWS_WITH(table.source.run("u", table.config), Catch::Contains("UTF-16") && Catch::Contains("iconv"));
  fs::remove(src / "pkg/utf16.txt");
  write_text(src / "pkg/pointer.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n");
  CHECK_THROWS_WITH(table.source.run("p", table.config), Catch::Contains("Git LFS pointer"));
}

TEST_CASE("what is no text is named as what it is, with the way to texts") {
  using Catch::Contains;
  const std::string rest(300, 'x');
  for (const auto& [beginning, kind] : std::map<std::string, std::string>{{"PAR1", "a Parquet file"},
                                                                          {"ARROW1", "an Arrow file"},
                                                                          {"\x1f\x8b\x08", "compressed by gzip"},
                                                                          {"\x28\xb5\x2f\xfd", "compressed by zstd"},
                                                                          {"PK\3\4", "a ZIP archive"},
                                                                          {"%PDF-1.7\n", "a PDF file"}}) {
    CAPTURE(kind);
    Table table;
    write_text(table.source.folder / "src/pkg/doc.txt", beginning + rest);
    CHECK_THROWS_WITH(table.source.run("out", table.config), Contains("doc.txt") && Contains(kind) && Contains(".jsonl"));
    write_text(table.source.folder / "src/pkg/good.txt", text_of(1));
    table.config.allow_broken = 1;
    table.source.run("out", table.config);
    CHECK(table.corpus().documents().size() == 1);
  }
  // A record that holds such a text as a string is a text.
  Table text;
  text.run(Json{{"text", "PK\3\4" + rest}}.dump() + "\n");
  CHECK(text.corpus().documents().size() == 1);

  const auto refused = [](const std::string& file, const std::string& content, const std::string& source) {
    Table table;
    write_text(table.source.folder / "src" / file, content);
    fs::create_directories(table.source.folder / "out");
    Outputs outputs(table.source.folder / "out", table.source.folder / "out.scratch");
    try {
      run_corpus(table.config, Inputs({{"source", {table.source.folder / source, {}}}, {"tokenizer", {table.source.folder / "tok", {}}}}), outputs);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("was taken");
  };
  CHECK_THAT(refused("t.csv", "text\n" + rest, "src/t.csv"), Contains("a table in CSV") && Contains(".jsonl"));
  CHECK_THAT(refused("train.jsonl", Json{{"text", rest}}.dump() + "\n", "src"), Contains("it holds 'train.jsonl': give that file"));
  CHECK_THAT(refused("a.pdf", rest, "src"), Contains("it holds 'a.pdf'"));
  CHECK_THAT(refused("r.jsonl", Json{{"content", rest}, {"id", 1}}.dump() + "\n", "src/r.jsonl"),
             Contains("line 1") && Contains("neither 'text' nor a conversation") && Contains("its keys are: content, id"));
}

TEST_CASE("a corpus without a whole window says so when it is made") {
  Table table;
  table.config.held_out = 0;
  table.config.window_length = 1 << 16;
  const StageReport report = table.run(record({}, 1));
  for (const char* kind : {" training tokens are less than one window", " held-out tokens are less than one window"})
    CHECK(std::ranges::any_of(report.summary, [&](const std::string& s) { return s.find(kind) != std::string::npos; }));
  table.config.min_bytes = 4000;
  CHECK_THAT(table.fault(record({}, 1)), Catch::Contains("1 are shorter than min-bytes 4000"));
}

TEST_CASE("a generic folder brings its own table") {
  const Source source;
  fs::remove_all(source.folder / "src");
  write_text(source.folder / "src/a/one.txt", text_of(1));
  write_text(source.folder / "src/two.txt", text_of(2));
  write_text(source.folder / "src/documents.jsonl",
             "{\"name\": \"two.txt\", \"license\": \"CC0-1.0\", \"source\": \"../notes\"}\n"
             "{\"name\": \"a/one.txt\", \"license\": \"MIT\", \"source\": \"mail\"}\n");
  source.run("out", Source::config());
  const Corpus corpus(source.folder / "out");
  CHECK(corpus.find("two.txt")->license == "CC0-1.0");
  CHECK(corpus.find("two.txt")->license_rule == "given");
  CHECK(document_text(source.folder / "out", *corpus.find("two.txt")) == text_of(2));  // the source's name stays inside texts/
  // A text may be in the table itself: the same documents in either place.
  const auto record = [](const char* name, const char* license, const char* from, const Json& text) {
    return Json{{"name", name}, {"license", license}, {"source", from}, {"text", text}}.dump() + "\n";
  };
  write_text(source.folder / "src/documents.jsonl",
             record("two.txt", "CC0-1.0", "../notes", text_of(2)) +
                 "{\"name\": \"a/one.txt\", \"license\": \"MIT\", \"source\": \"mail\"}\n");
  source.run("in-table", Source::config());
  for (const std::string& name : {std::string("documents.jsonl"), std::string("tokens.safetensors"), std::string("licenses.json"),
                                  texts_file_name("../notes"), texts_file_name("mail")})
    CHECK(read_file(source.folder / "in-table" / name) == read_file(source.folder / "out" / name));
  write_text(source.folder / "src/documents.jsonl", record("two.txt", "CC0-1.0", "notes", text_of(2)) +
                                                        record("short", "MIT", "mail", "x") +
                                                        record("long", "MIT", "mail", std::string(5000, 'x')));
  CorpusConfig short_ones = Source::config();
  short_ones.max_bytes = 4000;
  const StageReport report = source.run("short", short_ones);
  CHECK(report.metrics()["too_short"] == 1);
  CHECK(report.metrics()["too_long"] == 1);
  write_text(source.folder / "src/documents.jsonl", record("two.txt", "CC0-1.0", "notes", 2));
  CHECK_THROWS_AS(source.run("no-text", Source::config()), FormatError);
  write_text(source.folder / "src/documents.jsonl", "{\"name\": \"../x\", \"license\": \"MIT\", \"source\": \"mail\"}\n");
  CHECK_THROWS_AS(source.run("bad", Source::config()), FormatError);
}

TEST_CASE("less may be taken of the texts: their beginnings, and a share that grows with the fraction asked for") {
  const Source source;
  fs::remove_all(source.folder / "src");
  std::string table;
  for (int i = 0; i < 200; ++i)
    table += Json{{"name", fmt::format("d{:03}", i)}, {"license", "MIT"}, {"source", "mail"}, {"text", text_of(i)}}.dump() + "\n";
  write_text(source.folder / "src/documents.jsonl", table);
  const auto names = [&](const char* out, double share) {
    CorpusConfig config = Source::config();
    config.source_share = share;
    const StageReport report = source.run(out, config);
    std::set<std::string> names;
    const Corpus corpus(source.folder / out);
    for (const Document& d : corpus.documents()) names.insert(d.name);
    CHECK(report.metrics()["not_taken"] == 200 - int64_t(names.size()));
    return names;
  };
  const auto few = names("few", 0.25), more = names("more", 0.5), all = names("all", 1);
  CHECK(all.size() == 200);
  CHECK((few.size() > 25 && few.size() < 80));
  CHECK((more.size() > 70 && more.size() < 130));
  CHECK(std::includes(more.begin(), more.end(), few.begin(), few.end()));

  // 3 bytes into "aé€" is inside of the third character: the cut is before it.
  write_text(source.folder / "src/documents.jsonl",
             Json{{"name", "cut"}, {"license", "MIT"}, {"source", "mail"}, {"text", "a\xC3\xA9\xE2\x82\xAC" " and more"}}.dump() + "\n" +
                 Json{{"name", "whole"}, {"license", "MIT"}, {"source", "mail"}, {"text", "abcd"}}.dump() + "\n");
  CorpusConfig config = Source::config();
  config.min_bytes = 0;
  config.cut_bytes = 4;
  source.run("cut", config);
  const Corpus cut(source.folder / "cut");
  CHECK(document_text(source.folder / "cut", *cut.find("cut")) == "a\xC3\xA9");
  CHECK(document_text(source.folder / "cut", *cut.find("whole")) == "abcd");
}

TEST_CASE("table and stream that disagree are refused") {
  const Source source;
  source.run("out", Source::config());
  const fs::path table = source.folder / "out/documents.jsonl";
  const std::string good = read_file(table);
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string bad = good;
    const size_t at = bad.find(from);
    REQUIRE(at != std::string::npos);
    bad.replace(at, from.size(), to);
    write_file_atomically(table, bad);
    try {
      const Corpus corpus(source.folder / "out");
    } catch (const FormatError&) {
      return true;
    }
    return false;
  };
  CHECK(refused("\"first_token\":0", "\"first_token\":1"));
  CHECK(refused("\"tokens\":", "\"tokens\":1"));
  CHECK(refused("\"split\":\"train\"", "\"split\":\"held_out\""));
  CHECK(refused("\"split\":\"train\"", "\"split\":\"test\""));
  CHECK(refused("\"digest\":\"", "\"digest\":\"0"));
  CHECK(refused("alpha/usr/man2/doc1.2", "alpha/usr/man2/doc2.2"));
  CHECK(refused(good.substr(0, good.find('\n') + 1), ""));
  CHECK(refused("{", "["));
  write_file_atomically(table, good);
  const Corpus corpus(source.folder / "out");
  const fs::path texts = source.folder / "out/texts/alpha.jsonl";
  std::string changed = read_file(texts);
  changed.replace(changed.find("word"), 4, "Word");
  write_file_atomically(texts, changed);
  CHECK_THROWS_AS(for_each_text(source.folder / "out", [](const Document&, std::string_view) {}), FormatError);
}

}  // namespace
}  // namespace overproof
