#include "data/suffix_array.h"

#include <catch2/catch.hpp>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/rng.h"
#include "data/corpus_stage.h"
#include "data/index_stage.h"
#include "data/span_index.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

namespace overproof {
namespace {

/// Words of a small language: many repeats, so that suffixes share long beginnings.
std::string some_text(uint64_t seed, size_t words) {
  static const std::vector<std::string> kWords = {"the", "cat", "sat", "on", "a", "mat", "café", "漢字", "x", "the"};
  static const std::vector<std::string> kGaps = {" ", " ", " ", ", ", ".\n", "-"};
  Rng rng(seed, "suffix test");
  std::string text;
  for (size_t i = 0; i < words; ++i) {  // one draw after the other: compilers differ in the order of operands
    text += kWords[rng.below(kWords.size())];
    text += kGaps[rng.below(kGaps.size())];
  }
  return text;
}

/// By trying every start of a word: the expected result of longest_match.
size_t longest_by_trying(std::string_view text, const Words& words, std::string_view pattern) {
  size_t longest = 0;
  for (const int64_t begin : words.begins) {
    size_t n = 0;
    while (n < pattern.size() && size_t(begin) + n < text.size() && text[size_t(begin) + n] == pattern[n]) ++n;
    longest = std::max(longest, n);
  }
  return longest;
}

int64_t count_by_trying(std::string_view text, const Words& words, std::string_view pattern) {
  return std::count_if(words.begins.begin(), words.begins.end(),
                       [&](int64_t b) { return text.substr(size_t(b)).starts_with(pattern); });
}

using WordSpan = std::pair<int64_t, int64_t>;

/// By trying: for each word, the most words that are anywhere in a document at a word's beginning.
std::vector<WordSpan> spans_by_trying(const std::vector<std::string>& texts, std::string_view query, int64_t min_words,
                                      int64_t min_bytes) {
  const Words words = words_of(query);
  std::vector<WordSpan> expected;
  int64_t reached = 0;
  for (size_t w = 0; w < words.begins.size(); ++w) {
    const std::string_view pattern = query.substr(size_t(words.begins[w]));
    size_t longest = 0;
    for (const std::string& text : texts) longest = std::max(longest, longest_by_trying(text, words_of(text), pattern));
    auto last = int64_t(w);
    while (last < int64_t(words.ends.size()) && size_t(words.ends[size_t(last)] - words.begins[w]) <= longest) ++last;
    if (last <= std::max(reached, int64_t(w))) continue;
    reached = last;
    if (last - int64_t(w) >= min_words && words.ends[size_t(last) - 1] - words.begins[w] >= min_bytes)
      expected.emplace_back(w, last);
  }
  return expected;
}

struct IndexedCorpus {
  TempFolder folder;
  std::vector<std::string> texts;  // in the order of the table
  IndexedCorpus(std::vector<std::string> documents, int64_t shard_bytes) : texts(std::move(documents)) {
    set_progress_mode(ProgressMode::off);
    write_text(folder / "tok/tokenizer.json", write_tokenizer_json(small_bpe({{"t", "h"}, {"th", "e"}})));
    std::string table;
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::string name = std::string(1, char('a' + i / 26)) + char('a' + i % 26) + ".txt";
      write_text(folder / ("src/" + name), texts[i]);
      table += Json{{"name", name}, {"license", "CC0-1.0"}, {"source", "tests"}}.dump() + "\n";
    }
    write_text(folder / "src/documents.jsonl", table);
    fs::create_directories(folder / "corpus");
    Outputs outputs(folder / "corpus", folder / "corpus.scratch");
    CorpusConfig config;
    config.min_bytes = 1;
    run_corpus(config, Inputs({{"source", {folder / "src", {}}}, {"tokenizer", {folder / "tok", {}}}}), outputs);
    index("index", shard_bytes);
  }
  StageReport index(const std::string& name, int64_t shard_bytes) const {
    fs::create_directories(folder / name);
    Outputs outputs(folder / name, folder / (name + ".scratch"));
    IndexConfig config;
    config.shard_bytes = shard_bytes;
    return run_index(config, Inputs({{"corpus", {folder / "corpus", sha256("corpus")}}}), outputs);
  }
};

}  // namespace

