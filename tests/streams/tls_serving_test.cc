// TLS where connections are opened and served: the rules of its options, and handshakes that do not
// come off.
#include <sys/socket.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/error.h"
#include "streams/open_connection.h"
#include "streams/server.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/socket_pair.h"
#include "tests/streams/sockets.h"
#include "tests/streams/tls_sides.h"

namespace sockbroker::streams {
namespace {

using absl::StatusCode;
using ::testing::HasSubstr;
using ::testing::Not;

Task<void> Nothing(StreamReader /*reader*/, StreamWriter /*writer*/) { co_return; }

Task<void> Greet(StreamReader reader, StreamWriter writer) {
  (void)writer.Write("hello\n");
  (void)co_await reader.ReadAll();
  writer.Close();
}

TlsOptions ToServer() {
  TlsOptions tls;
  tls.context = ClientContext();
  tls.server_hostname = "localhost";
  return tls;
}

StartServerOptions Serving() {
  StartServerOptions options;
  options.tls.context = ServerContext();
  return options;
}

// --- the rules of the options

// Rows: 18
CO_TEST_REAL(TlsOptionsTest, OfAClientAreRefusedWithoutAContext) {
  OpenConnectionOptions name;
  name.tls.server_hostname = "";
  OpenConnectionOptions handshake;
  handshake.tls.handshake_timeout = absl::Seconds(1);
  OpenConnectionOptions shutdown;
  shutdown.tls.shutdown_timeout = absl::Seconds(1);
  for (const OpenConnectionOptions& options : {name, handshake, shutdown}) {
    EXPECT_THAT(co_await OpenConnection("127.0.0.1", 1, options),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("only meaningful with ssl")));
  }
}

// Rows: 53
CO_TEST_REAL(TlsOptionsTest, OfAUnixClientAreRefusedWithoutAContext) {
  OpenUnixConnectionOptions name;
  name.tls.server_hostname = "";
  OpenUnixConnectionOptions handshake;
  handshake.tls.handshake_timeout = absl::Seconds(1);
  for (const OpenUnixConnectionOptions& options : {name, handshake}) {
    EXPECT_THAT(co_await OpenUnixConnection("/nowhere", options),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("only meaningful with ssl")));
  }
}

// Rows: 75, 90
CO_TEST_REAL(TlsOptionsTest, OfAServerAreRefusedWithoutAContext) {
  const TempDir directory;
  StartServerOptions tcp;
  tcp.tls.handshake_timeout = absl::Seconds(1);
  EXPECT_THAT(co_await StartServer(Nothing, "127.0.0.1", 0, tcp),
              StatusIs(StatusCode::kInvalidArgument));
  StartUnixServerOptions unix_socket;
  unix_socket.tls.shutdown_timeout = absl::Seconds(1);
  EXPECT_THAT(co_await StartUnixServer(Nothing, directory.File("socket"), unix_socket),
              StatusIs(StatusCode::kInvalidArgument));
  EXPECT_FALSE(Exists(directory.File("socket")));
}

// Rows: 19, 53
CO_TEST_REAL(TlsOptionsTest, WithoutAHostTheServerHostnameMustBeGiven) {
  TlsOptions nameless;
  nameless.context = ClientContext();
  auto [ours, theirs] = TcpSocketPair();
  OpenConnectionOptions tcp;
  tcp.tls = nameless;
  EXPECT_THAT(co_await OpenConnection(std::move(ours), tcp),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("server_hostname")));
  EXPECT_THAT(co_await OpenConnection("", 1, tcp),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("server_hostname")));
  EXPECT_THAT(co_await OpenConnection(std::nullopt, 1, tcp),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("server_hostname")));
  OpenUnixConnectionOptions unix_socket;
  unix_socket.tls = nameless;
  EXPECT_THAT(co_await OpenUnixConnection("/nowhere", unix_socket),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("server_hostname")));
}

// Rows: 23
CO_TEST_REAL(TlsOptionsTest, TimeOutsMustBePositive) {
  for (const absl::Duration timeout : {absl::ZeroDuration(), -absl::Seconds(1)}) {
    OpenConnectionOptions handshake;
    handshake.tls = ToServer();
    handshake.tls.handshake_timeout = timeout;
    OpenConnectionOptions shutdown;
    shutdown.tls = ToServer();
    shutdown.tls.shutdown_timeout = timeout;
    for (const OpenConnectionOptions& options : {handshake, shutdown}) {
      EXPECT_THAT(co_await OpenConnection("127.0.0.1", 1, options),
                  StatusIs(StatusCode::kInvalidArgument, HasSubstr("positive number")));
    }
    StartServerOptions server = Serving();
    server.tls.handshake_timeout = timeout;
    EXPECT_THAT(co_await StartServer(Nothing, "127.0.0.1", 0, server),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("positive number")));
  }
}

