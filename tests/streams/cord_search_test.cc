#include "streams/internal/cord_search.h"

#include <cstddef>
#include <iterator>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sockbroker::streams::internal {
namespace {

using ::testing::Eq;
using ::testing::Optional;

// A Cord of exactly these chunks. A Cord copies small pieces together: each is appended with a tail
// that is too long for that, and is cut off afterwards.
absl::Cord Chunks(const std::vector<std::string>& chunks) {
  constexpr std::size_t kTail = 1000;
  absl::Cord cord;
  for (const std::string& chunk : chunks) {
    auto* copy = new std::string(chunk + std::string(kTail, '#'));
    cord.Append(absl::MakeCordFromExternal(*copy, [copy] { delete copy; }));
    cord.RemoveSuffix(kTail);
  }
  EXPECT_EQ(std::distance(cord.chunk_begin(), cord.chunk_end()),
            static_cast<std::ptrdiff_t>(chunks.size()));
  return cord;
}

TEST(CordFindTest, FindsTheFirstOccurrenceWithinAChunk) {
  EXPECT_THAT(Find(Chunks({"one two two"}), "two", 0), Optional(4u));
}

TEST(CordFindTest, FindsAnOccurrenceThatSpansTwoChunksOrMany) {
  EXPECT_THAT(Find(Chunks({"ab<", "END>cd"}), "<END>", 0), Optional(2u));
  EXPECT_THAT(Find(Chunks({"ab", "<", "E", "N", "D", ">", "cd"}), "<END>", 0), Optional(2u));
}

TEST(CordFindTest, FindsOneAtTheVeryBeginningAndEnd) {
  EXPECT_THAT(Find(Chunks({"x", "yz"}), "xy", 0), Optional(0u));
  EXPECT_THAT(Find(Chunks({"xy", "z"}), "yz", 0), Optional(1u));
  EXPECT_THAT(Find(Chunks({"xy", "z"}), "xyz", 0), Optional(0u));
}

TEST(CordFindTest, DoesNotFindOneThatStartsBeforeTheGivenPlace) {
  const absl::Cord cord = Chunks({"a;", "b", ";c"});
  EXPECT_THAT(Find(cord, ";", 0), Optional(1u));
  EXPECT_THAT(Find(cord, ";", 1), Optional(1u));
  EXPECT_THAT(Find(cord, ";", 2), Optional(3u));
  EXPECT_THAT(Find(cord, ";", 4), Eq(std::nullopt));
  EXPECT_THAT(Find(Chunks({"aa", "ab"}), "aab", 2), Eq(std::nullopt));
}

TEST(CordFindTest, FindsNothingInTooLittleAndNothingPastTheEnd) {
  EXPECT_THAT(Find(absl::Cord(), "x", 0), Eq(std::nullopt));
  EXPECT_THAT(Find(Chunks({"x"}), "xy", 0), Eq(std::nullopt));
  EXPECT_THAT(Find(Chunks({"x"}), "x", 1), Eq(std::nullopt));
  EXPECT_THAT(Find(Chunks({"x"}), "x", 2), Eq(std::nullopt));
}

TEST(CordFindTest, FindsBytesThatAreNotText) {
  const std::string needle("\0\xff\0", 3);
  EXPECT_THAT(Find(Chunks({std::string("a\0\xff", 3), std::string("\0b", 2)}), needle, 0),
              Optional(1u));
}

TEST(CordFindTest, AFalseStartAcrossChunksDoesNotHideTheRealOne) {
  EXPECT_THAT(Find(Chunks({"aaa", "ab"}), "aab", 0), Optional(2u));
  EXPECT_THAT(Find(Chunks({"a", "a", "a", "b"}), "aab", 0), Optional(1u));
}

// Rows: 151
TEST(FindFirstEndingTest, OfSeveralSeparatorsTheOneThatEndsFirstIsTheMatch) {
  const std::optional<Match> match = FindFirstEnding(Chunks({"xab", "cdy"}), {"bc", "abcd"}, 0);
  ASSERT_TRUE(match.has_value());
  EXPECT_EQ(match->start, 2u);
  EXPECT_EQ(match->end, 4u);
}

// Rows: 151
TEST(FindFirstEndingTest, OfThoseThatEndTogetherTheShortestIsTheMatch) {
  const std::optional<Match> match = FindFirstEnding(Chunks({"xab", "cdy"}), {"cd", "abcd"}, 0);
  ASSERT_TRUE(match.has_value());
  EXPECT_EQ(match->start, 3u);
  EXPECT_EQ(match->end, 5u);
}

TEST(FindFirstEndingTest, WithoutAnyIsNothing) {
  EXPECT_FALSE(FindFirstEnding(Chunks({"abc"}), {"x", "yz"}, 0).has_value());
}

TEST(CordFindPropertyTest, AgreesWithTheStandardStringHoweverTheCordIsCut) {
  std::mt19937 random(20250301);
  auto upto = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n)(random);
  };
  for (int round = 0; round < 20'000; ++round) {
    // Two letters and short needles: repeated prefixes and near misses everywhere.
    std::string text;
    for (std::size_t n = upto(20); n > 0; --n) text += upto(1) == 0 ? 'a' : 'b';
    std::string needle;
    for (std::size_t n = 1 + upto(4); n > 0; --n) needle += upto(1) == 0 ? 'a' : 'b';
    std::vector<std::string> chunks;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = 1 + upto(5);
      chunks.push_back(text.substr(at, size));
      at += size;
    }
    const std::size_t from = upto(text.size() + 1);
    const std::size_t expected = text.find(needle, from);
    const std::optional<std::size_t> found = Find(Chunks(chunks), needle, from);
    ASSERT_EQ(found.value_or(std::string::npos), expected)
        << "looking for " << needle << " in " << ::testing::PrintToString(chunks) << " from "
        << from;
  }
}

}  // namespace
}  // namespace sockbroker::streams::internal
