// The reading half alone, in virtual time, over a stream in memory.
#include "server/read_side.h"

#include <atomic>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/sleep.h"
#include "streams/testing/co_test.h"
#include "streams/testing/memory_connection.h"

namespace sockbroker::server {
namespace {

using streams::CreateTask;
using streams::MakeMemoryPeer;
using streams::Sleep;
using streams::Task;

// Lets everything happen that can.
Task<void> Moment() { (void)co_await Sleep(absl::Milliseconds(1)); }

ReadSpec Some(std::size_t n, std::optional<uint64_t> offset = std::nullopt,
              const std::string& request_id = "") {
  return {.kind = ReadSpec::Kind::kSome, .n = n, .offset = offset, .request_id = request_id};
}

ReadSpec Exactly(std::size_t n, std::optional<uint64_t> offset = std::nullopt,
                 const std::string& request_id = "") {
  return {.kind = ReadSpec::Kind::kExactly, .n = n, .offset = offset, .request_id = request_id};
}

struct Outcome {
  RpcStatus status;
  ReadResult result;
};

Task<Outcome> Read(ReadSide* side, ReadSpec spec, const std::atomic<bool>* gone) {
  Outcome outcome;
  outcome.status = co_await side->Read(std::move(spec), gone, &outcome.result);
  co_return outcome;
}

const std::atomic<bool> kThere{false};

CO_TEST(ReadSideTest, AnInterruptedRunOfKeptReadsLosesAndDoublesNothing) {
  auto memory = MakeMemoryPeer();
  ReadSide side(memory.reader);
  memory.peer->Write(absl::Cord("0123456789"));
  co_await Moment();
  // Each reply is "lost" once, and read again from the same place with another size.
  std::string received;
  for (const std::size_t n : {1, 4, 2, 3}) {
    const Outcome lost = co_await Read(&side, Some(n + 1, received.size()), &kThere);
    EXPECT_TRUE(lost.status.ok());
    const Outcome again = co_await Read(&side, Some(n, received.size()), &kThere);
    EXPECT_TRUE(again.status.ok());
    EXPECT_EQ(again.result.offset, received.size());
    received += std::string(again.result.data);
  }
  EXPECT_EQ(received, "0123456789");
}

CO_TEST(ReadSideTest, AHeaderInFrontIsNotCounted) {
  auto memory = MakeMemoryPeer();
  memory.peer->Write(absl::Cord("headerdata"));
  CO_ASSERT_OK((co_await memory.reader.ReadExactly(6)).status());
  ReadSide side(memory.reader, 6);
  const Outcome read = co_await Read(&side, Some(10, 0), &kThere);
  EXPECT_EQ(read.result.data, "data");
  EXPECT_EQ(read.result.offset, 0u);
  EXPECT_EQ(side.received(), 4u);
}

CO_TEST(ReadSideTest, AResultThatRacedItsCallersEndGoesBack) {
  auto memory = MakeMemoryPeer();
  ReadSide side(memory.reader);
  std::atomic<bool> gone{false};
  auto reading = CreateTask(Read(&side, Exactly(4), &gone));
  co_await Moment();
  memory.peer->Write(absl::Cord("data"));
  gone = true;  // without its cancellation having come
  const Outcome outcome = co_await reading.Join();
  EXPECT_EQ(outcome.status.code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(side.next(), 0u);
  const Outcome again = co_await Read(&side, Some(10), &kThere);
  EXPECT_EQ(again.result.data, "data");
}

CO_TEST(ReadSideTest, AnIncompleteRestThatRacedItsCallersEndGoesBackToo) {
  auto memory = MakeMemoryPeer();
  ReadSide side(memory.reader);
  std::atomic<bool> gone{false};
  auto reading = CreateTask(Read(&side, Exactly(10), &gone));
  co_await Moment();
  memory.peer->Write(absl::Cord("tail"));
  memory.peer->WriteEof();
  gone = true;
  EXPECT_EQ((co_await reading.Join()).status.code(), grpc::StatusCode::CANCELLED);
  const Outcome again = co_await Read(&side, Exactly(10), &kThere);
  EXPECT_EQ(again.result.data, "tail");
  EXPECT_EQ(again.result.outcome, v1::READ_OUTCOME_INCOMPLETE);
  EXPECT_TRUE(again.result.eof);
}

CO_TEST(ReadSideTest, SuccessorsQueueUpAndTheLastOneReads) {
  auto memory = MakeMemoryPeer();
  ReadSide side(memory.reader);
  auto first = CreateTask(Read(&side, Exactly(4, 0, "id"), &kThere));
  co_await Moment();
  // All in one turn of the loop.
  auto second = CreateTask(Read(&side, Exactly(4, 0, "id"), &kThere));
  auto third = CreateTask(Read(&side, Exactly(4, 0, "id"), &kThere));
  memory.peer->Write(absl::Cord("data"));
  EXPECT_EQ((co_await first.Join()).status.reason(), v1::SUPERSEDED);
  EXPECT_EQ((co_await second.Join()).status.reason(), v1::SUPERSEDED);
  const Outcome last = co_await third.Join();
  EXPECT_TRUE(last.status.ok()) << last.status.message();
  EXPECT_EQ(last.result.data, "data");
}

CO_TEST(ReadSideTest, NobodyMovesThePositionUnderAKeptRead) {
  auto memory = MakeMemoryPeer();
  ReadSide side(memory.reader);
  auto kept = CreateTask(Read(&side, Exactly(4, 0, "id"), &kThere));
  co_await Moment();
  memory.peer->Write(absl::Cord("d\n"));
  co_await Moment();
  // A plain read could be satisfied at once, and would take the kept one's bytes.
  EXPECT_EQ((co_await Read(&side, Some(1), &kThere)).status.reason(), v1::READ_PENDING);
  EXPECT_EQ((co_await Read(&side, Some(1, 0, "other"), &kThere)).status.reason(), v1::READ_PENDING);
  const ReadSpec line{.kind = ReadSpec::Kind::kLine};
  EXPECT_EQ((co_await Read(&side, line, &kThere)).status.reason(), v1::READ_PENDING);
  EXPECT_TRUE((co_await Read(&side, Some(0), &kThere)).status.ok());
  EXPECT_TRUE((co_await Read(&side, Some(0, 0), &kThere)).status.ok());
  memory.peer->Write(absl::Cord("ta"));
  EXPECT_EQ((co_await kept.Join()).result.data, "d\nta");
}

CO_TEST(ReadSideTest, ASecondPlainReadThatNeedNotWaitIsServedAsInAsyncio) {
  auto memory = MakeMemoryPeer();
  ReadSide side(memory.reader);
  auto waiting = CreateTask(Read(&side, Exactly(4), &kThere));
  co_await Moment();
  memory.peer->Write(absl::Cord("ab"));
  co_await Moment();
  const Outcome at_once = co_await Read(&side, Some(1), &kThere);
  EXPECT_EQ(at_once.result.data, "a");
  EXPECT_EQ((co_await Read(&side, Exactly(4), &kThere)).status.reason(), v1::READ_PENDING);
  memory.peer->Write(absl::Cord("cde"));
  const Outcome rest = co_await waiting.Join();
  EXPECT_EQ(rest.result.data, "bcde");
  EXPECT_EQ(rest.result.offset, 1u);
}

}  // namespace
}  // namespace sockbroker::server