TEST_CASE("words are runs of word characters, and each character where there are no spaces") {
  const std::string text = "It's café_1, 漢字x!";
  const Words words = words_of(text);
  std::vector<std::string> found;
  for (size_t i = 0; i < words.begins.size(); ++i)
    found.push_back(text.substr(size_t(words.begins[i]), size_t(words.ends[i] - words.begins[i])));
  CHECK(found == std::vector<std::string>{"It", "s", "café_1", "漢", "字", "x"});
  CHECK(words_of("").begins.empty());
  CHECK(words_of(" \xff\xff ").begins.empty());
  CHECK(words_of("a\xff"
                 "b")
            .begins == std::vector<int64_t>{0, 2});
}

TEST_CASE("suffixes are sorted by their bytes, and begin with words") {
  const std::string text = some_text(1, 600) + "\xff" + some_text(2, 300) + "\xff";
  const std::vector<uint32_t> sorted = sort_word_suffixes(text);
  const Words words = words_of(text);
  CHECK(std::set<int64_t>(sorted.begin(), sorted.end()) == std::set<int64_t>(words.begins.begin(), words.begins.end()));
  REQUIRE(sorted.size() == words.begins.size());
  for (size_t i = 1; i < sorted.size(); ++i)
    REQUIRE(std::string_view(text).substr(sorted[i - 1]) < std::string_view(text).substr(sorted[i]));
  CHECK(sort_word_suffixes("").empty());
  CHECK(sort_word_suffixes(" ,. ").empty());
}

TEST_CASE("longest matches and ranges are those that trying every word finds") {
  const std::string text = some_text(3, 500) + "\xff" + some_text(4, 500) + "\xff";
  const std::vector<uint32_t> sorted = sort_word_suffixes(text);
  const SuffixArray array(sorted, text, "test");
  const Words words = words_of(text);
  const std::string query = some_text(5, 60) + text.substr(size_t(words.begins[100]), 200) + "zebra";
  for (const int64_t begin : words_of(query).begins) {
    const std::string_view pattern = std::string_view(query).substr(size_t(begin));
    const int64_t longest = array.longest_match(pattern);
    REQUIRE(size_t(longest) == longest_by_trying(text, words, pattern));
    for (const int64_t length : {int64_t{1}, longest / 2, longest, longest + 1}) {
      if (length < 1) continue;
      const SuffixArray::Range range = array.find(pattern.substr(0, size_t(length)));
      REQUIRE(range.last - range.first == count_by_trying(text, words, pattern.substr(0, size_t(length))));
      for (int64_t place = range.first; place < range.last; ++place)
        REQUIRE(std::string_view(text).substr(size_t(array.position(place))).starts_with(pattern.substr(0, size_t(length))));
    }
  }
  const std::vector<uint32_t> beyond = {uint32_t(text.size())};
  CHECK_THROWS_AS(SuffixArray(beyond, text, "test").longest_match("the"), FormatError);
}