// Rows: 74
CO_TEST_REAL(TlsOptionsTest, AContextOfTheOtherSideIsRefused) {
  OpenConnectionOptions client;
  client.tls = ToServer();
  client.tls.context = ServerContext();
  EXPECT_THAT(co_await OpenConnection("127.0.0.1", 1, client),
              StatusIs(StatusCode::kInvalidArgument));
  StartServerOptions server;
  server.tls.context = ClientContext();
  EXPECT_THAT(co_await StartServer(Nothing, "127.0.0.1", 0, server),
              StatusIs(StatusCode::kInvalidArgument));
}

// Rows: 20, 21
CO_TEST_REAL(TlsOptionsTest, TheServerHostnameIsTheHostUnlessItIsGiven) {
  auto server = co_await StartServer(Greet, "127.0.0.1", 0, Serving());
  CO_ASSERT_OK(server);
  const int port = server->sockets()[0].port();
  OpenConnectionOptions options;
  options.tls.context = ClientContext();
  EXPECT_THAT(co_await OpenConnection("127.0.0.1", port, options), IsOk());
  options.tls.server_hostname = "elsewhere.example";
  const auto wrong = co_await OpenConnection("127.0.0.1", port, options);
  EXPECT_TRUE(GetTlsVerifyFailure(wrong.status()).has_value()) << wrong.status();
  options.tls.server_hostname = "";
  EXPECT_THAT(co_await OpenConnection("127.0.0.1", port, options), IsOk());
}

// --- over every kind of connection

// Rows: 14, 53, 204
CO_TEST_REAL(TlsServingTest, WorksOverUnixSocketsAndAdoptedOnes) {
  const TempDir directory;
  StartUnixServerOptions serving;
  serving.tls.context = ServerContext();
  auto server = co_await StartUnixServer(Greet, directory.File("socket"), serving);
  CO_ASSERT_OK(server);
  OpenUnixConnectionOptions by_path;
  by_path.tls = ToServer();
  auto connection = co_await OpenUnixConnection(directory.File("socket"), by_path);
  CO_ASSERT_OK(connection);
  EXPECT_THAT(co_await connection->reader.ReadLine(), IsOkAndHolds("hello\n"));

  OpenConnectionOptions adopted;
  adopted.tls = ToServer();
  auto second = co_await OpenConnection(ConnectNow(server->sockets()[0]), adopted);
  CO_ASSERT_OK(second);
  EXPECT_THAT(co_await second->reader.ReadLine(), IsOkAndHolds("hello\n"));
}

