// ReadUntil against a naive reference: whatever the separators, the limit and the way the bytes
// arrive, it gives what looking at the whole text at once would give.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/error.h"
#include "streams/sleep.h"
#include "streams/task_group.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/memory_connection.h"

namespace sockbroker::streams {
namespace {

struct Case {
  std::string text;
  std::vector<std::string> separators;
  std::size_t limit;
  std::vector<std::string> chunks;

  std::string ToString() const {
    return absl::StrCat("text ", text, ", separators ", ::testing::PrintToString(separators),
                        ", limit ", limit, ", chunks ", ::testing::PrintToString(chunks));
  }
};

// "overrun", "incomplete <partial>", or the data: of the first call on the whole text, EOF behind
// it.
std::string Reference(const std::string& text, const std::vector<std::string>& separators,
                      std::size_t limit) {
  std::size_t longest = 0;
  for (const std::string& separator : separators) longest = std::max(longest, separator.size());
  for (std::size_t end = 1; end <= text.size(); ++end) {
    // The first place where any separator ends; of those that end here, the shortest.
    std::optional<std::size_t> shortest;
    for (const std::string& separator : separators) {
      if (separator.size() <= end &&
          text.compare(end - separator.size(), separator.size(), separator) == 0) {
        shortest = std::min(shortest.value_or(separator.size()), separator.size());
      }
    }
    if (!shortest.has_value()) continue;
    return end - *shortest > limit ? "overrun" : text.substr(0, end);
  }
  if (text.size() + 1 > longest + limit) return "overrun";
  return "incomplete " + text;
}

Case RandomCase(std::mt19937& random) {
  auto upto = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n)(random);
  };
  auto letters = [&](std::size_t n) {
    std::string text;
    while (text.size() < n) text += static_cast<char>('a' + upto(2));
    return text;
  };
  Case c;
  c.text = letters(upto(24));
  for (std::size_t n = 1 + upto(2); n > 0; --n) c.separators.push_back(letters(1 + upto(4)));
  c.limit = 1 + upto(20);
  const std::size_t largest = 1 + upto(8);
  for (std::size_t at = 0; at < c.text.size();) {
    const std::size_t size = 1 + upto(largest);
    c.chunks.push_back(c.text.substr(at, size));
    at += size;
  }
  return c;
}

// Pieces so large that the reader's buffer keeps them apart, and separators so long that many span
// two of them.
Case RandomLargeCase(std::mt19937& random) {
  auto between = [&](std::size_t low, std::size_t high) {
    return std::uniform_int_distribution<std::size_t>(low, high)(random);
  };
  auto letters = [&](std::size_t n) {
    std::string text;
    while (text.size() < n) text += static_cast<char>('a' + between(0, 1));
    return text;
  };
  Case c;
  c.limit = between(1000, 4000);
  for (std::size_t n = between(1, 5); n > 0; --n) c.chunks.push_back(letters(between(512, 700)));
  for (const std::string& chunk : c.chunks) c.text += chunk;
  // Half of them cut out of the text around the end of a chunk, half at random.
  for (std::size_t n = between(1, 2); n > 0; --n) {
    const std::size_t size = between(11, 30);
    const std::size_t seam = c.chunks.front().size();
    const std::size_t at = std::min(seam - between(0, size), c.text.size() - size);
    c.separators.push_back(between(0, 1) == 0 ? letters(size) : c.text.substr(at, size));
  }
  return c;
}

Task<absl::Status> Deliver(std::shared_ptr<MemoryStream> peer, std::vector<std::string> chunks) {
  for (const std::string& chunk : chunks) {
    peer->Write(chunk);
    co_await Idle();
  }
  peer->WriteEof();
  co_return absl::OkStatus();
}