TEST_CASE("spans are maximal, whole, counted exactly, and do not hang on shards or threads") {
  std::vector<std::string> texts;
  for (uint64_t i = 0; i < 30; ++i) texts.push_back(some_text(100 + i, 40 + 10 * (i % 5)));
  const std::string shared = "A passage that two documents hold, word for word, and no others.";
  texts[3] += shared + "\n";
  texts[17] = shared + " " + texts[17];
  const IndexedCorpus c(texts, 1024);
  const SpanIndex index(c.folder / "index");
  REQUIRE(index.shards() > 5);
  REQUIRE(index.documents() == 30);
  CHECK(index.corpus_root() == sha256("corpus"));
  for (int64_t d = 0; d < 30; ++d) CHECK(index.text_of(d) == c.texts[size_t(d)]);

  std::string query =
      "It is written: " + shared + " Zebras, " + some_text(999, 200) + texts[8].substr(0, texts[8].find(' ', 150)) + "unheard of";
  SpanQuery options;
  options.min_words = 3;
  options.min_bytes = 8;
  options.max_documents = 1000;
  const std::vector<MatchedSpan> spans = index.find(query, options);

  const Words words = words_of(query);
  const std::vector<WordSpan> expected = spans_by_trying(texts, query, 3, 8);
  REQUIRE(spans.size() == expected.size());
  for (size_t i = 0; i < spans.size(); ++i) {
    const MatchedSpan& span = spans[i];
    CHECK(span.begin == words.begins[size_t(expected[i].first)]);
    CHECK(span.end == words.ends[size_t(expected[i].second) - 1]);
    CHECK(span.words == expected[i].second - expected[i].first);
    const std::string passage = query.substr(size_t(span.begin), size_t(span.end - span.begin));
    int64_t occurrences = 0;
    std::vector<int64_t> holders;
    for (size_t d = 0; d < texts.size(); ++d)
      if (const int64_t n = count_by_trying(texts[d], words_of(texts[d]), passage))
        occurrences += n, holders.push_back(int64_t(d));
    CHECK(span.occurrences == occurrences);
    CHECK_FALSE(span.more_documents);
    REQUIRE(span.hits.size() == holders.size());
    for (size_t h = 0; h < holders.size(); ++h) {
      CHECK(span.hits[h].document == holders[h]);
      CHECK(index.text_of(holders[h]).substr(size_t(span.hits[h].byte)).starts_with(passage));
    }
  }
  const auto planted = std::find_if(spans.begin(), spans.end(), [&](const MatchedSpan& s) {
    return query.substr(size_t(s.begin)).starts_with("A passage that two");
  });
  REQUIRE(planted != spans.end());
  CHECK(planted->hits.size() == 2);

  // One shard, one thread, one document listed: the same spans.
  c.index("whole", 1 << 20);
  const SpanIndex whole(c.folder / "whole");
  REQUIRE(whole.shards() == 1);
  options.max_documents = 1;
  set_thread_count(1);
  const std::vector<MatchedSpan> again = whole.find(query, options);
  set_thread_count(0);
  REQUIRE(again.size() == spans.size());
  for (size_t i = 0; i < spans.size(); ++i) {
    CHECK(again[i].begin == spans[i].begin);
    CHECK(again[i].end == spans[i].end);
    CHECK(again[i].occurrences == spans[i].occurrences);
    CHECK(again[i].hits.size() == 1);
    CHECK(again[i].more_documents == (spans[i].hits.size() > 1));
  }
}

TEST_CASE("no span is missed, however long the spans that are asked for and the text between them") {
  std::vector<std::string> texts;
  for (uint64_t i = 0; i < 6; ++i) texts.push_back(some_text(200 + i, 150));
  const IndexedCorpus c(texts, 2048);
  const SpanIndex index(c.folder / "index");
  // Pieces of all lengths at all distances, and some that overlap in the corpus.
  std::string query;
  Rng rng(7, "pieces");
  for (int piece = 0; piece < 60; ++piece) {
    const std::string& text = texts[rng.below(texts.size())];
    const Words words = words_of(text);
    const size_t first = rng.below(words.begins.size() - 41), last = first + rng.below(40);
    query += text.substr(size_t(words.begins[first]), size_t(words.ends[last] - words.begins[first])) + " ";
    for (uint64_t n = rng.below(20) * rng.below(2) * rng.below(5); n > 0; --n) query += n % 3 ? "zebra " : "the cat ";
  }
  const Words words = words_of(query);
  size_t found = 0;
  for (const auto& [min_words, min_bytes] : {std::pair{1, 1}, {2, 1}, {5, 1}, {8, 32}, {1, 60}, {17, 100}, {64, 1}, {1000, 1}}) {
    SpanQuery options;
    options.min_words = min_words;
    options.min_bytes = min_bytes;
    std::vector<WordSpan> expected = spans_by_trying(texts, query, min_words, min_bytes), spans;
    for (const MatchedSpan& s : index.find(query, options)) {
      const int64_t first = std::ranges::lower_bound(words.begins, s.begin) - words.begins.begin();
      REQUIRE(words.begins[size_t(first)] == s.begin);
      REQUIRE(words.ends[size_t(first + s.words) - 1] == s.end);
      spans.emplace_back(first, first + s.words);
    }
    INFO(min_words << " words, " << min_bytes << " bytes");
    CHECK(spans == expected);
    found += expected.size();
  }
  CHECK(found > 200);
}

