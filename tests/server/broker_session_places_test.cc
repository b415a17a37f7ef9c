// What a session does with connections of its own loop and of others: the same.
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/event_loop.h"
#include "streams/loop_thread.h"
#include "streams/run_coroutine_threadsafe.h"
#include "streams/server.h"
#include "streams/stream_reader.h"
#include "streams/stream_writer.h"
#include "streams/testing/test_certificates.h"
#include "tests/server/broker_fixture.h"
#include "tests/server/session_client.h"

namespace sockbroker::server {
namespace {

using streams::StreamReader;
using streams::StreamWriter;
using streams::Task;

enum class Where { kSameLoop, kOtherLoop };

const streams::TestAuthority& Authority() {
  static const auto* const authority = new streams::TestAuthority("Session Root");
  return *authority;
}

// A server that says READY to a line and then speaks TLS, over which it echoes.
class UpgradingServer {
 public:
  UpgradingServer() : thread_("peer") {
    const streams::TestCertificate leaf = Authority().Issue({.dns_names = {"peer.test"}});
    auto context = streams::TlsContext::Create({.side = streams::TlsSide::kServer,
                                                .certificate_pem = leaf.certificate_pem,
                                                .private_key_pem = leaf.key_pem});
    EXPECT_TRUE(context.ok());
    auto server = streams::RunCoroutineThreadsafe(
                      streams::StartServer(
                          [context = *context](StreamReader reader, StreamWriter writer) {
                            return Serve(context, std::move(reader), std::move(writer));
                          },
                          "127.0.0.1", 0),
                      thread_.loop())
                      .Result();
    EXPECT_TRUE(server->ok());
    server_ = **std::move(server);
  }
  uint16_t port() const { return server_.sockets()[0].port(); }

 private:
  static Task<void> Serve(std::shared_ptr<const streams::TlsContext> context, StreamReader reader,
                          StreamWriter writer) {
    const auto line = co_await reader.ReadLine();
    if (!line.ok() || *line != "STARTTLS\n") {
      (void)writer.Write("PLAIN");
      writer.Close();
      co_return;
    }
    (void)writer.Write("READY\n");
    streams::StartTlsOptions options;
    options.unread = streams::StartTlsOptions::Unread::kBelongsToTls;
    if (!(co_await writer.StartTls(context, options)).ok()) co_return;
    while (true) {
      const auto data = co_await reader.Read(65536);
      if (!data.ok() || data->empty()) break;
      (void)writer.Write(*data);
      if (!(co_await writer.Drain()).ok()) break;
    }
    writer.Close();
  }

