// Server: its life, and that of the connections it has accepted.
#include "streams/server.h"

#include <fcntl.h>

#include <cerrno>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/open_connection.h"
#include "streams/sleep.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/socket_pair.h"
#include "streams/wait_for.h"
#include "streams/wait_queue.h"
#include "tests/streams/sockets.h"

namespace sockbroker::streams {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// A server that keeps what it accepts, and its clients.
class ServerTest : public ::testing::Test {
 protected:
  Task<Server> Start(StartServerOptions options = {}) {
    absl::StatusOr<Server> server = co_await StartServer(
        [this](StreamReader reader, StreamWriter writer) {
          return Keep(&served_, std::move(reader), std::move(writer));
        },
        "127.0.0.1", 0, options);
    EXPECT_THAT(server, IsOk());
    co_return *std::move(server);
  }
  // A client that the server has accepted.
  Task<Connection> Connect(Server server) {
    const std::size_t before = served_.size();
    absl::StatusOr<Connection> client =
        co_await OpenConnection("127.0.0.1", server.sockets()[0].port());
    EXPECT_THAT(client, IsOk());
    co_await Until([&] { return served_.size() > before; });
    co_return *std::move(client);
  }

  std::vector<Connection> served_;

 private:
  static Task<void> Keep(std::vector<Connection>* served, StreamReader reader,
                         StreamWriter writer) {
    served->push_back({std::move(reader), std::move(writer)});
    co_return;
  }
};

Task<void> ExpectBothWays(Connection a, Connection b) {
  EXPECT_THAT(a.writer.Write("to b"), IsOk());
  EXPECT_THAT(co_await b.reader.ReadExactly(4), IsOkAndHolds("to b"));
  EXPECT_THAT(b.writer.Write("to a"), IsOk());
  EXPECT_THAT(co_await a.reader.ReadExactly(4), IsOkAndHolds("to a"));
}

// --- sockets, is_serving, start_serving

// Rows: 102, 103
CO_TEST_REAL_F(ServerTest, SocketsAreKnownWhileItIsOpenAndNoneOnceItIsClosed) {
  Server server = co_await Start();
  EXPECT_THAT(server.sockets(), SizeIs(1));
  EXPECT_TRUE(server.is_serving());
  EXPECT_FALSE(server.is_closed());
  server.Close();
  EXPECT_THAT(server.sockets(), IsEmpty());
  EXPECT_FALSE(server.is_serving());
  EXPECT_TRUE(server.is_closed());
}

// Rows: 103, 104
CO_TEST_REAL_F(ServerTest, StartServingIsIdempotentWhileOpenAndFailsOnceClosed) {
  StartServerOptions options;
  options.start_serving = false;
  Server server = co_await Start(options);
  EXPECT_FALSE(server.is_serving());
  EXPECT_THAT(co_await server.StartServing(), IsOk());
  EXPECT_THAT(co_await server.StartServing(), IsOk());
  EXPECT_TRUE(server.is_serving());
  server.Close();
  EXPECT_THAT(co_await server.StartServing(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_FALSE(server.is_serving());
}

// Two servers that are bound to one port, which the kernel allows as long as neither listens.
CO_TEST_REAL_F(ServerTest, StartServingThatFailedCanBeTriedAgain) {
  StartServerOptions options;
  options.start_serving = false;
  Server server = co_await Start(options);
  const uint16_t port = server.sockets()[0].port();
  absl::StatusOr<Server> two = co_await StartServer(
      nullptr, std::vector<std::string>{"127.0.0.2", "127.0.0.1"}, Port(port), options);
  CO_ASSERT_OK(two);
  EXPECT_THAT(co_await server.StartServing(), IsOk());
  EXPECT_THAT(co_await two->StartServing(), HasErrno(EADDRINUSE));
  EXPECT_FALSE(two->is_serving());
  server.Close();
  EXPECT_THAT(co_await two->StartServing(), IsOk());
  EXPECT_TRUE(two->is_serving());
  for (const SocketAddress& address : two->sockets()) EXPECT_EQ(TryConnect(address), 0);
}

// --- serve_forever

// Rows: 105
CO_TEST_REAL_F(ServerTest, ServeForeverStartsServing) {
  StartServerOptions options;
  options.start_serving = false;
  Server server = co_await Start(options);
  TaskHandle<absl::Status> serving = CreateTask(server.ServeForever());
  co_await Turns();
  EXPECT_TRUE(server.is_serving());
  EXPECT_FALSE(serving.done());
  const Connection client = co_await Connect(server);
  server.Close();
  EXPECT_THAT(co_await serving.Join(), StatusIs(absl::StatusCode::kCancelled));
}

// Rows: 105
CO_TEST_REAL_F(ServerTest, ASecondServeForeverIsRefusedWhileTheFirstGoesOn) {
  Server server = co_await Start();
  TaskHandle<absl::Status> serving = CreateTask(server.ServeForever());
  co_await Turns();
  EXPECT_THAT(co_await server.ServeForever(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("already being awaited")));
  EXPECT_FALSE(serving.done());
  EXPECT_TRUE(server.is_serving());
  server.Close();
  (void)co_await serving.Join();
}

// Rows: 105
CO_TEST_REAL_F(ServerTest, ServeForeverOnAClosedServerIsRefused) {
  Server server = co_await Start();
  server.Close();
  EXPECT_THAT(co_await server.ServeForever(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("is closed")));
}

// Rows: 106, 107
CO_TEST_REAL_F(ServerTest,
               CancellingServeForeverStopsListeningAndWaitsForItsClientsWithoutClosingThem) {
  Server server = co_await Start();
  TaskHandle<absl::Status> serving = CreateTask(server.ServeForever());
  Connection client = co_await Connect(server);
  const SocketAddress address = server.sockets()[0];
  serving.Cancel(absl::CancelledError("enough"));
  co_await Turns();
  EXPECT_TRUE(server.is_closed());
  EXPECT_EQ(TryConnect(address), ECONNREFUSED);
  EXPECT_FALSE(serving.done());
  co_await ExpectBothWays(client, served_[0]);
  EXPECT_FALSE(serving.done());
  client.writer.Close();
  served_[0].writer.Close();
  EXPECT_THAT(co_await serving.Join(), StatusIs(absl::StatusCode::kCancelled, "enough"));
}

// Rows: 108
CO_TEST_REAL_F(ServerTest, CloseEndsServeForeverAtOnceAsCancelled) {
  Server server = co_await Start();
  TaskHandle<absl::Status> serving = CreateTask(server.ServeForever());
  const Connection client = co_await Connect(server);
  server.Close();
  EXPECT_THAT(co_await serving.Join(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(server.active_connections(), 1u);
}

// --- close

// Rows: 109
CO_TEST_REAL_F(ServerTest, CloseStopsListeningAtOnceAndLeavesConnectionsAlone) {
  Server server = co_await Start();
  const SocketAddress address = server.sockets()[0];
  const Connection client = co_await Connect(server);
  server.Close();
  EXPECT_EQ(TryConnect(address), ECONNREFUSED);
  server.Close();
  co_await ExpectBothWays(client, served_[0]);
}

// Rows: 110
CO_TEST_REAL_F(ServerTest, ConnectionsThatTheKernelHoldsAtCloseAreReset) {
  StartServerOptions options;
  options.accept = AcceptMode::kOnDemand;
  absl::StatusOr<Server> server = co_await StartServer(nullptr, "127.0.0.1", 0, options);
  CO_ASSERT_OK(server);
  absl::StatusOr<Connection> client =
      co_await OpenConnection("127.0.0.1", server->sockets()[0].port());
  CO_ASSERT_OK(client);
  server->Close();
  EXPECT_THAT(co_await client->reader.Read(1), HasErrno(ECONNRESET));
}

CO_TEST_REAL_F(ServerTest, TheServerClosesWithItsLastHandleAndItsConnectionsLiveOn) {
  std::optional<Server> server = co_await Start();
  const SocketAddress address = server->sockets()[0];
  Connection client = co_await Connect(*server);
  std::optional<Server> copy = server;
  server.reset();
  EXPECT_EQ(TryConnect(address), 0);
  copy.reset();
  EXPECT_EQ(TryConnect(address), ECONNREFUSED);
  co_await ExpectBothWays(client, served_[0]);
}

TEST_F(ServerTest, AServerThatOutlivesItsLoopIsClosedWithIt) {
  std::optional<Server> server;
  SocketAddress address;
  {
    EventLoop loop;
    server = loop.RunUntilComplete(Start());
    address = server->sockets()[0];
  }
  EXPECT_TRUE(server->is_closed());
  EXPECT_EQ(TryConnect(address), ECONNREFUSED);
  server->Close();
}

// --- wait_closed

// Rows: 111, 112
CO_TEST_REAL_F(ServerTest, WaitClosedWaitsForTheCloseAndThenForEveryConnection) {
  Server server = co_await Start();
  TaskHandle<absl::Status> early = CreateTask(server.WaitClosed());
  Connection a = co_await Connect(server);
  Connection b = co_await Connect(server);
  co_await Turns();
  EXPECT_FALSE(early.done());
  server.Close();
  TaskHandle<absl::Status> late = CreateTask(server.WaitClosed());
  served_[0].writer.Close();
  EXPECT_THAT(co_await served_[0].writer.WaitClosed(), IsOk());
  co_await Turns();
  EXPECT_FALSE(early.done());
  EXPECT_FALSE(late.done());
  served_[1].writer.Close();
  EXPECT_THAT(co_await early.Join(), IsOk());
  EXPECT_THAT(co_await late.Join(), IsOk());
  EXPECT_THAT(co_await server.WaitClosed(), IsOk());
}

// Rows: 111
CO_TEST_REAL_F(ServerTest, WaitClosedOfAnOpenServerWithoutConnectionsWaits) {
  Server server = co_await Start();
  TaskHandle<absl::Status> waiter = CreateTask(server.WaitClosed());
  co_await Turns();
  EXPECT_FALSE(waiter.done());
  server.Close();
  EXPECT_THAT(co_await waiter.Join(), IsOk());
}

// Rows: 114
CO_TEST_REAL_F(ServerTest, CancellingOneWaitClosedLeavesTheOthersWaiting) {
  Server server = co_await Start();
  TaskHandle<absl::Status> a = CreateTask(server.WaitClosed());
  TaskHandle<absl::Status> b = CreateTask(server.WaitClosed());
  co_await Turns();
  a.Cancel();
  EXPECT_THAT(co_await a.Join(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_FALSE(b.done());
  server.Close();
  EXPECT_THAT(co_await b.Join(), IsOk());
}

// --- close_clients, abort_clients

// Rows: 116
CO_TEST_REAL_F(ServerTest, CloseClientsFlushesAndClosesEachConnectionAndGoesOnServing) {
  Server server = co_await Start();
  Connection a = co_await Connect(server);
  Connection b = co_await Connect(server);
  // More than the kernel takes, so that some of it is still to be flushed.
  const std::string big(8 << 20, 'x');
  EXPECT_THAT(served_[0].writer.Write(big), IsOk());
  EXPECT_GT(served_[0].writer.GetWriteBufferSize(), 0u);
  EXPECT_EQ(server.CloseClients(), 2u);
  EXPECT_THAT(co_await b.reader.ReadAll(), IsOkAndHolds(""));
  absl::StatusOr<absl::Cord> all = co_await a.reader.ReadAll();
  CO_ASSERT_OK(all);
  EXPECT_TRUE(*all == big);
  EXPECT_THAT(co_await served_[0].writer.WaitClosed(), IsOk());
  EXPECT_EQ(server.active_connections(), 0u);
  EXPECT_TRUE(server.is_serving());
  co_await ExpectBothWays(co_await Connect(server), served_[2]);
}

// Rows: 116
CO_TEST_REAL_F(ServerTest, CloseClientsMayBeCalledAfterCloseAndWithoutClients) {
  Server server = co_await Start();
  EXPECT_EQ(server.CloseClients(), 0u);
  Connection client = co_await Connect(server);
  server.Close();
  EXPECT_EQ(server.CloseClients(), 1u);
  EXPECT_THAT(co_await client.reader.ReadAll(), IsOkAndHolds(""));
  EXPECT_THAT(co_await server.WaitClosed(), IsOk());
  EXPECT_EQ(server.CloseClients(), 0u);
  EXPECT_EQ(server.AbortClients(), 0u);
}

// Rows: 117
CO_TEST_REAL_F(ServerTest, AbortClientsDropsWhatIsBufferedAndResetsEachConnection) {
  Server server = co_await Start();
  Connection client = co_await Connect(server);
  EXPECT_THAT(served_[0].writer.Write(std::string(8 << 20, 'x')), IsOk());
  EXPECT_EQ(server.AbortClients(), 1u);
  absl::StatusOr<absl::Cord> all = co_await client.reader.ReadAll();
  EXPECT_THAT(all, HasErrno(ECONNRESET));
  EXPECT_LT(client.reader.bytes_received(), 8u << 20);
  EXPECT_THAT(co_await served_[0].writer.WaitClosed(), IsOk());
  EXPECT_TRUE(server.is_serving());
}

Task<void> CloseEverything(Server server, bool* closed) {
  server.Close();
  EXPECT_THAT(co_await server.WaitClosed(), IsOk());
  *closed = true;
}

// Rows: 119
CO_TEST_REAL_F(ServerTest, AfterCloseAndCloseClientsWaitClosedEndsWithinTwoTurns) {
  Server server = co_await Start();
  std::vector<Connection> clients;
  clients.reserve(5);
  for (int i = 0; i < 5; ++i) clients.push_back(co_await Connect(server));
  bool closed = false;
  TaskHandle<void> closing = CreateTask(CloseEverything(server, &closed));
  co_await Yield();
  co_await Yield();
  EXPECT_FALSE(closed);
  server.CloseClients();
  co_await Yield();
  co_await Yield();
  EXPECT_TRUE(closed);
}

// --- accept on demand

class AcceptTest : public ::testing::Test {
 protected:
  Task<Server> Start() {
    StartServerOptions options;
    options.accept = AcceptMode::kOnDemand;
    absl::StatusOr<Server> server = co_await StartServer(nullptr, "127.0.0.1", 0, options);
    EXPECT_THAT(server, IsOk());
    co_return *std::move(server);
  }
};

CO_TEST_REAL_F(AcceptTest, ConnectionsStayInTheKernelUntilSomebodyAccepts) {
  Server server = co_await Start();
  const Descriptor a = ConnectNow(server.sockets()[0]);
  const Descriptor b = ConnectNow(server.sockets()[0]);
  co_await Turns();
  EXPECT_EQ(server.accepted_total(), 0u);
  absl::StatusOr<Connection> first = co_await server.Accept();
  CO_ASSERT_OK(first);
  EXPECT_EQ(first->writer.peername(), SocketAddress::OfLocal(a.get()));
  co_await Turns();
  EXPECT_EQ(server.accepted_total(), 1u);
  absl::StatusOr<Connection> second = co_await server.Accept();
  CO_ASSERT_OK(second);
  EXPECT_EQ(second->writer.peername(), SocketAddress::OfLocal(b.get()));
  EXPECT_EQ(server.active_connections(), 2u);
}

CO_TEST_REAL_F(AcceptTest, SeveralWaitersAreServedInTheirOrder) {
  Server server = co_await Start();
  TaskHandle<absl::StatusOr<Connection>> first = CreateTask(server.Accept());
  TaskHandle<absl::StatusOr<Connection>> second = CreateTask(server.Accept());
  TaskHandle<absl::StatusOr<Connection>> third = CreateTask(server.Accept());
  co_await Turns();
  const Descriptor a = ConnectNow(server.sockets()[0]);
  const Descriptor b = ConnectNow(server.sockets()[0]);
  EXPECT_EQ((co_await first.Join())->writer.peername(), SocketAddress::OfLocal(a.get()));
  EXPECT_EQ((co_await second.Join())->writer.peername(), SocketAddress::OfLocal(b.get()));
  co_await Turns();
  EXPECT_FALSE(third.done());
  server.Close();
  EXPECT_THAT(co_await third.Join(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

CO_TEST_REAL_F(AcceptTest, ACancelledAcceptTakesNoConnection) {
  Server server = co_await Start();
  TaskHandle<absl::StatusOr<Connection>> gone = CreateTask(server.Accept());
  TaskHandle<absl::StatusOr<Connection>> stays = CreateTask(server.Accept());
  co_await Turns();
  gone.Cancel();
  EXPECT_THAT(co_await gone.Join(), StatusIs(absl::StatusCode::kCancelled));
  const Descriptor client = ConnectNow(server.sockets()[0]);
  EXPECT_THAT(co_await stays.Join(), IsOk());
  EXPECT_EQ(server.accepted_total(), 1u);
}

CO_TEST_REAL_F(AcceptTest, AnAcceptThatTimedOutLeavesTheConnectionForTheNext) {
  Server server = co_await Start();
  EXPECT_THAT(co_await WaitFor(server.Accept(), absl::Milliseconds(5)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  const Descriptor client = ConnectNow(server.sockets()[0]);
  EXPECT_THAT(co_await server.Accept(), IsOk());
}

CO_TEST_REAL_F(AcceptTest, AcceptIsRefusedWhenNotServingWhenClosedAndWhenThereIsACallback) {
  StartServerOptions options;
  options.accept = AcceptMode::kOnDemand;
  options.start_serving = false;
  absl::StatusOr<Server> idle = co_await StartServer(nullptr, "127.0.0.1", 0, options);
  CO_ASSERT_OK(idle);
  EXPECT_THAT(co_await idle->Accept(), StatusIs(absl::StatusCode::kFailedPrecondition));
  idle->Close();
  EXPECT_THAT(co_await idle->Accept(), StatusIs(absl::StatusCode::kFailedPrecondition));
  absl::StatusOr<Server> eager = co_await StartServer(nullptr, "127.0.0.1", 0);
  CO_ASSERT_OK(eager);
  EXPECT_THAT(co_await eager->Accept(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

CO_TEST_REAL_F(AcceptTest, WhatAClientSentBeforeItWasAcceptedIsThere) {
  Server server = co_await Start();
  Descriptor client = ConnectNow(server.sockets()[0]);
  EXPECT_TRUE(SendNow(client.get(), "early"));
  client.Reset();
  absl::StatusOr<Connection> accepted = co_await server.Accept();
  CO_ASSERT_OK(accepted);
  EXPECT_THAT(co_await accepted->reader.ReadAll(), IsOkAndHolds("early"));
}

}  // namespace
}  // namespace sockbroker::streams