std::string Describe(const absl::StatusOr<absl::Cord>& result) {
  if (result.ok()) return std::string(*result);
  if (auto incomplete = GetIncompleteRead(result.status())) {
    return absl::StrCat("incomplete ", std::string(incomplete->partial));
  }
  if (GetLimitOverrun(result.status()).has_value()) return "overrun";
  return result.status().ToString();
}

// Rows: 151, 153, 154, 155, 159
CO_TEST(ReadUntilPropertyTest, TheResultIsThatOfTheWholeTextHoweverItArrives) {
  std::mt19937 random(15313);
  int overruns = 0;
  int incomplete = 0;
  for (int round = 0; round < 10'000; ++round) {
    const Case c = RandomCase(random);
    MemoryPeer link = MakeMemoryPeer({.limit = c.limit});
    TaskGroup group;
    group.Spawn(Deliver(link.peer, c.chunks));
    const std::string result = Describe(co_await link.reader.ReadUntil(c.separators));
    CO_ASSERT_EQ(result, Reference(c.text, c.separators, c.limit)) << c.ToString();
    overruns += result == "overrun" ? 1 : 0;
    incomplete += result.substr(0, 10) == "incomplete" ? 1 : 0;
    // A paused reader leaves the peer's data in the kernel: nothing that this round started may go
    // on in the next.
    (void)co_await group.Join();
    link.writer.Abort();
  }
  EXPECT_GT(overruns, 500) << "the cases are of too little use";
  EXPECT_GT(incomplete, 500);
}

// Rows: 153
CO_TEST(ReadUntilPropertyTest, ASeparatorAcrossLargePiecesIsFoundWhereItIsInTheWholeText) {
  std::mt19937 random(512);
  int found = 0;
  for (int round = 0; round < 1'000; ++round) {
    const Case c = RandomLargeCase(random);
    MemoryPeer link = MakeMemoryPeer({.limit = c.limit});
    TaskGroup group;
    group.Spawn(Deliver(link.peer, c.chunks));
    if (random() % 2 == 0) (void)co_await group.Join();  // all of it is buffered at the first look
    const std::string result = Describe(co_await link.reader.ReadUntil(c.separators));
    CO_ASSERT_EQ(result, Reference(c.text, c.separators, c.limit)) << c.ToString();
    found += result == "overrun" || result.substr(0, 10) == "incomplete" ? 0 : 1;
    (void)co_await group.Join();
    link.writer.Abort();
  }
  EXPECT_GT(found, 200);
}

// Rows: 133, 153, 157
CO_TEST(ReadUntilPropertyTest, ReadingOnThroughOverrunsAndCancellationsLosesNoByteAndDoublesNone) {
  std::mt19937 random(13353);
  for (int round = 0; round < 3'000; ++round) {
    const Case c = RandomCase(random);
    MemoryPeer link = MakeMemoryPeer({.limit = c.limit});
    TaskGroup group;
    group.Spawn(Deliver(link.peer, c.chunks));
    std::string all;
    while (true) {
      TaskHandle<absl::StatusOr<absl::Cord>> read = CreateTask(link.reader.ReadUntil(c.separators));
      for (std::size_t turns = random() % 4; turns > 0; --turns) co_await Yield();
      if (random() % 2 == 0) read.Cancel();
      absl::StatusOr<absl::Cord> result = co_await read.Join();
      if (absl::IsCancelled(result.status())) continue;
      if (std::optional<LimitOverrun> overrun = GetLimitOverrun(result.status())) {
        result = co_await link.reader.ReadExactly(overrun->consumed);
        CO_ASSERT_OK(result);
      }
      if (std::optional<IncompleteRead> incomplete = GetIncompleteRead(result.status())) {
        all += std::string(incomplete->partial);
        break;
      }
      CO_ASSERT_OK(result);
      all += std::string(*result);
    }
    CO_ASSERT_EQ(all, c.text) << c.ToString();
    (void)co_await group.Join();
    link.writer.Abort();
  }
}

}  // namespace
}  // namespace sockbroker::streams
