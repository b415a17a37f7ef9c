// Servers: starting, Accept and its claims, PROXY headers, closing, leases.
#include <sys/stat.h>

#include <string>

#include "tests/server/broker_fixture.h"

namespace sockbroker::server {
namespace {

using Stub = v1::SocketBroker::Stub;
using Async = class v1::SocketBroker::Stub::async;

class BrokerServers : public BrokerFixture {
 protected:
  v1::Server GetServer(const std::string& handle) {
    v1::GetServerRequest request;
    request.set_handle(handle);
    v1::Server response;
    const grpc::Status status = Do(&Stub::GetServer, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  grpc::Status TryStart(const std::function<void(v1::StartServerRequest*)>& edit) {
    v1::StartServerRequest request;
    request.add_hosts("127.0.0.1");
    request.set_port(0);
    edit(&request);
    v1::StartServerResponse response;
    return Do(&Stub::StartServer, request, &response);
  }
  void CloseServer(const std::string& handle) {
    v1::CloseServerRequest request;
    request.set_handle(handle);
    v1::CloseServerResponse response;
    EXPECT_TRUE(Do(&Stub::CloseServer, request, &response).ok());
  }
  std::shared_ptr<Pending<v1::AcceptResponse>> BeginAccept(const std::string& server,
                                                           const std::string& request_id = "") {
    v1::AcceptRequest request;
    request.set_server(server);
    request.set_request_id(request_id);
    return Begin<v1::AcceptRequest, v1::AcceptResponse>(&Async::Accept, request);
  }
};

TEST_F(BrokerServers, AServerAcceptsWhenAsked) {
  const v1::Server server = Start();
  ASSERT_EQ(server.sockets_size(), 1);
  EXPECT_NE(server.sockets(0).tcp().port(), 0u);
  EXPECT_TRUE(server.is_serving());
  auto waiting = BeginAccept(server.handle());
  EVENTUALLY(GetServer(server.handle()).waiting_accepts() == 1);
  Peer client = ConnectTo(server.sockets(0));
  ASSERT_TRUE(waiting->Wait().ok());
  const v1::Connection connection = waiting->response.connection();
  EXPECT_EQ(connection.server(), server.handle());
  client.Send("hello\n");
  EXPECT_EQ(ReadLine(connection.handle()).data(), "hello\n");
  Write(connection.handle(), "hi");
  EXPECT_EQ(client.Receive(2), "hi");
  const v1::Server now = GetServer(server.handle());
  EXPECT_EQ(now.active_connections(), 1u);
  EXPECT_EQ(now.accepted_total(), 1u);
  EXPECT_EQ(now.waiting_accepts(), 0u);
  EXPECT_EQ(now.unclaimed(), 0u);
}

TEST_F(BrokerServers, ConnectionsStayInTheBacklogWhileNobodyAsks) {
  const v1::Server server = Start();
  Peer first = ConnectTo(server.sockets(0));
  Peer second = ConnectTo(server.sockets(0));
  Settle();
  EXPECT_EQ(GetServer(server.handle()).accepted_total(), 0u);
  EXPECT_EQ(budget_->in_use(), 1u);  // the listener's
  const std::string handle = Accept(server.handle()).handle();
  first.Send("1");
  EXPECT_EQ(Read(handle, 1).data(), "1");
  EXPECT_EQ(GetServer(server.handle()).accepted_total(), 1u);
}

TEST_F(BrokerServers, ACancelledAcceptTakesNothing) {
  const v1::Server server = Start();
  auto waiting = BeginAccept(server.handle());
  auto with_id = BeginAccept(server.handle(), "0123456789abcdef");
  EVENTUALLY(GetServer(server.handle()).waiting_accepts() == 2);
  waiting->context.TryCancel();
  with_id->context.TryCancel();
  EXPECT_EQ(waiting->Wait().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(with_id->Wait().error_code(), grpc::StatusCode::CANCELLED);
  EVENTUALLY(GetServer(server.handle()).waiting_accepts() == 0);
  Peer client = ConnectTo(server.sockets(0));
  Settle();
  EXPECT_EQ(GetServer(server.handle()).accepted_total(), 0u);
  EXPECT_EQ(budget_->in_use(), 1u);
  Accept(server.handle());
}

TEST_F(BrokerServers, ALostAcceptIsHadAgainByItsRequestId) {
  const v1::Server server = Start();
  Peer client = ConnectTo(server.sockets(0));
  auto first = BeginAccept(server.handle(), "0123456789abcdef");
  ASSERT_TRUE(first->Wait().ok());
  Advance(absl::Seconds(9));
  auto second = BeginAccept(server.handle(), "0123456789abcdef");
  ASSERT_TRUE(second->Wait().ok());
  EXPECT_EQ(first->response.connection().handle(), second->response.connection().handle());
  // Whoever asks again is there: it has its ten seconds once more.
  Advance(absl::Seconds(9));
  client.Send("x");
  EXPECT_EQ(Read(second->response.connection().handle(), 1).data(), "x");
}

TEST_F(BrokerServers, AnUnclaimedConnectionGoesBackToTheFrontOfTheQueue) {
  const v1::Server server = Start();
  Peer first = ConnectTo(server.sockets(0));
  Peer second = ConnectTo(server.sockets(0));
  first.Send("first");
  const std::string abandoned = Accept(server.handle()).handle();
  EXPECT_EQ(GetServer(server.handle()).unclaimed(), 1u);
  v1::ListConnectionsRequest list;
  v1::ListConnectionsResponse listed;
  EXPECT_TRUE(Do(&Stub::ListConnections, list, &listed).ok());
  EXPECT_EQ(listed.connections_size(), 0);
  Settle();
  Advance(absl::Seconds(10));
  EXPECT_EQ(GetServer(server.handle()).unclaimed(), 1u);
  const std::string claimed = Accept(server.handle()).handle();
  EXPECT_NE(claimed, abandoned);
  const v1::ReadResponse read = Read(claimed, 100);
  EXPECT_EQ(read.data(), "first");
  EXPECT_EQ(read.offset(), 0u);
  v1::GetConnectionRequest get;
  get.set_handle(abandoned);
  v1::Connection gone;
  EXPECT_EQ(DetailOf(Do(&Stub::GetConnection, get, &gone)).reason(), v1::NO_SUCH_HANDLE);
  // A claimed one stays.
  Advance(absl::Seconds(30));
  EXPECT_EQ(Get(claimed).state(), v1::CONNECTION_STATE_OPEN);
  const std::string next = Accept(server.handle()).handle();
  second.Send("second");
  EXPECT_EQ(Read(next, 6).data(), "second");
}

TEST_F(BrokerServers, AcceptsAreServedInTurn) {
  const v1::Server server = Start();
  std::vector<std::shared_ptr<Pending<v1::AcceptResponse>>> waiting;
  std::vector<Peer> clients;
  for (uint32_t i = 0; i < 5; i++) {
    waiting.push_back(BeginAccept(server.handle()));
    EVENTUALLY(GetServer(server.handle()).waiting_accepts() == i + 1);
  }
  for (int i = 0; i < 5; i++) {
    clients.push_back(ConnectTo(server.sockets(0)));
    ASSERT_TRUE(waiting[static_cast<std::size_t>(i)]->Wait().ok());
    clients.back().Send(std::to_string(i));
    EXPECT_EQ(Read(waiting[static_cast<std::size_t>(i)]->response.connection().handle(), 1).data(),
              std::to_string(i));
  }
}

TEST_F(BrokerServers, AServerThatDoesNotServeYetSaysSo) {
  const v1::Server server = Start([](auto* r) { r->mutable_options()->set_start_serving(false); });
  EXPECT_FALSE(server.is_serving());
  EXPECT_NE(server.sockets(0).tcp().port(), 0u);
  EXPECT_EQ(DetailOf(BeginAccept(server.handle())->Wait()).reason(), v1::NOT_SERVING);
  v1::StartServingRequest request;
  request.set_handle(server.handle());
  v1::StartServingResponse response;
  for (int i = 0; i < 2; i++) {
    EXPECT_TRUE(Do(&Stub::StartServing, request, &response).ok());
    EXPECT_TRUE(response.server().is_serving());
  }
  Peer client = ConnectTo(server.sockets(0));
  Accept(server.handle());
}

TEST_F(BrokerServers, ClosingEndsTheAcceptsAndLeavesTheConnections) {
  const v1::Server server = Start();
  Peer client = ConnectTo(server.sockets(0));
  const std::string handle = Accept(server.handle()).handle();
  auto waiting = BeginAccept(server.handle());
  EVENTUALLY(GetServer(server.handle()).waiting_accepts() == 1);
  CloseServer(server.handle());
  CloseServer(server.handle());
  EXPECT_EQ(DetailOf(waiting->Wait()).reason(), v1::SERVER_CLOSED);
  EXPECT_EQ(DetailOf(BeginAccept(server.handle())->Wait()).reason(), v1::SERVER_CLOSED);
  EXPECT_TRUE(GetServer(server.handle()).closed());
  EXPECT_EQ(GetServer(server.handle()).sockets_size(), 0);
  client.Send("still here\n");
  EXPECT_EQ(ReadLine(handle).data(), "still here\n");

  v1::WaitServerClosedRequest wait;
  wait.set_handle(server.handle());
  auto closed = Begin<v1::WaitServerClosedRequest, v1::WaitServerClosedResponse>(
      &Async::WaitServerClosed, wait);
  Settle();
  EXPECT_FALSE(closed->done.load());
  Close(handle);
  EXPECT_TRUE(closed->Wait().ok());
  EXPECT_EQ(closed->response.server().accepted_total(), 1u);
  EVENTUALLY(budget_->in_use() == 0);
  // From its tombstone.
  EXPECT_TRUE(GetServer(server.handle()).closed());
  CloseServer(server.handle());
  EXPECT_EQ(DetailOf(BeginAccept(server.handle())->Wait()).reason(), v1::SERVER_CLOSED);
  EXPECT_EQ(DetailOf(BeginAccept(server.handle(), "0123456789abcdef")->Wait()).reason(),
            v1::SERVER_CLOSED);
}

TEST_F(BrokerServers, ClientsAreClosedOrResetTogether) {
  const v1::Server server = Start();
  for (const bool abort : {false, true}) {
    Peer one = ConnectTo(server.sockets(0));
    Peer two = ConnectTo(server.sockets(0));
    const std::string handle = Accept(server.handle()).handle();
    Get(handle);
    Accept(server.handle());  // unclaimed
    bool reset = false;
    if (abort) {
      v1::AbortClientsRequest request;
      request.set_handle(server.handle());
      v1::AbortClientsResponse response;
      EXPECT_TRUE(Do(&Stub::AbortClients, request, &response).ok());
      EXPECT_EQ(response.connections(), 2u);
    } else {
      v1::CloseClientsRequest request;
      request.set_handle(server.handle());
      v1::CloseClientsResponse response;
      EXPECT_TRUE(Do(&Stub::CloseClients, request, &response).ok());
      EXPECT_EQ(response.connections(), 2u);
    }
    one.ReceiveAll(&reset);
    EXPECT_EQ(reset, abort);
    two.ReceiveAll(&reset);
    EXPECT_EQ(reset, abort);
    EVENTUALLY(Get(handle).state() == v1::CONNECTION_STATE_CLOSED);
    EXPECT_EQ(Get(handle).close_reason(), v1::CLOSED_BY_SERVER);
    EXPECT_TRUE(GetServer(server.handle()).is_serving());
  }
}

TEST_F(BrokerServers, AServersLeaseIsKeptByAcceptAndThenEnds) {
  const v1::Server server =
      Start([](auto* r) { r->mutable_options()->mutable_lease()->set_seconds(5); });
  auto waiting = BeginAccept(server.handle());
  EVENTUALLY(GetServer(server.handle()).waiting_accepts() == 1);
  Advance(absl::Minutes(5));
  EXPECT_FALSE(waiting->done.load());
  waiting->context.TryCancel();
  (void)waiting->Wait();
  EVENTUALLY(GetServer(server.handle()).waiting_accepts() == 0);
  Settle();
  Advance(absl::Seconds(5));
  EVENTUALLY(GetServer(server.handle()).closed());
  EXPECT_EQ(GetServer(server.handle()).close_message(), "the lease has expired");
  EVENTUALLY(budget_->in_use() == 0);
}

TEST_F(BrokerServers, AnAddressInUseIsABindError) {
  const grpc::Status status = TryStart([&](auto* r) { r->set_port(listener_.port()); });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailOf(status).reason(), v1::BIND_FAILED);
  EXPECT_EQ(DetailOf(status).os_errno(), EADDRINUSE);
  EXPECT_EQ(DetailOf(status).attempts_size(), 1);
  EXPECT_EQ(budget_->in_use(), 0u);
}

TEST_F(BrokerServers, ARetriedStartMeetsItsOwnServerAndNotEaddrinuse) {
  v1::StartServerRequest request;
  request.set_request_id("0123456789abcdef");
  request.add_hosts("127.0.0.1");
  v1::StartServerResponse first;
  v1::StartServerResponse second;
  ASSERT_TRUE(Do(&Stub::StartServer, request, &first).ok());
  ASSERT_TRUE(Do(&Stub::StartServer, request, &second).ok());
  EXPECT_EQ(first.server().handle(), second.server().handle());
  // The id belongs to one request, of whatever kind.
  v1::OpenConnectionRequest open;
  open.set_request_id(request.request_id());
  open.set_host("127.0.0.1");
  v1::OpenConnectionResponse opened;
  EXPECT_EQ(DetailOf(Call(open, &opened)).reason(), v1::DIFFERENT_REQUEST);
}

TEST_F(BrokerServers, NamesAreUniqueAmongOpenServers) {
  const v1::Server server = Start([](auto* r) { r->mutable_options()->set_name("web"); });
  const grpc::Status status = TryStart([](auto* r) { r->mutable_options()->set_name("web"); });
  EXPECT_EQ(DetailOf(status).field(), "options.name");
  CloseServer(server.handle());
  EVENTUALLY(TryStart([](auto* r) { r->mutable_options()->set_name("web"); }).ok());
  v1::ListServersRequest list;
  list.set_name("web");
  v1::ListServersResponse response;
  EXPECT_TRUE(Do(&Stub::ListServers, list, &response).ok());
  EXPECT_EQ(response.servers_size(), 1);
  list.set_include_closed(true);
  EXPECT_TRUE(Do(&Stub::ListServers, list, &response).ok());
  EXPECT_EQ(response.servers_size(), 2);
}

TEST_F(BrokerServers, UnixServersMindTheirFile) {
  v1::StartUnixServerRequest request;
  request.set_path(directory_.path("server.sock"));
  request.set_mode(0600);
  v1::StartServerResponse response;
  ASSERT_TRUE(Do(&Stub::StartUnixServer, request, &response).ok());
  struct stat file;
  ASSERT_EQ(stat(request.path().c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  Peer client = ConnectTo(response.server().sockets(0));
  const v1::Connection connection = Accept(response.server().handle());
  v1::GetExtraInfoRequest info;
  info.set_handle(connection.handle());
  info.set_name("socket");
  v1::GetExtraInfoResponse socket;
  ASSERT_TRUE(Do(&Stub::GetExtraInfo, info, &socket).ok());
  EXPECT_TRUE(socket.socket().is_unix());
  EXPECT_EQ(socket.socket().peer_pid(), getpid());

  // A live server's path is not taken over.
  v1::StartServerResponse second;
  const grpc::Status status = Do(&Stub::StartUnixServer, request, &second);
  EXPECT_EQ(DetailOf(status).reason(), v1::BIND_FAILED);
  EXPECT_EQ(DetailOf(status).os_errno(), EADDRINUSE);
  request.set_path(directory_.path("."));
  EXPECT_EQ(DetailOf(Do(&Stub::StartUnixServer, request, &second)).reason(), v1::BIND_FAILED);
  CloseServer(response.server().handle());
  EXPECT_NE(stat(directory_.path("server.sock").c_str(), &file), 0);
}

TEST_F(BrokerServers, BadFieldsAreNamed) {
  const auto field = [&](const std::function<void(v1::StartServerRequest*)>& edit) {
    const grpc::Status status = TryStart(edit);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    return DetailOf(status).field();
  };
  EXPECT_EQ(field([](auto* r) { r->set_port(65536); }), "port");
  EXPECT_EQ(field([](auto* r) { r->add_hosts(std::string("a\0b", 3)); }), "hosts");
  EXPECT_EQ(field([](auto* r) {
              for (int i = 0; i < 16; i++) r->add_hosts("127.0.0.1");
            }),
            "hosts");
  EXPECT_EQ(field([](auto* r) {
              r->clear_hosts();
              r->clear_port();
            }),
            "port");
  EXPECT_EQ(field([](auto* r) { r->mutable_options()->set_backlog(0); }), "options.backlog");
  EXPECT_EQ(field([](auto* r) { r->mutable_options()->set_backlog(65536); }), "options.backlog");
  EXPECT_EQ(field([](auto* r) { r->mutable_options()->set_name(std::string(64, 'x')); }),
            "options.name");
  EXPECT_EQ(field([](auto* r) { r->mutable_options()->mutable_accepted()->set_limit(0); }),
            "options.accepted.limit");
  v1::AcceptRequest accept;
  accept.set_server("short");
  v1::AcceptResponse accepted;
  EXPECT_EQ(DetailOf(Do(&Stub::Accept, accept, &accepted)).field(), "server");
}

// --- PROXY headers

TEST_F(BrokerServers, ADemandedProxyHeaderIsReadBeforeAcceptReturns) {
  const v1::Server server = Start([](auto* r) { r->mutable_options()->mutable_proxy_protocol(); });
  Peer client = ConnectTo(server.sockets(0));
  auto waiting = BeginAccept(server.handle());
  client.Send("PROXY TCP4 192.0.2.1 192.0.2.2 100");
  Settle();
  EXPECT_FALSE(waiting->done.load());
  client.Send("0 80\r\nhello\n");
  ASSERT_TRUE(waiting->Wait().ok());
  const v1::Connection& connection = waiting->response.connection();
  EXPECT_EQ(connection.proxied_source().host(), "192.0.2.1");
  EXPECT_EQ(connection.proxied_source().port(), 1000u);
  EXPECT_EQ(connection.proxied_destination().host(), "192.0.2.2");
  const v1::ReadResponse line = ReadLine(connection.handle());
  EXPECT_EQ(line.data(), "hello\n");
  EXPECT_EQ(line.offset(), 0u);
  EXPECT_EQ(Get(connection.handle()).offsets().received(), 6u);
}

TEST_F(BrokerServers, APeerWithoutProxyHeaderDelaysNobody) {
  const v1::Server server = Start([](auto* r) {
    r->mutable_options()->mutable_proxy_protocol()->mutable_timeout()->set_seconds(3);
  });
  Peer silent = ConnectTo(server.sockets(0));
  auto waiting = BeginAccept(server.handle());
  EVENTUALLY(GetServer(server.handle()).accepted_total() == 1);
  Peer wrong = ConnectTo(server.sockets(0));
  wrong.Send("GET / HTTP/1.1\r\n\r\n");
  Peer good = ConnectTo(server.sockets(0));
  good.Send("PROXY UNKNOWN\r\nhello\n");
  EVENTUALLY((Advance(absl::Milliseconds(50)), waiting->done.load()));
  ASSERT_TRUE(waiting->status.ok());
  EXPECT_EQ(ReadLine(waiting->response.connection().handle()).data(), "hello\n");
  wrong.ReceiveAll();
  // The silent one ends at its time-out.
  Advance(absl::Seconds(3));
  silent.ReceiveAll();
  EVENTUALLY(GetServer(server.handle()).active_connections() == 1);
}

// --- descriptors

class ServersWithFewDescriptors : public BrokerServers {
 protected:
  BrokerOptions Options() override {
    budget_ = std::make_unique<DescriptorBudget>(258);
    BrokerOptions options = BrokerFixture::Options();
    options.descriptors = budget_.get();
    return options;
  }
};

TEST_F(ServersWithFewDescriptors, WhatCannotBeKeptStaysInTheBacklog) {
  ASSERT_EQ(budget_->capacity(), 2u);
  const v1::Server server = Start();
  Peer first = ConnectTo(server.sockets(0));
  Peer second = ConnectTo(server.sockets(0));
  const std::string handle = Accept(server.handle()).handle();
  const grpc::Status status = BeginAccept(server.handle())->Wait();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf(status).reason(), v1::DESCRIPTOR_RESERVE);
  EXPECT_EQ(GetServer(server.handle()).accepted_total(), 1u);
  Close(handle);
  EVENTUALLY(budget_->in_use() == 1);
  const std::string next = Accept(server.handle()).handle();
  second.Send("x");
  EXPECT_EQ(Read(next, 1).data(), "x");
}

// An eighth of 136 is 17.
class ServersOfTheSilent : public BrokerServers {
 protected:
  BrokerOptions Options() override {
    budget_ = std::make_unique<DescriptorBudget>(256 + Capacity());
    BrokerOptions options = BrokerFixture::Options();
    options.descriptors = budget_.get();
    return options;
  }
  virtual uint64_t Capacity() const { return 136; }

  v1::Server StartWithHeaders() {
    return Start([](auto* r) {
      r->mutable_options()->mutable_proxy_protocol()->mutable_timeout()->set_seconds(3600);
    });
  }
  void ConnectSilently(const v1::Server& server, int count) {
    for (int i = 0; i < count; i++) silent_.push_back(ConnectTo(server.sockets(0)));
  }

  std::vector<Peer> silent_;
};

TEST_F(ServersOfTheSilent, TheOldestOfThemMakesRoomWhenThereAreTooMany) {
  const v1::Server server = StartWithHeaders();
  ConnectSilently(server, 60);
  Peer good = ConnectTo(server.sockets(0));
  good.Send("PROXY UNKNOWN\r\nhello\n");
  auto waiting = BeginAccept(server.handle());
  EVENTUALLY((Advance(absl::Milliseconds(50)), waiting->done.load()));
  ASSERT_TRUE(waiting->status.ok());
  EXPECT_EQ(ReadLine(waiting->response.connection().handle()).data(), "hello\n");
  // Far from its time-out.
  silent_.front().ReceiveAll();
  EVENTUALLY(GetServer(server.handle()).active_connections() <= 18);
  // The last ones are still waited for.
  silent_.back().Send("PROXY UNKNOWN\r\n");
  EXPECT_TRUE(BeginAccept(server.handle())->Wait().ok());
}

TEST_F(ServersOfTheSilent, WhoeverHasSaidSomethingStaysLonger) {
  const v1::Server server = StartWithHeaders();
  Peer slow = ConnectTo(server.sockets(0));
  slow.Send("PROXY UNK");
  ConnectSilently(server, 60);
  Peer good = ConnectTo(server.sockets(0));
  good.Send("PROXY UNKNOWN\r\n");
  auto waiting = BeginAccept(server.handle());
  EVENTUALLY((Advance(absl::Milliseconds(50)), waiting->done.load()));
  silent_.front().ReceiveAll();
  slow.Send("NOWN\r\nhello\n");
  auto next = BeginAccept(server.handle());
  ASSERT_TRUE(next->Wait().ok());
  EXPECT_EQ(ReadLine(next->response.connection().handle()).data(), "hello\n");
}

class ServersOfTheSilentWithFewDescriptors : public ServersOfTheSilent {
 protected:
  uint64_t Capacity() const override { return 6; }
};

TEST_F(ServersOfTheSilentWithFewDescriptors, TheirDescriptorsGoToThoseWhoSpeak) {
  const v1::Server server = StartWithHeaders();
  ConnectSilently(server, 20);
  Peer good = ConnectTo(server.sockets(0));
  good.Send("PROXY UNKNOWN\r\nhello\n");
  auto waiting = BeginAccept(server.handle());
  EVENTUALLY((Advance(absl::Milliseconds(50)), waiting->done.load()));
  ASSERT_TRUE(waiting->status.ok()) << waiting->status.error_message();
  EXPECT_EQ(ReadLine(waiting->response.connection().handle()).data(), "hello\n");
  EXPECT_LE(budget_->in_use(), 6u);
}

}  // namespace
}  // namespace sockbroker::server
