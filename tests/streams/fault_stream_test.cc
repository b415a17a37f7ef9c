#include "streams/testing/fault_stream.h"

#include <cerrno>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/connection.h"
#include "streams/create_task.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/memory_connection.h"
#include "streams/testing/recording_protocol.h"

namespace sockbroker::streams {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Optional;

// A stream with faults that notes what its protocol is told, and the peer's bare end.
struct Faulty {
  explicit Faulty(Faults incoming, Faults outgoing = {}, MemoryStreamOptions memory = {})
      : events(std::make_shared<RecordingProtocol>()) {
    std::shared_ptr<MemoryStream> inner;
    std::tie(inner, peer) = MakeMemoryStreams(GetRunningLoop(), memory);
    stream = std::make_shared<FaultStream>(GetRunningLoop(), std::move(inner), std::move(incoming),
                                           std::move(outgoing));
    stream->Start(events);
  }
  ~Faulty() { stream->Abort(/*reset=*/false, absl::OkStatus()); }
  Faulty(const Faulty&) = delete;
  Faulty& operator=(const Faulty&) = delete;
  std::shared_ptr<FaultStream> stream;
  std::shared_ptr<MemoryStream> peer;
  std::shared_ptr<RecordingProtocol> events;
};

absl::Time LoopTime() { return GetRunningLoop()->Now(); }

CO_TEST(FaultStreamTest, WithoutFaultsEverythingPasses) {
  Faulty link({});
  link.peer->Write("in");
  link.stream->Write(absl::Cord("out"));
  co_await Idle();
  EXPECT_EQ(link.events->received, "in");
  EXPECT_EQ(link.peer->Receive(100), "out");
  link.peer->WriteEof();
  link.stream->WriteEof();
  co_await Idle();
  EXPECT_EQ(link.events->events.back(), "eof");
  EXPECT_TRUE(link.peer->peer_sent_eof());
  link.stream->Close();
  co_await Idle();
  EXPECT_THAT(link.events->lost, Optional(IsOk()));
}

CO_TEST(FaultStreamTest, SplitDeliversSoManyBytesAtATimeInOrderWithEofBehindThem) {
  Faulty link({.split = 4});
  link.peer->Write("0123456789");
  link.peer->WriteEof();
  co_await Idle();
  EXPECT_EQ(link.events->received, "0123456789");
  EXPECT_THAT(link.events->events, ElementsAre("data 4", "data 4", "data 2", "eof"));
}

CO_TEST(FaultStreamTest, SplitOutgoingBytesArriveWholeAndInOrder) {
  Faulty link({}, {.split = 1});
  link.stream->Write(absl::Cord("0123456789"));
  link.stream->Close();
  EXPECT_EQ(link.stream->write_buffer_size(), 10u);
  co_await Idle();
  EXPECT_EQ(link.peer->Receive(100), "0123456789");
  EXPECT_TRUE(link.peer->peer_sent_eof());
}

CO_TEST(FaultStreamTest, DelayMakesEveryPieceLate) {
  const absl::Time start = LoopTime();
  Faulty link({.delay = absl::Seconds(2)}, {.delay = absl::Seconds(3)});
  link.peer->Write("in");
  link.stream->Write(absl::Cord("out"));
  co_await PassTime(absl::Seconds(1.9));
  EXPECT_THAT(link.events->events, IsEmpty());
  co_await PassTime(absl::Seconds(0.2));
  EXPECT_EQ(link.events->received, "in");
  EXPECT_EQ(link.peer->readable(), 0u);
  co_await PassTime(absl::Seconds(1));
  EXPECT_EQ(link.peer->Receive(100), "out");
  EXPECT_EQ(LoopTime(), start + absl::Seconds(3.1));
}

CO_TEST(FaultStreamTest, HoldKeepsADirectionBackUntilItIsReleased) {
  Faulty link({});
  link.stream->HoldIncoming();
  link.stream->HoldOutgoing();
  link.peer->Write("in");
  link.stream->Write(absl::Cord("out"));
  co_await PassTime(absl::Hours(1));
  EXPECT_THAT(link.events->events, IsEmpty());
  EXPECT_EQ(link.peer->readable(), 0u);
  link.stream->ReleaseIncoming();
  co_await Idle();
  EXPECT_EQ(link.events->received, "in");
  EXPECT_EQ(link.peer->readable(), 0u);
  link.stream->ReleaseOutgoing();
  co_await Idle();
  EXPECT_EQ(link.peer->Receive(100), "out");
}

CO_TEST(FaultStreamTest, HeldOutgoingBytesPauseTheWriterAtItsMarks) {
  Faulty link({});
  link.stream->HoldOutgoing();
  link.stream->SetWriteBufferLimits(10, 5);
  link.stream->Write(absl::Cord("0123456789"));
  EXPECT_THAT(link.events->events, IsEmpty());
  link.stream->Write(absl::Cord("x"));
  EXPECT_THAT(link.events->events, ElementsAre("pause"));
  link.stream->ReleaseOutgoing();
  co_await Idle();
  EXPECT_THAT(link.events->events, ElementsAre("pause", "resume"));
}

CO_TEST(FaultStreamTest, FailOutgoingLetsSoManyBytesPassAndThenResets) {
  Faulty link({}, {.fail = Faults::Failure{4, absl::DataLossError("cut")}});
  link.stream->Write(absl::Cord("0123456789"));
  co_await Idle();
  EXPECT_EQ(link.peer->Receive(100), "0123");
  EXPECT_TRUE(link.peer->peer_sent_reset());
  EXPECT_THAT(link.events->lost, Optional(StatusIs(StatusCode::kDataLoss, "cut")));
}

CO_TEST(FaultStreamTest, FailIncomingDeliversSoManyBytesAndThenTheLoss) {
  Faulty link({.split = 3, .fail = Faults::Failure{4, absl::DataLossError("cut")}});
  link.peer->Write("0123456789");
  co_await Idle();
  EXPECT_EQ(link.events->received, "0123");
  EXPECT_THAT(link.events->events, ElementsAre("data 3", "data 1", "lost DATA_LOSS"));
  EXPECT_TRUE(link.peer->peer_sent_reset());
}

CO_TEST(FaultStreamTest, APeersResetIsToldBehindTheBytesThatAreStillDelayed) {
  Faulty link({.delay = absl::Seconds(1)});
  link.peer->Write("last words");
  link.peer->Abort(/*reset=*/true, absl::OkStatus());
  co_await Idle();
  EXPECT_THAT(link.events->events, IsEmpty());
  co_await PassTime(absl::Seconds(2));
  EXPECT_THAT(link.events->events, ElementsAre("data 10", "lost UNAVAILABLE"));
}

CO_TEST(FaultStreamTest, PausedReadingDeliversNothingOfWhatIsHeldHere) {
  Faulty link({.split = 1});
  link.peer->Write("0123456789");
  while (link.events->received.size() < 3) co_await Yield();
  link.stream->PauseReading();
  co_await Idle();
  EXPECT_EQ(link.events->received, "012");
  link.stream->ResumeReading();
  co_await Idle();
  EXPECT_EQ(link.events->received, "0123456789");
}

CO_TEST(FaultStreamTest, AbortDropsWhatIsHeldAndIsToldAtOnce) {
  Faulty link({});
  link.stream->HoldIncoming();
  link.stream->HoldOutgoing();
  link.peer->Write("in");
  link.stream->Write(absl::Cord("out"));
  co_await Idle();
  link.stream->Abort(/*reset=*/true, absl::CancelledError("enough"));
  co_await Idle();
  EXPECT_THAT(link.events->events, ElementsAre("lost CANCELLED"));
  EXPECT_EQ(link.peer->readable(), 0u);
  EXPECT_TRUE(link.peer->peer_sent_reset());
}

TEST(FaultStreamLoopTest, ALoopThatEndsLosesAStreamThatStillHoldsSomething) {
  auto events = std::make_shared<RecordingProtocol>();
  {
    ManualClock clock;
    EventLoop loop(&clock);
    auto [inner, peer] = MakeMemoryStreams(&loop);
    auto stream = std::make_shared<FaultStream>(&loop, inner, Faults{}, Faults{});
    stream->Start(events);
    stream->HoldIncoming();
    peer->Write("never told");
    loop.RunUntilIdle();
  }
  EXPECT_THAT(events->events, ElementsAre("lost CANCELLED"));
  EXPECT_EQ(events.use_count(), 1);
}

CO_TEST(FaultStreamTest, AReaderAndWriterOnItSeeOneByteAtATime) {
  auto [near, far] = MakeMemoryStreams(GetRunningLoop());
  auto stream = std::make_shared<FaultStream>(GetRunningLoop(), near, Faults{.split = 1},
                                              Faults{.split = 1, .delay = absl::Seconds(1)});
  Connection connection = MakeConnection(GetRunningLoop(), stream).value();
  far->Write("a line\nrest");
  EXPECT_THAT(co_await connection.reader.ReadLine(), IsOkAndHolds("a line\n"));
  CO_ASSERT_OK(connection.writer.Write("bye"));
  connection.writer.Close();
  EXPECT_THAT(co_await connection.writer.WaitClosed(), IsOk());
  EXPECT_EQ(far->Receive(100), "bye");
}

}  // namespace
}  // namespace sockbroker::streams