TEST_CASE("a whole document is one span, and no span crosses from one into the next") {
  const std::vector<std::string> texts = {some_text(1, 3000), "one two three four", "five six seven eight nine"};
  const IndexedCorpus c(texts, 1 << 20);
  const SpanIndex index(c.folder / "index");
  const std::vector<MatchedSpan> spans = index.find(texts[0], {});
  REQUIRE(spans.size() == 1);
  CHECK(spans[0].words == int64_t(words_of(texts[0]).begins.size()));
  SpanQuery options;
  options.min_words = options.min_bytes = 1;
  std::vector<std::string> found;
  for (const MatchedSpan& s : index.find("two three four five six", options))
    found.push_back(std::string("two three four five six").substr(size_t(s.begin), size_t(s.end - s.begin)));
  CHECK(found == std::vector<std::string>{"two three four", "five six"});
  // A word of the text that only begins a longer one of the corpus is not matched beyond its end; parts of words are
  // not starts.
  CHECK(index.find("wo three", options).size() == 1);
  CHECK_THROWS_AS(index.find("\xff", options), UsageError);
  CHECK_THROWS_AS(index.find(std::string(size_t(kLongestQuery) + 1, 'a'), options), UsageError);
  CHECK(index.find("", options).empty());
}

TEST_CASE("an index whose files do not belong together is refused") {
  const IndexedCorpus c({some_text(1, 300), some_text(2, 300), some_text(3, 300)}, 1024);
  const fs::path folder = c.folder / "index";
  REQUIRE(SpanIndex(folder).shards() > 1);
  fs::copy_file(folder / shard_file_name(0), folder / shard_file_name(1), fs::copy_options::overwrite_existing);
  CHECK_THROWS_AS(SpanIndex(folder), FormatError);
  fs::remove(folder / shard_file_name(1));
  CHECK_THROWS_AS(SpanIndex(folder), IoError);
  // A later format version than this program knows.
  {
    const IndexedCorpus later({some_text(1, 300)}, 1 << 20);
    const SafetensorsFile table(later.folder / "index/documents.safetensors");
    REQUIRE(table.metadata().at("format_version") == "1");
    Metadata metadata = table.metadata();
    metadata["format_version"] = "2";
    OutputFolder out(later.folder / "later");
    fs::create_directories(out.path());
    fs::copy_file(later.folder / "index" / shard_file_name(0), out.path() / shard_file_name(0));
    SafetensorsWriter writer(out, "documents.safetensors", {table.info("first_byte"), table.info("record_offset")}, metadata);
    for (const char* name : {"first_byte", "record_offset"}) writer.append(table.bytes(name).data(), table.bytes(name).size());
    writer.close();
    CHECK_THROWS_WITH(SpanIndex(out.path()), Catch::Contains("later format version"));
  }
  // A table in any order is met where it is used.
  const IndexedCorpus d({some_text(1, 300), some_text(2, 300)}, 1 << 20);
  {
    OutputFolder out(d.folder / "index");
    const int64_t bytes = int64_t(d.texts[0].size() + d.texts[1].size() + 2);
    const std::vector<int64_t> first = {0, bytes * 2, bytes}, offsets = {0, 0};
    SafetensorsWriter writer(out, "documents.safetensors", {{"first_byte", DType::i64, {3}}, {"record_offset", DType::i64, {2}}},
                             {{"corpus_root", sha256("corpus").hex()}, {"shards", "1"}});
    writer.append(first.data(), first.size() * 8);
    writer.append(offsets.data(), offsets.size() * 8);
    writer.close();
  }
  const SpanIndex lying(d.folder / "index");
  CHECK_THROWS_AS(lying.text_of(1), FormatError);
  CHECK_THROWS_AS(lying.text_of(0), FormatError);
}

}  // namespace overproof
