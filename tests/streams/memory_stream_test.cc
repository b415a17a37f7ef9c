#include "streams/testing/memory_stream.h"

#include <cerrno>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/cord.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/manual_clock.h"
#include "streams/testing/memory_connection.h"
#include "streams/testing/recording_protocol.h"

namespace sockbroker::streams {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Optional;

// Both ends, each with a protocol that notes what it is told.
struct Pair {
  explicit Pair(MemoryStreamOptions options = {}, bool keep_open = true)
      : client_events(std::make_shared<RecordingProtocol>(keep_open)),
        server_events(std::make_shared<RecordingProtocol>(keep_open)) {
    std::tie(client, server) = MakeMemoryStreams(GetRunningLoop(), options);
    client->Start(client_events);
    server->Start(server_events);
  }
  ~Pair() {
    client->Abort(/*reset=*/false, absl::OkStatus());
    server->Abort(/*reset=*/false, absl::OkStatus());
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  std::shared_ptr<MemoryStream> client;
  std::shared_ptr<MemoryStream> server;
  std::shared_ptr<RecordingProtocol> client_events;
  std::shared_ptr<RecordingProtocol> server_events;
};

CO_TEST(MemoryStreamTest, BytesArriveInOrderInALaterTurn) {
  Pair pair;
  pair.client->Write("one");
  pair.client->Write("two");
  EXPECT_THAT(pair.server_events->events, IsEmpty());
  co_await Idle();
  EXPECT_EQ(pair.server_events->received, "onetwo");
}

CO_TEST(MemoryStreamTest, OneDeliveryIsAtMostTheReadSize) {
  Pair pair({.read_size = 4});
  pair.client->Write("0123456789");
  co_await Idle();
  EXPECT_THAT(pair.server_events->events, ElementsAre("data 4", "data 4", "data 2"));
}

CO_TEST(MemoryStreamTest, WhatTheKernelDoesNotTakeIsBufferedAndFollowsWhenThePeerReads) {
  auto [client, server] = MakeMemoryStreams(GetRunningLoop(), {.kernel_buffer = 4});
  client->Write("0123456789");
  EXPECT_EQ(client->write_buffer_size(), 6u);
  EXPECT_EQ(client->bytes_flushed(), 4u);
  EXPECT_EQ(server->Receive(3), "012");
  co_await Idle();
  EXPECT_EQ(client->write_buffer_size(), 3u);
  EXPECT_EQ(server->Receive(100), "3456");
  co_await Idle();
  EXPECT_EQ(server->Receive(100), "789");
  EXPECT_EQ(client->bytes_flushed(), 10u);
}

CO_TEST(MemoryStreamTest, TheWriterIsPausedAboveTheHighMarkAndResumedAtTheLowMark) {
  auto [client, server] = MakeMemoryStreams(GetRunningLoop(), {.kernel_buffer = 10});
  auto protocol = std::make_shared<RecordingProtocol>();
  client->Start(protocol);
  client->SetWriteBufferLimits(8, 4);
  client->Write(std::string(18, 'x'));
  EXPECT_THAT(protocol->events, IsEmpty());
  client->Write("x");
  EXPECT_THAT(protocol->events, ElementsAre("pause"));
  EXPECT_EQ(server->Receive(4).size(), 4u);
  co_await Idle();
  EXPECT_EQ(client->write_buffer_size(), 5u);
  EXPECT_THAT(protocol->events, ElementsAre("pause"));
  EXPECT_EQ(server->Receive(1).size(), 1u);
  co_await Idle();
  EXPECT_THAT(protocol->events, ElementsAre("pause", "resume"));
  client->Abort(/*reset=*/false, absl::OkStatus());
}

CO_TEST(MemoryStreamTest, EofComesBehindTheDataAndLeavesTheOtherDirectionOpen) {
  Pair pair({.kernel_buffer = 4});
  pair.client->Write("0123456789");
  pair.client->WriteEof();
  co_await Idle();
  EXPECT_EQ(pair.server_events->received, "0123456789");
  EXPECT_EQ(pair.server_events->events.back(), "eof");
  pair.server->Write("answer");
  co_await Idle();
  EXPECT_EQ(pair.client_events->received, "answer");
  EXPECT_FALSE(pair.client->is_closing());
}

CO_TEST(MemoryStreamTest, AProtocolThatDoesNotWantAHalfOpenStreamClosesItAtEof) {
  Pair pair({}, /*keep_open=*/false);
  pair.client->WriteEof();
  co_await Idle();
  EXPECT_THAT(pair.server_events->events, ElementsAre("eof", "lost OK"));
  EXPECT_THAT(pair.client_events->events, ElementsAre("eof", "lost OK"));
}

CO_TEST(MemoryStreamTest, CloseFlushesAndThenThePeerSeesEof) {
  Pair pair({.kernel_buffer = 4});
  pair.client->Write("0123456789");
  pair.client->Close();
  EXPECT_TRUE(pair.client->is_closing());
  EXPECT_THAT(pair.client_events->events, IsEmpty()) << "never from inside Close";
  co_await Idle();
  EXPECT_EQ(pair.server_events->received, "0123456789");
  EXPECT_EQ(pair.server_events->events.back(), "eof");
  EXPECT_THAT(pair.client_events->lost, Optional(IsOk()));
}

CO_TEST(MemoryStreamTest, CloseWithUnreadDataResetsThePeer) {
  Pair pair;
  pair.client->PauseReading();
  pair.server->Write("unread");
  co_await Idle();
  pair.client->Close();
  co_await Idle();
  EXPECT_THAT(pair.server_events->lost, Optional(HasErrno(ECONNRESET)));
}

CO_TEST(MemoryStreamTest, AResetIsToldBehindTheDataThatCameBeforeIt) {
  Pair pair;
  pair.client->Write("last words");
  pair.client->Abort(/*reset=*/true, absl::DataLossError("why"));
  co_await Idle();
  EXPECT_THAT(pair.client_events->lost, Optional(StatusIs(StatusCode::kDataLoss, "why")));
  EXPECT_THAT(pair.server_events->events, ElementsAre("data 10", "lost UNAVAILABLE"));
  EXPECT_THAT(pair.server_events->lost, Optional(HasErrno(ECONNRESET)));
}

CO_TEST(MemoryStreamTest, AWriteThatMeetsTheResetDeliversWhatCameBeforeItToo) {
  Pair pair;
  pair.server->PauseReading();
  pair.client->Write("last words");
  pair.client->Abort(/*reset=*/true, absl::OkStatus());
  co_await Idle();
  EXPECT_THAT(pair.server_events->events, IsEmpty());
  pair.server->Write("anybody there?");
  EXPECT_THAT(pair.server_events->events, IsEmpty()) << "never from inside Write";
  co_await Idle();
  EXPECT_THAT(pair.server_events->events, ElementsAre("data 10", "lost UNAVAILABLE"));
}

CO_TEST(MemoryStreamTest, AbortWithoutResetIsEofBehindWhatTheKernelHadAndDropsTheRest) {
  auto [client, server] = MakeMemoryStreams(GetRunningLoop(), {.kernel_buffer = 4});
  client->Write("0123456789");
  client->Abort(/*reset=*/false, absl::OkStatus());
  co_await Idle();
  EXPECT_EQ(server->Receive(100), "0123");
  co_await Idle();
  EXPECT_EQ(server->readable(), 0u);
  EXPECT_TRUE(server->peer_sent_eof());
  EXPECT_FALSE(server->peer_sent_reset());
}

CO_TEST(MemoryStreamTest, WhilePausedNothingIsNoticedAndAfterwardsEverything) {
  Pair pair;
  pair.server->PauseReading();
  pair.client->Write("data");
  pair.client->WriteEof();
  co_await Idle();
  EXPECT_THAT(pair.server_events->events, IsEmpty());
  pair.server->ResumeReading();
  co_await Idle();
  EXPECT_THAT(pair.server_events->events, ElementsAre("data 4", "eof"));
}

CO_TEST(MemoryStreamTest, TheFirstWriteToAPeerThatHasClosedIsAnsweredWithAReset) {
  Pair pair;
  pair.client->Close();
  co_await Idle();
  pair.server->Write("into the void");
  EXPECT_FALSE(pair.server->is_closing());
  EXPECT_EQ(pair.server->bytes_flushed(), 13u);
  co_await Idle();
  EXPECT_TRUE(pair.server_events->lost.has_value());
  EXPECT_FALSE(pair.server_events->lost->ok());
}

CO_TEST(MemoryStreamTest, WritesAfterTheEndAreDropped) {
  Pair pair;
  pair.client->Close();
  pair.client->Write("late");
  EXPECT_EQ(pair.client->write_buffer_size(), 0u);
  co_await Idle();
  EXPECT_EQ(pair.server_events->received, "");
}

CO_TEST(MemoryStreamTest, AnEndThatIsDroppedIsSeenByThePeerAsEof) {
  auto [client, server] = MakeMemoryStreams(GetRunningLoop());
  auto protocol = std::make_shared<RecordingProtocol>();
  server->Start(protocol);
  client.reset();
  co_await Idle();
  EXPECT_THAT(protocol->events, ElementsAre("eof"));
  server->Abort(/*reset=*/false, absl::OkStatus());
}

TEST(MemoryStreamLoopTest, ALoopThatEndsLosesWhatNobodyClosed) {
  auto protocol = std::make_shared<RecordingProtocol>();
  {
    ManualClock clock;
    EventLoop loop(&clock);
    auto [client, server] = MakeMemoryStreams(&loop);
    client->Start(protocol);
    loop.RunUntilIdle();
  }
  EXPECT_THAT(protocol->lost, Optional(StatusIs(StatusCode::kCancelled)));
  EXPECT_EQ(protocol.use_count(), 1);
}

CO_TEST(MemoryConnectionsTest, JoinTwoReadersAndWriters) {
  auto [client, server] = MakeMemoryConnections();
  CO_ASSERT_OK(client.writer.Write("ping\n"));
  EXPECT_THAT(co_await server.reader.ReadLine(), IsOkAndHolds("ping\n"));
  CO_ASSERT_OK(server.writer.Write("pong\n"));
  EXPECT_THAT(co_await client.reader.ReadLine(), IsOkAndHolds("pong\n"));
}

}  // namespace
}  // namespace sockbroker::streams
