// The client library against the real broker, over gRPC, in real time.
#include "client/cpp/broker.h"

#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "client/cpp/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/error.h"
#include "streams/streams.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/test_certificates.h"
#include "tests/client/cpp/real_broker.h"

namespace sockbroker::client {
namespace {

using streams::CreateTask;
using streams::IsOk;
using streams::IsOkAndHolds;
using streams::StatusIs;
using streams::Task;
using ::testing::Ge;
using ::testing::SizeIs;

std::string Random(std::size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// A peer on loopback that the test plays with the engine's own streams.
struct Listening {
  streams::Server server;
  int port() const { return server.sockets()[0].port(); }
};
Task<Listening> Listen(streams::ClientConnected connected) {
  auto server = co_await streams::StartServer(std::move(connected), "127.0.0.1", 0);
  EXPECT_THAT(server, IsOk());
  co_return Listening{*std::move(server)};
}

// Also what the broker's servers are given: the engine's types will do.
Task<void> Echo(streams::StreamReader reader, streams::StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(65536);
    if (!data.ok() || data->empty()) break;
    (void)writer.Write(*std::move(data));
    if (!(co_await writer.Drain()).ok()) break;
  }
  if (writer.CanWriteEof()) (void)writer.WriteEof();
  writer.Close();
}

Task<void> WriteAll(StreamWriter writer, std::string bytes) {
  for (std::size_t i = 0; i < bytes.size(); i += 50'000) {
    EXPECT_THAT(writer.Write(bytes.substr(i, 50'000)), IsOk());
    EXPECT_THAT(co_await writer.Drain(), IsOk());
  }
  EXPECT_THAT(writer.WriteEof(), IsOk());
}

CO_TEST_REAL(RealBroker, AConversationIsAsOverAnEnginesConnection) {
  RealBroker real;
  Listening peer = co_await Listen(Echo);
  Broker broker = *co_await Broker::Connect(real.address());
  auto connection = co_await broker.OpenConnection("127.0.0.1", peer.port());
  CO_ASSERT_OK(connection);
  auto [reader, writer] = *std::move(connection);
  EXPECT_EQ(writer.peername().port(), peer.port());
  CO_ASSERT_OK(writer.Write("one\ntwo\nrest"));
  CO_ASSERT_OK(writer.WriteEof());
  EXPECT_THAT(co_await reader.ReadLine(), IsOkAndHolds("one\n"));
  EXPECT_THAT(co_await reader.ReadUntil("o"), IsOkAndHolds("two"));
  EXPECT_THAT(co_await reader.ReadAll(), IsOkAndHolds("\nrest"));
  CO_ASSERT_OK(co_await writer.Flush());
  writer.Close();
  CO_ASSERT_OK(co_await writer.WaitClosed());
}

CO_TEST_REAL(RealBroker, ARefusalSaysTheErrnoOfEachAddress) {
  RealBroker real;
  Broker broker = *co_await Broker::Connect(real.address());
  int port = 0;
  {
    Listening peer = co_await Listen(Echo);
    port = peer.port();
  }
  auto connection = co_await broker.OpenConnection("127.0.0.1", port);
  EXPECT_THAT(connection, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(GetReason(connection.status()), v1::CONNECTION_REFUSED);
  EXPECT_EQ(streams::GetErrno(connection.status()), ECONNREFUSED);
  EXPECT_THAT(streams::GetAttempts(connection.status()), SizeIs(1));
}

CO_TEST_REAL(RealBroker, AnOpenThatIsCancelledEndsTheAttempt) {
  RealBroker real;
  Broker broker = *co_await Broker::Connect(real.address());
  // A listener whose backlog is full answers nobody.
  streams::StartServerOptions full;
  full.backlog = 1;
  full.start_serving = true;
  full.accept = streams::AcceptMode::kOnDemand;
  auto server = co_await streams::StartServer(nullptr, "127.0.0.1", 0, full);
  CO_ASSERT_OK(server);
  const int port = server->sockets()[0].port();
  std::vector<Connection> filling;
  while (true) {
    auto opened = co_await streams::WaitFor(broker.OpenConnection("127.0.0.1", port),
                                            absl::Milliseconds(200));
    if (!opened.ok()) {
      EXPECT_THAT(opened, StatusIs(absl::StatusCode::kDeadlineExceeded));
      break;
    }
    filling.push_back(*std::move(opened));
    CO_ASSERT_LT(filling.size(), 100u);
  }
  // Its answer (CANCELLED) has come before this one's.
  auto list = co_await broker.Call(&Broker::Rpcs::ListConnections, v1::ListConnectionsRequest());
  CO_ASSERT_OK(list);
  EXPECT_EQ(static_cast<std::size_t>(list->connections_size()), filling.size());
}

CO_TEST_REAL(RealBroker, NobodyAtTheAddressIsUnavailable) {
  RealBroker real;
  EXPECT_THAT(co_await Broker::Connect("unix:" + real.file("nobody")),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(co_await Broker::Connect("not an address"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

CO_TEST_REAL(RealBroker, ATransferGoesOnAtTheExactByteHoweverOftenTheLinkIsCut) {
  RealBroker real;
  Listening peer = co_await Listen(Echo);
  CuttingProxy proxy(real.path(), real.file("proxy.sock"));
  CO_ASSERT_OK(co_await proxy.Start());
  Broker broker = *co_await Broker::Connect(proxy.address());
  auto [reader, writer] = *co_await broker.OpenConnection("127.0.0.1", peer.port());
  const std::string sent = Random(8 << 20, 1);
  auto writing = CreateTask(WriteAll(writer, sent));
  std::string got;
  std::mt19937 random(7);
  while (got.size() < sent.size()) {
    if (proxy.connections() > proxy.cuts()) proxy.CutAfter(random() % 300'000);
    auto data = co_await reader.Read(100'000);
    CO_ASSERT_OK(data);
    CO_ASSERT_FALSE(data->empty()) << "EOF after " << got.size();
    got += std::string(*data);
  }
  EXPECT_TRUE(got == sent);
  co_await writing.Join();
  EXPECT_THAT(co_await reader.Read(1), IsOkAndHolds(""));
  EXPECT_THAT(proxy.cuts(), Ge(10));
}

CO_TEST_REAL(RealBroker, AnotherIncarnationHasLostItAndSaysWhereItStood) {
  RealBroker real;
  Listening peer = co_await Listen(Echo);
  Broker broker = *co_await Broker::Connect(real.address());
  auto [reader, writer] = *co_await broker.OpenConnection("127.0.0.1", peer.port());
  CO_ASSERT_OK(writer.Write("hello"));
  CO_ASSERT_OK(co_await writer.Flush());
  EXPECT_THAT(co_await reader.ReadExactly(5), IsOkAndHolds("hello"));
  const uint64_t before = broker.incarnation();
  real.Stop();
  real.Start();
  auto lost = co_await reader.Read(1);
  EXPECT_EQ(GetStreamEnd(lost.status()), StreamEnd::kLost) << lost.status();
  auto offsets = GetOffsets(lost.status());
  CO_ASSERT_TRUE(offsets.has_value());
  EXPECT_EQ(offsets->flushed(), 5u);
  EXPECT_EQ(offsets->read_kept(), 5u);
  EXPECT_NE(broker.incarnation(), before);
  EXPECT_THAT(co_await broker.OpenConnection("127.0.0.1", peer.port()), IsOk());
  EXPECT_THAT(co_await broker.Attach(writer.handle()), StatusIs(absl::StatusCode::kNotFound));
}

CO_TEST_REAL(RealBroker, AStealFencesTheOther) {
  RealBroker real;
  Listening peer = co_await Listen(Echo);
  Broker mine = *co_await Broker::Connect(real.address());
  Broker theirs = *co_await Broker::Connect(real.address());
  auto [reader, writer] = *co_await mine.OpenConnection("127.0.0.1", peer.port());
  EXPECT_EQ(GetReason((co_await theirs.Attach(writer.handle())).status()), v1::BOUND);
  AttachOptions options;
  options.steal = true;
  auto stolen = co_await theirs.Attach(writer.handle(), options);
  CO_ASSERT_OK(stolen);
  EXPECT_EQ(GetStreamEnd((co_await reader.Read(1)).status()), StreamEnd::kFenced);
  CO_ASSERT_OK(stolen->writer.Write("mine now"));
  EXPECT_THAT(co_await stolen->reader.ReadExactly(8), IsOkAndHolds("mine now"));
}

CO_TEST_REAL(RealBroker, ADetachedConnectionIsTakenUpByAnotherClient) {
  RealBroker real;
  Listening peer = co_await Listen(Echo);
  std::string handle;
  {
    Broker broker = *co_await Broker::Connect(real.address());
    auto [reader, writer] = *co_await broker.OpenConnection("127.0.0.1", peer.port());
    CO_ASSERT_OK(writer.Write("first\nsecond\n"));
    EXPECT_THAT(co_await reader.ReadLine(), IsOkAndHolds("first\n"));
    auto detached = co_await writer.Detach();
    CO_ASSERT_OK(detached);
    EXPECT_EQ(detached->read_offset, 6u);
    EXPECT_EQ(detached->write_offset, 13u);
    handle = detached->handle;
  }
  Broker broker = *co_await Broker::Connect(real.address());
  AttachOptions options;
  options.read_offset = 6;
  auto again = co_await broker.Attach(handle, options);
  CO_ASSERT_OK(again);
  EXPECT_THAT(co_await again->reader.ReadLine(), IsOkAndHolds("second\n"));
  CO_ASSERT_OK(again->writer.Write("third\n"));
  EXPECT_THAT(co_await again->reader.ReadLine(), IsOkAndHolds("third\n"));
  EXPECT_EQ(again->writer.write_offset(), 19u);
}

CO_TEST_REAL(RealBroker, ABrokersServerGivesItsConnectionsToACallback) {
  RealBroker real;
  Broker broker = *co_await Broker::Connect(real.address());
  auto server = co_await broker.StartServer(Echo, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  EXPECT_TRUE(server->is_serving());
  for (int i = 0; i < 5; ++i) {
    auto peer = co_await streams::OpenConnection("127.0.0.1", server->sockets()[0].port());
    CO_ASSERT_OK(peer);
    CO_ASSERT_OK(peer->writer.Write("echo me"));
    CO_ASSERT_OK(peer->writer.WriteEof());
    EXPECT_THAT(co_await peer->reader.ReadAll(), IsOkAndHolds("echo me"));
  }
  const int port = server->sockets()[0].port();
  server->Close();
  CO_ASSERT_OK(co_await server->WaitClosed());
  EXPECT_THAT(co_await streams::OpenConnection("127.0.0.1", port),
              StatusIs(absl::StatusCode::kUnavailable));
}

CO_TEST_REAL(RealBroker, AcceptTakesOneAtATimeAndGoesOnAfterACut) {
  RealBroker real;
  CuttingProxy proxy(real.path(), real.file("proxy.sock"));
  CO_ASSERT_OK(co_await proxy.Start());
  Broker broker = *co_await Broker::Connect(proxy.address());
  auto server = co_await broker.StartServer(nullptr, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  for (int i = 0; i < 4; ++i) {
    auto accepting = CreateTask(server->Accept());
    if (i % 2 == 1) {
      proxy.Cut();
      co_await streams::Turns();
    }
    auto peer = co_await streams::OpenConnection("127.0.0.1", server->sockets()[0].port());
    CO_ASSERT_OK(peer);
    CO_ASSERT_OK(peer->writer.Write("hello"));
    auto accepted = co_await accepting.Join();
    CO_ASSERT_OK(accepted);
    EXPECT_THAT(co_await accepted->reader.ReadExactly(5), IsOkAndHolds("hello"));
    CO_ASSERT_OK(accepted->writer.Write("welcome"));
    EXPECT_THAT(co_await peer->reader.ReadExactly(7), IsOkAndHolds("welcome"));
  }
}

CO_TEST_REAL(RealBroker, StartTlsAtTheExactByte) {
  RealBroker real;
  streams::TestAuthority authority("root");
  const streams::TestCertificate leaf = authority.Issue({.dns_names = {"peer.test"}});
  streams::TlsContextOptions context_options;
  context_options.side = streams::TlsSide::kServer;
  context_options.certificate_pem = leaf.certificate_pem;
  context_options.private_key_pem = leaf.key_pem;
  auto context = streams::TlsContext::Create(context_options);
  CO_ASSERT_OK(context);
  Listening peer = co_await Listen(
      [context = *context](streams::StreamReader reader, streams::StreamWriter writer) {
        return [](streams::StreamReader r, streams::StreamWriter w,
                  std::shared_ptr<const streams::TlsContext> c) -> Task<void> {
          EXPECT_THAT(co_await r.ReadLine(), IsOkAndHolds("STARTTLS\n"));
          EXPECT_THAT(w.Write("GO\n"), IsOk());
          streams::StartTlsOptions options;
          options.unread = streams::StartTlsOptions::Unread::kBelongsToTls;
          EXPECT_THAT(co_await w.StartTls(c, options), IsOk());
          co_await Echo(r, w);
        }(std::move(reader), std::move(writer), context);
      });
  Broker broker = *co_await Broker::Connect(real.address());
  auto [reader, writer] = *co_await broker.OpenConnection("127.0.0.1", peer.port());
  CO_ASSERT_OK(writer.Write("STARTTLS\n"));
  EXPECT_THAT(co_await reader.ReadLine(), IsOkAndHolds("GO\n"));
  v1::TlsOptions tls;
  tls.set_ca_pem(authority.certificate_pem());
  tls.set_server_hostname("peer.test");
  CO_ASSERT_OK(co_await writer.StartTls(tls));
  CO_ASSERT_TRUE(writer.tls_info() != nullptr);
  EXPECT_EQ(writer.tls_info()->version, "TLSv1.3");
  CO_ASSERT_OK(writer.Write("secret\n"));
  EXPECT_THAT(co_await reader.ReadLine(), IsOkAndHolds("secret\n"));
  writer.Close();
  CO_ASSERT_OK(co_await writer.WaitClosed());
}

CO_TEST_REAL(RealBroker, APeerThatDoesNotReadHoldsUpOnlyItsOwnWriter) {
  RealBroker real;
  std::optional<streams::StreamWriter> kept;
  Listening silent =
      co_await Listen([&](streams::StreamReader, streams::StreamWriter writer) -> Task<void> {
        kept = writer;
        co_return;
      });
  Listening peer = co_await Listen(Echo);
  Broker broker = *co_await Broker::Connect(real.address());
  auto stuck = co_await broker.OpenConnection("127.0.0.1", silent.port());
  CO_ASSERT_OK(stuck);
  CO_ASSERT_OK(stuck->writer.Write(std::string(32 << 20, 'x')));
  auto drain = CreateTask(stuck->writer.Drain());
  auto fast = co_await broker.OpenConnection("127.0.0.1", peer.port());
  CO_ASSERT_OK(fast);
  const std::string sent = Random(4 << 20, 3);
  auto writing = CreateTask(WriteAll(fast->writer, sent));
  auto all = co_await fast->reader.ReadAll();
  CO_ASSERT_OK(all);
  EXPECT_TRUE(*all == sent);
  co_await writing.Join();
  EXPECT_FALSE(drain.done());
  stuck->writer.Abort();
  (void)co_await drain.Join();
}

CO_TEST_REAL(RealBroker, AnyUnaryCallCanBeMade) {
  RealBroker real;
  Listening peer = co_await Listen(Echo);
  Broker broker = *co_await Broker::Connect(real.address());
  auto [reader, writer] = *co_await broker.OpenConnection("127.0.0.1", peer.port());
  auto list = co_await broker.Call(&Broker::Rpcs::ListConnections, v1::ListConnectionsRequest());
  CO_ASSERT_OK(list);
  CO_ASSERT_EQ(list->connections_size(), 1);
  EXPECT_EQ(list->connections(0).handle(), writer.handle());
  v1::GetConnectionRequest unknown;
  unknown.set_handle(std::string(32, 'x'));
  auto none = co_await broker.Call(&Broker::Rpcs::GetConnection, unknown);
  EXPECT_THAT(none, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(GetReason(none.status()), v1::WRONG_BROKER);
}

// Without a server of gRPC's in the process, whose threads would serve the client's callbacks too.
CO_TEST_REAL(AClientAlone, MayDialAndLeaveAgainAndAgain) {
  for (int i = 0; i < 300; ++i) {
    EXPECT_THAT(co_await Broker::Connect("unix:/nowhere"),
                StatusIs(absl::StatusCode::kUnavailable));
  }
}

// A thing that is destroyed with everything in flight.
TEST(RealBrokerAlone, TheLoopMayEndWithStreamsInFlight) {
  RealBroker real;
  for (int i = 0; i < 20; ++i) {
    std::optional<Broker> broker;
    std::optional<Connection> connection;
    streams::EventLoop loop;
    const auto run = [](std::string address, int kind, std::optional<Broker>* b,
                        std::optional<Connection>* c) -> Task<void> {
      Listening peer = co_await Listen(Echo);
      auto connected = co_await Broker::Connect(address);
      if (!connected.ok()) co_return;
      *b = *connected;
      if (kind == 0) co_return;
      auto opened = co_await connected->OpenConnection("127.0.0.1", peer.port());
      if (!opened.ok()) co_return;
      *c = *opened;
      (void)opened->writer.Write(std::string(1 << 20, 'x'));
      if (kind == 1) co_return;
      (void)co_await opened->reader.Read(1);
      if (kind == 2) connected->Close();
    };
    loop.RunUntilComplete(run(real.address(), i % 4, &broker, &connection));
    // The loop goes first in every other round.
    if (i % 2 == 0) {
      connection.reset();
      broker.reset();
    }
  }
}

}  // namespace
}  // namespace sockbroker::client
