// The link: it comes back by itself, and ends when it must.
#include <vector>

#include "client/cpp/broker.h"
#include "client/cpp/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/sleep.h"
#include "streams/streams.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "tests/client/cpp/memory_broker.h"

namespace sockbroker::client {
namespace {

using streams::Idle;
using streams::IsOkAndHolds;
using streams::StatusIs;
using streams::Task;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::Le;

CO_TEST(Link, ABrokerThatIsNotThereIsSaidAtOnce) {
  MemoryBroker memory;
  memory.RefuseDials(1, absl::UnavailableError("nobody there"));
  EXPECT_THAT(co_await memory.Connect(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(memory.dials(), 1);
}

CO_TEST(Link, ABrokerThatIsNotThereYetIsWaitedForIfAsked) {
  MemoryBroker memory;
  memory.RefuseDials(5, absl::UnavailableError("nobody there"));
  BrokerOptions options;
  options.wait_for_broker = true;
  CO_ASSERT_OK(co_await memory.Connect(options));
  EXPECT_EQ(memory.dials(), 6);
}

CO_TEST(Link, NobodyTriesAgainWhereTheAnswerWouldBeTheSame) {
  for (const absl::StatusCode code :
       {absl::StatusCode::kUnauthenticated, absl::StatusCode::kPermissionDenied,
        absl::StatusCode::kUnimplemented, absl::StatusCode::kInvalidArgument}) {
    MemoryBroker memory;
    BrokerOptions options;
    options.wait_for_broker = true;
    auto broker = co_await memory.Connect(options);
    CO_ASSERT_OK(broker);
    auto connection = co_await broker->OpenConnection("peer", 1);
    CO_ASSERT_OK(connection);
    memory.Cut(absl::Status(code, "no"));
    auto read = co_await connection->reader.Read(1);
    EXPECT_THAT(read, StatusIs(code));
    EXPECT_EQ(GetStreamEnd(read.status()), StreamEnd::kGivenUp);
    EXPECT_EQ(broker->state(), LinkState::kClosed);
    EXPECT_THAT(co_await broker->OpenConnection("peer", 1), StatusIs(code));
    EXPECT_EQ(memory.dials(), 1);
  }
}

CO_TEST(Link, ABrokerThatCannotBeUnderstoodIsAskedMoreAndMoreSeldomAndGivenUp) {
  MemoryBroker memory;
  BrokerOptions options;
  options.give_up_after = absl::Minutes(1);
  auto broker = co_await memory.Connect(options);
  CO_ASSERT_OK(broker);
  CO_ASSERT_OK(co_await broker->OpenConnection("peer", 1));
  // Every link carries more than the greeting before.
  EXPECT_THAT(co_await broker->OpenConnection("peer", MemoryBroker::kUnreadable),
              StatusIs(absl::StatusCode::kInternal));
  EXPECT_EQ(broker->state(), LinkState::kClosed);
  EXPECT_THAT(memory.dials(), ::testing::AllOf(Ge(10), Le(80)));
}

CO_TEST(Link, TheWaitsGrowButNeverBeyondTheirBound) {
  MemoryBroker memory;
  BrokerOptions options;
  options.wait_for_broker = true;
  std::vector<absl::Duration> waits;
  options.on_state = [&](const LinkEvent& event) {
    if (event.state == LinkState::kReconnecting) waits.push_back(event.retry_in);
  };
  memory.RefuseDials(60, absl::UnavailableError("nobody there"));
  CO_ASSERT_OK(co_await memory.Connect(options));
  CO_ASSERT_EQ(waits.size(), 60u);
  EXPECT_THAT(waits, ::testing::Each(Le(absl::Seconds(5))));
  EXPECT_THAT(waits[0], Le(absl::Milliseconds(20)));
  absl::Duration late;
  for (std::size_t i = 20; i < 60; ++i) late += waits[i];
  // Full jitter: half of the bound on average, and not the same for all.
  EXPECT_THAT(late / 40, Ge(absl::Seconds(1)));
  EXPECT_NE(waits[30], waits[31]);
}

CO_TEST(Link, ALinkThatStaysDownTooLongIsGivenUp) {
  MemoryBroker memory;
  BrokerOptions options;
  options.give_up_after = absl::Seconds(30);
  auto broker = co_await memory.Connect(options);
  CO_ASSERT_OK(broker);
  auto connection = co_await broker->OpenConnection("peer", 1);
  CO_ASSERT_OK(connection);
  memory.RefuseDials(1'000'000, absl::UnavailableError("nobody there"));
  const absl::Time before = streams::GetRunningLoop()->Now();
  memory.Cut();
  auto read = co_await connection->reader.Read(1);
  EXPECT_THAT(read, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(GetStreamEnd(read.status()), StreamEnd::kGivenUp);
  EXPECT_THAT(streams::GetRunningLoop()->Now() - before, Ge(absl::Seconds(30)));
  EXPECT_THAT(streams::GetRunningLoop()->Now() - before, Le(absl::Seconds(31)));
}

CO_TEST(Link, ABrokerThatDoesNotAnswerIsTriedAgain) {
  MemoryBroker memory;
  memory.Freeze(true);
  BrokerOptions options;
  options.wait_for_broker = true;
  auto connecting = streams::CreateTask(memory.Connect(options));
  (void)co_await streams::Sleep(absl::Seconds(9));
  EXPECT_FALSE(connecting.done());
  memory.Freeze(false);
  CO_ASSERT_OK(co_await connecting.Join());
  EXPECT_EQ(memory.dials(), 2);
}

CO_TEST(Link, ItsStatesAreTold) {
  MemoryBroker memory;
  BrokerOptions options;
  std::vector<LinkState> states;
  options.on_state = [&](const LinkEvent& event) { states.push_back(event.state); };
  auto broker = co_await memory.Connect(options);
  CO_ASSERT_OK(broker);
  memory.GoAway();
  co_await Idle();
  memory.Cut();
  co_await Idle();
  (void)co_await streams::Sleep(absl::Seconds(1));
  broker->Close();
  EXPECT_THAT(states, ElementsAre(LinkState::kConnecting, LinkState::kUp, LinkState::kDraining,
                                  LinkState::kReconnecting, LinkState::kConnecting, LinkState::kUp,
                                  LinkState::kClosed));
}

CO_TEST(Link, NothingIsOpenedOnABrokerThatDrainsAndWhatIsOpenGoesOn) {
  MemoryBroker memory;
  auto broker = co_await memory.Connect();
  CO_ASSERT_OK(broker);
  auto connection = co_await broker->OpenConnection("peer", 1);
  CO_ASSERT_OK(connection);
  memory.GoAway();
  co_await Idle();
  auto refused = co_await broker->OpenConnection("peer", 2);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(GetReason(refused.status()), v1::DRAINING);
  memory.peer(0).Send("still here");
  EXPECT_THAT(co_await connection->reader.Read(100), IsOkAndHolds("still here"));
}

CO_TEST(Link, WaitEndedReturnsWhenTheBrokerKnowsOfWhatWasAborted) {
  MemoryBroker memory;
  auto broker = co_await memory.Connect();
  CO_ASSERT_OK(broker);
  auto aborted = co_await broker->OpenConnection("peer", 1);
  CO_ASSERT_OK(aborted);
  auto open = co_await broker->OpenConnection("peer", 2);
  CO_ASSERT_OK(open);
  CO_ASSERT_OK(co_await broker->WaitEnded());
  aborted->writer.Abort();
  EXPECT_FALSE(memory.peer(0).aborted());
  CO_ASSERT_OK(co_await broker->WaitEnded());
  EXPECT_TRUE(memory.peer(0).aborted());
  EXPECT_FALSE(memory.peer(1).aborted());
}

CO_TEST(Link, WaitEndedDoesNotWaitForALinkThatIsDown) {
  MemoryBroker memory;
  auto broker = co_await memory.Connect();
  CO_ASSERT_OK(broker);
  auto connection = co_await broker->OpenConnection("peer", 1);
  CO_ASSERT_OK(connection);
  memory.RefuseDials(1000, absl::UnavailableError("nobody there"));
  connection->writer.Abort();
  memory.Cut();
  const absl::Time began = streams::GetRunningLoop()->Now();
  CO_ASSERT_OK(co_await broker->WaitEnded());
  EXPECT_EQ(streams::GetRunningLoop()->Now(), began);
  EXPECT_FALSE(memory.peer(0).aborted());
}

CO_TEST(Link, TheLastHandleLetsTheLinkGo) {
  MemoryBroker memory;
  {
    auto broker = co_await memory.Connect();
    CO_ASSERT_OK(broker);
    EXPECT_EQ(memory.sessions(), 1u);
  }
  co_await Idle();
  EXPECT_EQ(memory.sessions(), 0u);
}

CO_TEST(Link, AConnectionKeepsTheLinkUntilItHasEnded) {
  MemoryBroker memory;
  std::optional<Connection> connection;
  {
    auto broker = co_await memory.Connect();
    CO_ASSERT_OK(broker);
    auto opened = co_await broker->OpenConnection("peer", 1);
    CO_ASSERT_OK(opened);
    connection = *std::move(opened);
  }
  memory.peer(0).Send("hi");
  EXPECT_THAT(co_await connection->reader.Read(10), IsOkAndHolds("hi"));
  connection.reset();
  co_await Idle();
  EXPECT_TRUE(memory.peer(0).closed());
  EXPECT_EQ(memory.sessions(), 0u);
}

TEST(Link, ALoopThatEndsTakesItAlongAtAnyMoment) {
  for (int turns = 0; turns < 40; ++turns) {
    MemoryBroker memory;
    std::optional<Broker> broker;
    std::optional<Connection> connection;
    {
      streams::ManualClock clock;
      streams::EventLoop loop(&clock);
      loop.Spawn([](MemoryBroker* m, std::optional<Broker>* b,
                    std::optional<Connection>* c) -> Task<void> {
        auto connected = co_await m->Connect();
        if (!connected.ok()) co_return;
        *b = *connected;
        auto opened = co_await connected->OpenConnection("peer", 1);
        if (!opened.ok()) co_return;
        *c = *opened;
        (void)opened->writer.Write(std::string(100'000, 'x'));
        (void)co_await opened->reader.Read(1);
      }(&memory, &broker, &connection));
      for (int i = 0; i < turns; ++i) {
        loop.Stop();
        loop.RunForever();
      }
    }
  }
}

}  // namespace
}  // namespace sockbroker::client
