#include "data/bpe.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <thread>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/rng.h"
#include "data/added_tokens.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

namespace overproof {
namespace {

std::vector<std::string> pieces(const Tokenizer& tokenizer, std::string_view text, bool parse_special = false) {
  std::vector<int32_t> ids;
  tokenizer.encode(text, ids, parse_special);
  std::vector<std::string> out;
  for (int32_t id : ids) out.push_back(tokenizer.token_text(id));
  return out;
}
using Pieces = std::vector<std::string>;

TEST_CASE("merges are taken by rank, then from the left") {
  const BpeTokenizer t(small_bpe({{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"a", "a"}}), "test");
  CHECK(pieces(t, "abc") == Pieces{"abc"});  // "bc" first, although "ab" is further left
  CHECK(pieces(t, "aaa") == Pieces{"aa", "a"});
  CHECK(pieces(t, "aab") == Pieces{"a", "ab"});  // rank of "ab" is lower than that of "aa"
  CHECK(pieces(t, "a bc") == Pieces{"a", "Ġ", "bc"});
  CHECK(pieces(t, "").empty());
}

TEST_CASE("the heap gives what the textbook loop gives, also on long words") {
  // The reference: find the lowest-ranked pair, leftmost, merge it, again; quadratic.
  const std::vector<std::pair<std::string, std::string>> merges{{"a", "b"},   {"b", "a"},    {"ab", "a"}, {"a", "a"},
                                                                {"ab", "ab"}, {"aba", "b"},  {"c", "c"},  {"cc", "cc"},
                                                                {"c", "ab"},  {"abab", "aa"}};
  const BpeTokenizer t(small_bpe(merges), "test");
  Rng rng(1, "bpe test");
  for (int round = 0; round < 300; ++round) {
    std::string word;
    for (uint64_t n = 1 + rng.below(60); word.size() < n;) word += char('a' + rng.below(3));
    Pieces expected;
    for (char c : word) expected.emplace_back(1, c);
    for (;;) {
      size_t best = merges.size(), at = 0;
      for (size_t i = 0; i + 1 < expected.size(); ++i) {
        for (size_t rank = 0; rank < best; ++rank) {
          if (expected[i] == merges[rank].first && expected[i + 1] == merges[rank].second) best = rank, at = i;
        }
      }
      if (best == merges.size()) break;
      expected[at] += expected[at + 1];
      expected.erase(expected.begin() + int64_t(at) + 1);
    }
    CAPTURE(word);
    REQUIRE(pieces(t, word) == expected);
  }
  std::vector<int32_t> ids;
  t.encode(std::string(2'000'000, 'c'), ids);  // quadratic time would not end
  CHECK(ids.size() == 500'000);
}

TEST_CASE("added tokens: special ones on demand, others always; text comes back") {
  const BpeTokenizer t(small_bpe({}), "test");
  CHECK(pieces(t, "<|endoftext|>", true) == Pieces{"<|endoftext|>"});
  CHECK(pieces(t, "<|endoftext|>").size() == 13);
  CHECK(pieces(t, "a<tool>b") == Pieces{"a", "<tool>", "b"});
  const std::string text = "né <tool>\n\t中文 👩‍💻 <|endoftext|> it's 12";
  for (bool special : {false, true}) {
    std::vector<int32_t> ids;
    t.encode(text, ids, special);
    CHECK(t.decode(ids) == text);
  }
  std::vector<int32_t> ids;
  t.encode(
      "a\xff"
      "b",
      ids);
  CHECK(t.decode(ids) ==
        "a\xef\xbf\xbd"
        "b");
  CHECK_THROWS_AS(t.decode({100000}), MismatchError);
  CHECK_THROWS_AS(t.token_text(-1), MismatchError);
}

TEST_CASE("flags of added tokens") {
  BpeDefinition d = small_bpe({});
  auto& token = d.added[1];
  SECTION("lstrip and rstrip take white space along") {
    token.lstrip = token.rstrip = true;
    CHECK(pieces(BpeTokenizer(d, "test"), "a \n<tool>\t b") == Pieces{"a", "<tool>", "b"});
  }
  SECTION("single_word needs no adjacent letter") {
    token.single_word = true;
    CHECK(pieces(BpeTokenizer(d, "test"), "-<tool>-") == Pieces{"-", "<tool>", "-"});
    CHECK(pieces(BpeTokenizer(d, "test"), "é<tool>").size() == 8);
  }
  SECTION("the longest of several wins") {
    d.tokens.push_back("<tool>s");
    d.added.push_back({.id = int32_t(d.tokens.size()) - 1, .text = "<tool>s"});
    CHECK(pieces(BpeTokenizer(d, "test"), "<tool>s<tool>t") == Pieces{"<tool>s", "<tool>", "t"});
  }
}

TEST_CASE("split behaviours, as in Hugging Face tokenizers") {
  using enum SplitStep::Behaviour;
  const auto cut = [](SplitStep step, const std::string& text) {
    const PreTokenizer pre({step}, "test");
    std::vector<std::unique_ptr<std::string>> storage;
    Pieces out;
    for (const auto piece : pre.split(text, storage)) out.emplace_back(piece);
    return out;
  };
  const std::string text = "the-final--countdown";
  CHECK(cut({"-", true, false, false, removed}, text) == Pieces{"the", "final", "countdown"});
  CHECK(cut({"-", true, false, false, isolated}, text) == Pieces{"the", "-", "final", "-", "-", "countdown"});
  CHECK(cut({"-", true, false, false, merged_with_previous}, text) == Pieces{"the-", "final-", "-", "countdown"});
  CHECK(cut({"-", true, false, false, merged_with_next}, text) == Pieces{"the", "-final", "-", "-countdown"});
  CHECK(cut({"-", true, false, false, contiguous}, text) == Pieces{"the", "-", "final", "--", "countdown"});
  CHECK(cut({"[a-z]+", false, true, false, removed}, text) == Pieces{"the", "final", "countdown"});
  CHECK(cut({"", false, false, true, isolated}, "a b") == Pieces{" a b"});
  CHECK_THROWS_AS(PreTokenizer({{"(unclosed"}}, "test"), FormatError);
  CHECK_THROWS_AS(PreTokenizer({{"\\w+"}}, "test"), FormatError);  // means another set of characters elsewhere
  CHECK_THROWS_AS(PreTokenizer({{"\\C"}, {"[^a]+"}}, "test"),
                  FormatError);  // one byte of a character: the next step would leave the text
  CHECK_THROWS_AS(PreTokenizer({{"(?:a|[\\C])"}}, "test"), FormatError);
}

TEST_CASE("a pattern that explodes is given up with a message") {
  const PreTokenizer pre({{"(a+)+$|(a|aa)+b"}}, "explode.json");
  std::vector<std::unique_ptr<std::string>> storage;
  CHECK_THROWS_AS(pre.split(std::string(40, 'a') + "c" + std::string(3000, 'a') + "c", storage), FormatError);
}

TEST_CASE("tokenizer.json: what is written reads back equal") {
  BpeDefinition d = small_bpe({{"a", "b"}, {"Ġ", "ab"}});
  d.pre_tokenizer = {{"\\p{N}{1,3}"}, {"x", true, false, false, SplitStep::Behaviour::merged_with_next}, {kGpt2Pattern}};
  d.nfc = d.ignore_merges = true;
  d.added[1].lstrip = true;
  const BpeDefinition back = parse_tokenizer_json(write_tokenizer_json(d), "test");
  CHECK(back.tokens == d.tokens);
  CHECK(back.merges == d.merges);
  CHECK(back.pre_tokenizer == d.pre_tokenizer);
  CHECK(back.added == d.added);
  CHECK(back.nfc);
  CHECK(back.ignore_merges);
  TempFolder folder;
  write_text(folder / "tokenizer.json", write_tokenizer_json(d));
  write_text(folder / "tokenizer_config.json", write_tokenizer_config_json(d));
  const auto opened = open_tokenizer(folder.path());
  CHECK(opened->eos_id() == d.eos);
  CHECK(opened->probe() == BpeTokenizer(d, "test").probe());
}

TEST_CASE("a tokenizer's identity is its whole definition, and a probe compares formats") {
  // One token's text that neither the probe's ids nor its text touch: 1,000 tokens, of which 257 are looked at.
  BpeDefinition d = small_bpe({{"t", "h"}});
  while (d.tokens.size() < 1000) d.tokens.push_back(fmt::format("word{}", d.tokens.size()));
  BpeDefinition other = d;
  other.tokens[998] = "another";
  const BpeTokenizer a(d, "test"), b(other, "test");
  REQUIRE(a.probe() == b.probe());
  CHECK(a.definition_digest() != b.definition_digest());
  CHECK_FALSE(a.identity().matches(b.identity()));
  CHECK(a.identity().matches(BpeTokenizer(d, "test").identity()));

  const auto differs = [&](auto change) {
    BpeDefinition changed = d;
    change(changed);
    CHECK(changed.digest() != d.digest());
  };
  differs([](BpeDefinition& c) { c.merges.clear(); });
  differs([](BpeDefinition& c) { c.pre_tokenizer.push_back({"x"}); });
  differs([](BpeDefinition& c) { c.pre_tokenizer.push_back({"x", true}); });
  differs([](BpeDefinition& c) { c.added[0].lstrip = !c.added[0].lstrip; });
  differs([](BpeDefinition& c) { c.nfc = !c.nfc; });
  differs([](BpeDefinition& c) { c.ignore_merges = !c.ignore_merges; });
  differs([](BpeDefinition& c) { c.unknown_symbol = 3; });
  BpeDefinition same = d;  // what does not decide the ids
  same.eos = 5;
  same.chat_template = "{{ messages }}";
  std::reverse(same.added.begin(), same.added.end());
  CHECK(same.digest() == d.digest());

  // tokenizer.json holds all of it.
  CHECK(parse_tokenizer_json(write_tokenizer_json(d), "test").digest() == d.digest());

  // Metadata of before the definition was recorded, and GGUF, which names its pre-tokenizer only: by probe.
  Metadata metadata;
  a.identity().put_into(metadata);
  CHECK(TokenizerIdentity::from_metadata(metadata, "f").matches(a.identity()));
  CHECK_FALSE(TokenizerIdentity::from_metadata(metadata, "f").matches(b.identity()));
  metadata.erase("tokenizer_definition");
  CHECK(TokenizerIdentity::from_metadata(metadata, "f").matches(b.identity()));
  metadata["tokenizer_definition"] = "x";
  CHECK_THROWS_AS(TokenizerIdentity::from_metadata(metadata, "f"), FormatError);
  CHECK_THROWS_AS(TokenizerIdentity::from_metadata({}, "f"), FormatError);
  other.from_gguf = true;
  CHECK(a.identity().matches(BpeTokenizer(other, "test.gguf").identity()));
  d.from_gguf = true;
  CHECK_FALSE(BpeTokenizer(d, "test.gguf").identity().matches(BpeTokenizer(other, "test.gguf").identity()));
}

TEST_CASE("the probe differs for tokenizers of the same size") {
  const Digest base = BpeTokenizer(small_bpe({{"t", "h"}}), "test").probe();
  CHECK(base == BpeTokenizer(small_bpe({{"t", "h"}}), "test").probe());
  CHECK(base != BpeTokenizer(small_bpe({{"h", "e"}}), "test").probe());
  BpeDefinition d = small_bpe({{"t", "h"}});
  d.pre_tokenizer.insert(d.pre_tokenizer.begin(), SplitStep{"th", true, false, false, SplitStep::Behaviour::removed});
  CHECK(base != BpeTokenizer(d, "test").probe());
}

TEST_CASE("what is not byte-level BPE is refused by name") {
  const Json good = Json::parse(write_tokenizer_json(small_bpe({{"a", "b"}})));
  const auto refused = [&](const std::string& pointer, const Json& value, const std::string& word) {
    Json bad = good;
    bad[Json::json_pointer(pointer)] = value;
    try {
      BpeTokenizer(parse_tokenizer_json(bad.dump(), "tokenizer.json"), "tokenizer.json");
    } catch (const FormatError& e) {
      INFO(e.what());
      return std::string(e.what()).find(word) != std::string::npos;
    }
    return false;
  };
  CHECK(refused("/model/type", "WordPiece", "WordPiece"));
  CHECK(refused("/model/byte_fallback", true, "byte_fallback"));
  CHECK(refused("/model/dropout", 0.1, "dropout"));
  CHECK(refused("/model/end_of_word_suffix", "</w>", "end_of_word_suffix"));
  CHECK(refused("/normalizer", {{"type", "NFKC"}}, "NFKC"));
  CHECK(refused("/pre_tokenizer", {{"type", "Metaspace"}}, "Metaspace"));
  CHECK(refused("/pre_tokenizer", nullptr, "ByteLevel"));
  CHECK(refused("/model/vocab/a", 1 << 23, "id"));
  CHECK(refused("/model/vocab/a", -1, "id"));
  CHECK(refused("/model/vocab/a", 98, "belongs to both"));
  CHECK(refused("/model/merges/0", "ab", "merge 0"));
  CHECK(refused("/model/merges/0", {"a", "zz"}, "merge 0"));
  CHECK(refused("/added_tokens/0/content", "", "empty"));
  CHECK(refused("/added_tokens/0/id", 5, "belongs to both"));
  CHECK(refused("/model", 3, "object"));
}

std::string gguf(const std::vector<std::pair<std::string, Json>>& keys) {
  std::string out = "GGUF";
  const auto number = [&](uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out += char(value >> (8 * i));
  };
  const auto text = [&](const std::string& s) { number(s.size(), 8), out += s; };
  number(3, 4), number(0, 8), number(keys.size(), 8);
  for (const auto& [key, value] : keys) {
    text(key);
    if (value.is_string()) {
      number(8, 4), text(value.get<std::string>());
    } else if (value.is_number()) {
      number(4, 4), number(value.get<uint32_t>(), 4);
    } else {
      const bool strings = value.empty() || value[0].is_string();
      number(9, 4), number(strings ? 8 : 5, 4), number(value.size(), 8);
      for (const Json& item : value) strings ? text(item.get<std::string>()) : number(item.get<uint32_t>(), 4);
    }
  }
  out.append(size_t(-int64_t(out.size()) & 31), '\0');
  return out;
}

TEST_CASE("the tokenizer inside a GGUF") {
  const BpeDefinition d = small_bpe({{"1", "2"}, {"a", "b"}});
  Json types = Json::array();
  for (size_t id = 0; id < d.tokens.size(); ++id) types.push_back(id == size_t(d.eos) ? 3 : id == size_t(d.eos) + 1 ? 4 : 1);
  const auto write = [&](const TempFolder& folder, const std::string& pre, const Json& merges, int eos) {
    write_text(folder / "m.gguf", gguf({{"tokenizer.ggml.model", "gpt2"},
                                        {"tokenizer.ggml.pre", pre},
                                        {"tokenizer.ggml.tokens", d.tokens},
                                        {"tokenizer.ggml.token_type", types},
                                        {"tokenizer.ggml.merges", merges},
                                        {"tokenizer.ggml.eos_token_id", eos}}));
    return folder / "m.gguf";
  };
  TempFolder folder;
  const auto smollm = open_tokenizer(write(folder, "smollm", {"1 2", "a b"}, d.eos));
  CHECK(pieces(*smollm, "ab12<tool><|endoftext|>", true) == Pieces{"ab", "1", "2", "<tool>", "<|endoftext|>"});
  CHECK(smollm->eos_id() == d.eos);
  CHECK(smollm->bos_id() == -1);
  CHECK(pieces(*open_tokenizer(write(folder, "gpt-2", {"1 2", "a b"}, d.eos)), "ab12") == Pieces{"ab", "12"});
  CHECK_THROWS_WITH(open_tokenizer(write(folder, "unheard-of", {"1 2"}, 0)), Catch::Contains("unheard-of"));
  CHECK_THROWS_AS(open_tokenizer(write(folder, "smollm", {"12"}, 0)), FormatError);
  CHECK_THROWS_AS(open_tokenizer(write(folder, "smollm", {"1 2"}, 100000)), FormatError);
  CHECK_THROWS_AS(open_tokenizer(folder / "missing.gguf"), IoError);
  CHECK_THROWS_AS(open_tokenizer("/"), IoError);
}

TEST_CASE("threads share one tokenizer and its cache") {
  const BpeTokenizer t(small_bpe({{"a", "b"}, {"ab", "ab"}, {"Ġ", "c"}}), "test");
  std::string text;
  Rng rng(2, "threads");
  for (int i = 0; i < 40000; ++i) text += "abc "[rng.below(4)];
  std::vector<int32_t> expected;
  t.encode(text, expected);
  std::vector<std::vector<int32_t>> got(4);
  {
    std::vector<std::jthread> threads;
    for (auto& ids : got) threads.emplace_back([&] { t.encode(text, ids); });
  }
  for (const auto& ids : got) CHECK(ids == expected);
}

TEST_CASE("the leftmost added token is found, the longest of those that begin there, in time that grows with the text") {
  Rng rng(3, "added tokens");
  for (int round = 0; round < 40; ++round) {
    std::vector<AddedToken> tokens;
    for (int32_t id = 0; id < 12; ++id) {
      std::string text;
      for (uint64_t n = 1 + rng.below(6); n > 0; --n) text += "ab"[rng.below(2)];
      tokens.push_back({.id = id, .text = text});
    }
    std::string text;
    for (int i = 0; i < 200; ++i) text += "abc"[rng.below(3)];
    std::vector<TextPart> parts;
    AddedTokenFinder(tokens, false).split(text, true, parts);
    std::vector<std::pair<std::string, bool>> found, expected;  // text, and whether it is a token
    for (const TextPart& part : parts) found.emplace_back(part.text, part.id >= 0);
    std::string plain;
    for (size_t at = 0; at < text.size();) {
      size_t longest = 0;
      for (const AddedToken& t : tokens)
        if (text.compare(at, t.text.size(), t.text) == 0) longest = std::max(longest, t.text.size());
      if (longest == 0) {
        plain += text[at++];
        continue;
      }
      if (!plain.empty()) expected.emplace_back(std::exchange(plain, ""), false);
      expected.emplace_back(text.substr(at, longest), true);
      at += longest;
    }
    if (!plain.empty()) expected.emplace_back(plain, false);
    CHECK(found == expected);
  }
  // A token that almost matches at every place, over many that each begin the next.
  std::vector<AddedToken> nested;
  for (int32_t id = 0; id < 1000; ++id) nested.push_back({.id = id, .text = std::string(size_t(id) + 1, 'a') + "b"});
  const AddedTokenFinder finder(nested, false);
  std::vector<TextPart> parts;
  finder.split(std::string(300'000, 'a'), true, parts);
  CHECK(parts.size() == 1);
  BpeDefinition definition = small_bpe({});
  definition.added.back().text = std::string(kLongestAddedToken + 1, 'x');
  CHECK_THROWS_WITH(BpeTokenizer(definition, "t.json"), Catch::Contains("has 1025 bytes, more than 1024"));
}

}  // namespace
}  // namespace overproof