// Rows: 210
CO_TEST_REAL(TlsServingTest, AServerThatSpeaksPlainTextIsATlsErrorOfOpenConnection) {
  auto server = co_await StartServer(Greet, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  OpenConnectionOptions options;
  options.tls = ToServer();
  const auto connection =
      co_await OpenConnection("127.0.0.1", server->sockets()[0].port(), options);
  EXPECT_TRUE(IsTlsError(connection.status())) << connection.status();
}

// Rows: 210
CO_TEST_REAL(TlsServingTest, AServerThatHangsUpIsAResetOfOpenConnection) {
  auto hang_up = [](StreamReader reader, StreamWriter writer) -> Task<void> {
    (void)co_await reader.Read(65536);
    writer.Close();
  };
  auto server = co_await StartServer(hang_up, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  OpenConnectionOptions options;
  options.tls = ToServer();
  EXPECT_THAT(co_await OpenConnection("127.0.0.1", server->sockets()[0].port(), options),
              HasErrno(ECONNRESET));
}

// Rows: 211
CO_TEST_REAL(TlsServingTest, AServerThatSaysNothingEndsOpenConnectionInItsTime) {
  auto server = co_await StartServer(nullptr, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  OpenConnectionOptions options;
  options.tls = ToServer();
  options.tls.handshake_timeout = absl::Milliseconds(50);
  const auto connection =
      co_await OpenConnection("127.0.0.1", server->sockets()[0].port(), options);
  EXPECT_THAT(connection, StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_EQ(GetTimeoutPhase(connection.status()), "handshake");
}

// --- handshakes at a server

// Rows: 82, 83
CO_TEST_REAL(TlsServingTest, AFailedHandshakeNeitherCallsBackNorSaysAnything) {
  int called = 0;
  auto count = [&called](StreamReader /*reader*/, StreamWriter /*writer*/) -> Task<void> {
    called++;
    co_return;
  };
  StartServerOptions serving = Serving();
  serving.tls.handshake_timeout = absl::Milliseconds(50);
  auto server = co_await StartServer(count, "127.0.0.1", 0, serving);
  CO_ASSERT_OK(server);
  const Descriptor silent = ConnectNow(server->sockets()[0]);
  const Descriptor garbage = ConnectNow(server->sockets()[0]);
  CO_ASSERT_TRUE(SendNow(garbage.get(), "GET / HTTP/1.1\r\n\r\n"));
  Descriptor gone = ConnectNow(server->sockets()[0]);
  ResetNow(&gone);
  co_await Until([&] { return server->accepted_total() == 3; });
  server->Close();
  // Until all three are over, the silent one by its time.
  EXPECT_THAT(co_await server->WaitClosed(), IsOk());
  EXPECT_EQ(called, 0);
}

// Rows: 113
CO_TEST_REAL(TlsServingTest, AConnectionInItsHandshakeCountsAsActive) {
  auto server = co_await StartServer(Greet, "127.0.0.1", 0, Serving());
  CO_ASSERT_OK(server);
  Descriptor silent = ConnectNow(server->sockets()[0]);
  co_await Until([&] { return server->active_connections() == 1; });
  server->Close();
  auto closed = CreateTask(server->WaitClosed());
  co_await Turns();
  EXPECT_FALSE(closed.done());
  silent.Reset();
  EXPECT_THAT(co_await closed.Join(), IsOk());
}

// Rows: 82
CO_TEST_REAL(TlsServingTest, AStalledHandshakeHoldsUpNobody) {
  for (const AcceptMode mode : {AcceptMode::kEager, AcceptMode::kOnDemand}) {
    StartServerOptions serving = Serving();
    serving.accept = mode;
    auto server = co_await StartServer(mode == AcceptMode::kEager ? Greet : ClientConnected(),
                                       "127.0.0.1", 0, serving);
    CO_ASSERT_OK(server);
    const Descriptor silent = ConnectNow(server->sockets()[0]);
    auto accept = [](Server accepting) -> Task<void> {
      absl::StatusOr<Connection> connection = co_await accepting.Accept();
      CO_ASSERT_OK(connection);
      co_await Greet(std::move(connection->reader), std::move(connection->writer));
    };
    std::optional<TaskHandle<void>> accepting;
    if (mode == AcceptMode::kOnDemand) accepting = CreateTask(accept(*server));
    OpenConnectionOptions options;
    options.tls = ToServer();
    auto connection = co_await OpenConnection("127.0.0.1", server->sockets()[0].port(), options);
    CO_ASSERT_OK(connection);
    EXPECT_THAT(co_await connection->reader.ReadLine(), IsOkAndHolds("hello\n"));
    connection->writer.Close();
    CO_ASSERT_OK(co_await connection->writer.WaitClosed());
    if (accepting.has_value()) co_await accepting->Join();
  }
}

// --- ends

// Rows: 116, 118
CO_TEST_REAL(TlsServingTest, CloseClientsSaysCloseNotifyAndAbortClientsDoesNot) {
  for (const bool gracefully : {true, false}) {
    auto server = co_await StartServer(Greet, "127.0.0.1", 0, Serving());
    CO_ASSERT_OK(server);
    OpenConnectionOptions options;
    options.tls = ToServer();
    options.tls.require_close_notify = true;
    auto connection = co_await OpenConnection("127.0.0.1", server->sockets()[0].port(), options);
    CO_ASSERT_OK(connection);
    EXPECT_THAT(co_await connection->reader.ReadLine(), IsOkAndHolds("hello\n"));
    EXPECT_EQ(gracefully ? server->CloseClients() : server->AbortClients(), 1u);
    const auto end = co_await connection->reader.ReadAll();
    if (gracefully) {
      EXPECT_THAT(end, IsOkAndHolds(""));
    } else {
      EXPECT_THAT(end, Not(IsOk()));
    }
  }
}

// Rows: 217
CO_TEST_REAL(TlsServingTest, AResetOfTheSocketIsTheSameErrorAsOnAPlainStream) {
  auto abort = [](StreamReader /*reader*/, StreamWriter writer) -> Task<void> {
    writer.Abort();
    co_return;
  };
  auto server = co_await StartServer(abort, "127.0.0.1", 0, Serving());
  CO_ASSERT_OK(server);
  OpenConnectionOptions options;
  options.tls = ToServer();
  auto connection = co_await OpenConnection("127.0.0.1", server->sockets()[0].port(), options);
  // The reset may come before the handshake is over here: it is over for the server first.
  absl::Status status = connection.status();
  if (connection.ok()) status = (co_await connection->reader.Read(1)).status();
  EXPECT_THAT(status, HasErrno(ECONNRESET));
}

// Rows: 184, 215
CO_TEST_REAL(TlsServingTest, ABigAnswerIsDeliveredInFullThoughItsWriterHasClosed) {
  const std::string big(5 << 20, 'x');
  auto answer = [&big](StreamReader /*reader*/, StreamWriter writer) -> Task<void> {
    (void)writer.Write(big);
    (void)writer.Write(big);
    writer.Close();
    co_return;
  };
  auto server = co_await StartServer(answer, "127.0.0.1", 0, Serving());
  CO_ASSERT_OK(server);
  OpenConnectionOptions options;
  options.tls = ToServer();
  options.tls.require_close_notify = true;
  auto connection = co_await OpenConnection("127.0.0.1", server->sockets()[0].port(), options);
  CO_ASSERT_OK(connection);
  EXPECT_THAT(co_await connection->reader.ReadAll(), IsOkAndHolds(big + big));
  EXPECT_THAT(co_await connection->writer.WaitClosed(), IsOk());
}

}  // namespace
}  // namespace sockbroker::streams