  streams::LoopThread thread_;
  streams::Server server_;
};

class SessionPlacesTest : public BrokerFixture, public ::testing::WithParamInterface<Where> {
 protected:
  // Connections, servers and sessions take the loops by turns: of the one under test, the session
  // and the anchor, each has its own.
  BrokerOptions Options() override {
    BrokerOptions options = BrokerFixture::Options();
    options.loops = 3;
    return options;
  }
  std::shared_ptr<TestChannel> Bind(SessionClient* client, const std::string& handle) {
    auto channel = client->Bind(handle);
    channel->WaitBound();
    return channel;
  }
  // Right after the connection under test and the session were made: on the next loop a connection
  // that decides where the session lives.
  void Place(SessionClient* client) {
    if (GetParam() == Where::kSameLoop) return;
    anchor_ = Connect();
    Bind(client, anchor_.handle);
  }
  Connected anchor_;
};

INSTANTIATE_TEST_SUITE_P(, SessionPlacesTest,
                         ::testing::Values(Where::kSameLoop, Where::kOtherLoop),
                         [](const auto& place) {
                           return place.param == Where::kSameLoop ? "SameLoop" : "OtherLoop";
                         });

TEST_P(SessionPlacesTest, BytesAndEndsGoBothWays) {
  auto [handle, peer] = Connect();
  SessionClient client(channel_);
  Place(&client);
  auto connection = Bind(&client, handle);
  connection->Write("request");
  connection->WriteEof();
  EXPECT_EQ(peer.ReceiveAll(), "request");
  peer.Send("answer");
  peer.ShutdownWrite();
  EXPECT_EQ(connection->ReceiveAll(), "answer");
  connection->Close();
  EXPECT_EQ(connection->WaitClosed().reason(), v1::CLOSED_BY_CLIENT);
}

TEST_P(SessionPlacesTest, ManyBytesArriveWholeThroughLinksThatBreak) {
  auto [handle, peer] = Connect();
  SessionClient client(channel_);
  Place(&client);
  auto connection = Bind(&client, handle);
  std::string up(4 << 20, 'u');
  std::string down(4 << 20, 'd');
  for (std::size_t i = 0; i < up.size(); ++i) {
    up[i] = static_cast<char>(i * 31 >> 5);
    down[i] = static_cast<char>(i * 37 >> 6);
  }
  std::thread sender([&socket = peer, &down] { socket.Send(down); });
  std::thread receiver([&socket = peer, &up] { EXPECT_TRUE(socket.Receive(up.size()) == up); });
  connection->Write(up);
  std::string got;
  for (int i = 1; i <= 8; ++i) {
    got += connection->Receive(down.size() / 8);
    if (i == 8) break;
    client.Cut();
    client.Connect();
  }
  EXPECT_TRUE(got == down);
  sender.join();
  receiver.join();
}

TEST_P(SessionPlacesTest, WhatTheClientDidNotTakeIsReadByWhoeverComesNext) {
  auto [handle, peer] = Connect();
  SessionClient client(channel_);
  Place(&client);
  auto connection = Bind(&client, handle);
  const std::string data(300'000, 'x');
  peer.Send("taken ");
  EXPECT_EQ(connection->Receive(6), "taken ");
  std::thread sender([&socket = peer, &data] { socket.Send(data); });
  EVENTUALLY(connection->Waiting().size() > 20'000);
  connection->Detach();
  connection->WaitDetached();
  std::string rest;
  while (rest.size() < data.size()) rest += Read(handle, 65536).data();
  EXPECT_TRUE(rest == data);
  sender.join();
}

TEST_P(SessionPlacesTest, AStealIsFencedWhereverTheTwoSessionsLive) {
  auto [handle, peer] = Connect();
  SessionClient first(channel_);
  Place(&first);
  auto connection = Bind(&first, handle);
  connection->Write("one");
  EXPECT_EQ(peer.Receive(3), "one");
  first.Hold(true);
  SessionClient second(channel_);
  auto stolen = second.Bind(handle, /*steal=*/true);
  stolen->WaitBound();
  connection->Write("POISON");
  stolen->Write("two");
  stolen->Close();
  EXPECT_EQ(peer.ReceiveAll(), "two");
  first.Hold(false);
  connection->WaitFenced();
}

TEST_P(SessionPlacesTest, AResetReachesTheClientBehindItsData) {
  auto [handle, peer] = Connect();
  SessionClient client(channel_);
  Place(&client);
  auto connection = Bind(&client, handle);
  peer.Send("last");
  EVENTUALLY(connection->Waiting() == "last");
  peer.Reset();
  EXPECT_EQ(connection->Receive(4), "last");
  EXPECT_EQ(connection->WaitClosed().reason(), v1::CONNECTION_RESET);
}

TEST_P(SessionPlacesTest, AcceptedConnectionsWorkAndUnclaimedOnesGoBack) {
  const v1::Server server = Start();
  SessionClient client(channel_);
  Place(&client);
  client.Listen(server.handle(), 2);
  Peer peer = ConnectTo(server.sockets(0));
  auto accepted = client.WaitAccepted();
  peer.Send("hi");
  EXPECT_EQ(accepted->Receive(2), "hi");
  accepted->Write("ho");
  EXPECT_EQ(peer.Receive(2), "ho");
  client.Hold(true);
  Peer other = ConnectTo(server.sockets(0));
  other.Send("unclaimed");
  Settle();
  Advance(absl::Seconds(11));
  const v1::Connection back = Accept(server.handle());
  EXPECT_EQ(Read(back.handle(), 100).data(), "unclaimed");
}

TEST_P(SessionPlacesTest, StartTlsUpgradesAtTheExactByteThoughTheLinkBreaks) {
  const UpgradingServer server;
  v1::OpenConnectionRequest request;
  request.set_host("127.0.0.1");
  request.set_port(server.port());
  v1::OpenConnectionResponse response;
  ASSERT_TRUE(Call(request, &response).ok());
  const std::string handle = response.connection().handle();
  SessionClient client(channel_);
  Place(&client);
  auto connection = Bind(&client, handle);
  connection->Write("STARTTLS\n");
  EXPECT_EQ(connection->Receive(6), "READY\n");
  v1::TlsOptions tls;
  tls.set_ca_pem(Authority().certificate_pem());
  tls.set_server_hostname("peer.test");
  // The link breaks before, in and behind the handshake.
  client.Cut();
  connection->StartTls(tls);
  connection->Write("secret");
  client.Connect();
  client.Cut();
  client.Connect();
  connection->WaitTls();
  client.Cut();
  client.Connect();
  EXPECT_EQ(connection->Receive(6), "secret");
  EXPECT_EQ(Get(handle).tls().version(), "TLSv1.3");
  EXPECT_EQ(Get(handle).tls().read_offset(), 6u);
  EXPECT_EQ(Get(handle).tls().write_offset(), 9u);
}

TEST_P(SessionPlacesTest, AnUpgradeThatFailsClosesTheConnectionWithTheReason) {
  const UpgradingServer server;
  v1::OpenConnectionRequest request;
  request.set_host("127.0.0.1");
  request.set_port(server.port());
  v1::OpenConnectionResponse response;
  ASSERT_TRUE(Call(request, &response).ok());
  SessionClient client(channel_);
  Place(&client);
  auto connection = Bind(&client, response.connection().handle());
  connection->Write("STARTTLS\n");
  EXPECT_EQ(connection->Receive(6), "READY\n");
  v1::TlsOptions tls;
  tls.set_ca_pem(Authority().certificate_pem());
  tls.set_server_hostname("another.test");
  connection->StartTls(tls);
  connection->Write("secret");
  const v1::Closed closed = connection->WaitClosed();
  EXPECT_EQ(closed.reason(), v1::TLS_FAILED);
  EXPECT_THAT(closed.status().message(), ::testing::HasSubstr("hostname mismatch"));
}

TEST_P(SessionPlacesTest, AnUpgradeWithUnusableOptionsSendsNothingInClear) {
  auto [handle, peer] = Connect();
  SessionClient client(channel_);
  Place(&client);
  auto connection = Bind(&client, handle);
  connection->Write("hello");
  v1::TlsOptions tls;
  tls.set_ca_pem("not PEM");
  connection->StartTls(tls);
  connection->Write("secret");
  EXPECT_EQ(connection->WaitClosed().status().code(),
            static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  bool reset = false;
  EXPECT_EQ(peer.ReceiveAll(&reset).find("secret"), std::string::npos);
}

}  // namespace
}  // namespace sockbroker::server
