// Callers that go away (cancelled, as by a client that dies) while their call waits: nothing is
// lost, nothing is left open.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "streams/resolver.h"
#include "streams/wait_queue.h"
#include "tests/server/broker_fixture.h"
#include "tests/server/session_client.h"
#include "tests/streams/sockets.h"

namespace sockbroker::server {
namespace {

using streams::OpenDescriptors;
using streams::SocketAddress;
using streams::StalledListener;
using streams::Task;
using Stub = v1::SocketBroker::Stub;
using Async = class v1::SocketBroker::Stub::async;

// What TestResolver knows, on every loop of a broker.
struct Names {
  std::atomic<int> under_way = 0;
  std::vector<SocketAddress> stalled;
};

// "slow.test" is looked up until that is cancelled, "stalled.test" is there; others are real.
class TestResolver final : public streams::Resolver {
 public:
  TestResolver(streams::EventLoop* loop, Names* names)
      : names_(names), real_(streams::MakeCaresResolver(loop, {})) {}

  Task<absl::StatusOr<std::vector<SocketAddress>>> GetAddrInfo(
      streams::AddrInfoRequest request) override {
    if (request.host == "stalled.test") co_return names_->stalled;
    if (request.host != "slow.test") co_return co_await real_->GetAddrInfo(std::move(request));
    names_->under_way++;
    absl::Status status = co_await never_.Wait();
    names_->under_way--;
    co_return status;
  }

 private:
  Names* const names_;
  const std::unique_ptr<streams::Resolver> real_;
  streams::WaitQueue never_;
};

class BrokerCancel : public BrokerFixture {
 protected:
  void SetUp() override {
    BrokerFixture::SetUp();
    // What gRPC opens for the channel is open before anything is counted.
    ASSERT_EQ(Connections(), 0);
    descriptors_ = OpenDescriptors();
  }

  // From here on names are looked up as above.
  void UseTestResolver() {
    for (streams::EventLoop* loop : broker().loops()) {
      loop->Post(
          [this, loop] { loop->set_resolver(std::make_unique<TestResolver>(loop, &names_)); });
    }
    Settle();
  }

  int Connections() {
    v1::ListConnectionsResponse response;
    EXPECT_TRUE(Do(&Stub::ListConnections, v1::ListConnectionsRequest(), &response).ok());
    return response.connections_size();
  }
  int Servers() {
    v1::ListServersResponse response;
    EXPECT_TRUE(Do(&Stub::ListServers, v1::ListServersRequest(), &response).ok());
    return response.servers_size();
  }
  std::size_t OpenedDescriptors() { return OpenDescriptors() - descriptors_; }
  void ExpectNothingLeft() {
    EVENTUALLY(budget_->in_use() == 0);
    EVENTUALLY(OpenDescriptors() == descriptors_);
    EXPECT_EQ(names_.under_way, 0);
    EXPECT_EQ(broker().open_connections(), 0u);
    EXPECT_EQ(Connections(), 0);
    EXPECT_EQ(Servers(), 0);
  }

  auto BeginOpen(const v1::OpenConnectionRequest& request) {
    return Begin<v1::OpenConnectionRequest, v1::OpenConnectionResponse>(&Async::OpenConnection,
                                                                        request);
  }
  auto BeginStart(const v1::StartServerRequest& request) {
    return Begin<v1::StartServerRequest, v1::StartServerResponse>(&Async::StartServer, request);
  }
  template <typename Response>
  void CancelAndWait(const std::shared_ptr<Pending<Response>>& pending) {
    pending->context.TryCancel();
    EXPECT_EQ(pending->Wait().error_code(), grpc::StatusCode::CANCELLED);
  }

  Names names_;
  std::size_t descriptors_ = 0;
};

TEST_F(BrokerCancel, AnOpenDuringTheNameLookUpLeavesNothing) {
  UseTestResolver();
  v1::OpenConnectionRequest request;
  request.set_host("slow.test");
  request.set_port(80);
  auto pending = BeginOpen(request);
  EVENTUALLY(names_.under_way == 1);
  CancelAndWait(pending);
  EVENTUALLY(names_.under_way == 0);
  ExpectNothingLeft();
}

TEST_F(BrokerCancel, AnOpenDuringHappyEyeballsClosesBothItsAttempts) {
  const StalledListener first("127.0.0.1");
  const StalledListener second("127.0.0.1");
  names_.stalled = {first.address(), second.address()};
  UseTestResolver();
  descriptors_ = OpenDescriptors();
  v1::OpenConnectionRequest request;
  request.set_host("stalled.test");
  request.set_port(80);
  request.mutable_happy_eyeballs_delay()->set_nanos(250'000'000);
  auto pending = BeginOpen(request);
  EVENTUALLY(OpenedDescriptors() == 1);
  Advance(absl::Milliseconds(250));
  EVENTUALLY(OpenedDescriptors() == 2);
  EXPECT_EQ(budget_->in_use(), 2u);
  CancelAndWait(pending);
  ExpectNothingLeft();
}

TEST_F(BrokerCancel, AnOpenAtAnyMomentLeavesNothingOrWhatEndsWithItsLease) {
  for (int i = 0; i < 200; i++) {
    const Listener listener;
    v1::OpenConnectionRequest request;
    request.set_host("127.0.0.1");
    request.set_port(listener.port());
    auto pending = BeginOpen(request);
    // Some are caught on their way in, some on their way back.
    for (int turn = 0; turn < i % 50; turn++) std::this_thread::yield();
    pending->context.TryCancel();
    if (pending->Wait().ok()) Close(pending->response.connection().handle());
  }
  // An answer that was under way when its caller left can't be taken back.
  Advance(absl::Seconds(61));
  ExpectNothingLeft();
}

TEST_F(BrokerCancel, AStartDuringTheNameLookUpLeavesNothing) {
  UseTestResolver();
  v1::StartServerRequest request;
  request.add_hosts("slow.test");
  auto pending = BeginStart(request);
  EVENTUALLY(names_.under_way == 1);
  CancelAndWait(pending);
  EVENTUALLY(names_.under_way == 0);
  ExpectNothingLeft();
}

TEST_F(BrokerCancel, AStartAtAnyMomentLeavesNothingOrWhatEndsWithItsLease) {
  for (int i = 0; i < 200; i++) {
    v1::StartServerRequest request;
    request.add_hosts("127.0.0.1");
    auto pending = BeginStart(request);
    for (int turn = 0; turn < i % 50; turn++) std::this_thread::yield();
    pending->context.TryCancel();
    if (pending->Wait().ok()) {
      v1::CloseServerRequest close;
      close.set_handle(pending->response.server().handle());
      v1::CloseServerResponse response;
      EXPECT_TRUE(Do(&Stub::CloseServer, close, &response).ok());
    }
  }
  Advance(absl::Seconds(61));
  ExpectNothingLeft();
}

TEST_F(BrokerCancel, WaitersForAServersEndAreIndependentOfOneAnother) {
  const v1::Server server = Start();
  v1::WaitServerClosedRequest request;
  request.set_handle(server.handle());
  const auto begin = [&] {
    return Begin<v1::WaitServerClosedRequest, v1::WaitServerClosedResponse>(
        &Async::WaitServerClosed, request);
  };
  auto cancelled = begin();
  auto waiting = begin();
  Settle();
  CancelAndWait(cancelled);
  EXPECT_FALSE(waiting->done.load());
  v1::CloseServerRequest close;
  close.set_handle(server.handle());
  v1::CloseServerResponse response;
  EXPECT_TRUE(Do(&Stub::CloseServer, close, &response).ok());
  EXPECT_TRUE(waiting->Wait().ok());
  EXPECT_TRUE(waiting->response.server().closed());
  ExpectNothingLeft();
}

TEST_F(BrokerCancel, AWriteThatWaitsForTheDrainIsSentWholeAndOnce) {
  auto [handle, peer] =
      Connect([](auto* r) { r->mutable_options()->mutable_socket()->set_send_buffer(65536); });
  const std::string megabyte(1 << 20, 'x');
  v1::WriteRequest request;
  request.set_handle(handle);
  request.set_writer("0123456789abcdef");
  request.set_drain(true);
  // Until one has to wait, for the peer does not read.
  uint64_t offset = 0;
  std::shared_ptr<Pending<v1::WriteResponse>> pending;
  do {
    request.set_offset(offset);
    request.set_data(megabyte);
    pending = Begin<v1::WriteRequest, v1::WriteResponse>(&Async::Write, request);
    offset += megabyte.size();
    EVENTUALLY(pending->done.load() || Get(handle).offsets().write_offset() == offset);
    Settle();
  } while (pending->done.load() && Get(handle).write_buffered() == 0 && !HasFailure());
  CancelAndWait(pending);
  EXPECT_EQ(Get(handle).offsets().write_offset(), offset);
  // Asked again, it stands where it stood.
  auto again = Begin<v1::WriteRequest, v1::WriteResponse>(&Async::Write, request);
  EXPECT_EQ(peer.Receive(offset), std::string(offset, 'x'));
  EXPECT_TRUE(again->Wait().ok()) << again->status.error_message();
  EXPECT_EQ(again->response.write_offset(), offset);
  Close(handle);
  EXPECT_EQ(peer.ReceiveAll(), "");
}

TEST_F(BrokerCancel, ReadsThatWaitForMoreThanThereIsConsumeNothing) {
  auto [handle, peer] = Connect();
  peer.Send("ab");
  EVENTUALLY(Get(handle).read_buffered() == 2);
  v1::ReadUntilRequest until;
  until.set_handle(handle);
  until.add_separators("\n");
  v1::ReadExactlyRequest exactly;
  exactly.set_handle(handle);
  exactly.set_n(3);
  for (int i = 0; i < 20; i++) {
    auto pending_until = Begin<v1::ReadUntilRequest, v1::ReadResponse>(&Async::ReadUntil, until);
    AwaitReader(handle);
    CancelAndWait(pending_until);
    AwaitNoReader(handle);
    auto pending_exactly =
        Begin<v1::ReadExactlyRequest, v1::ReadResponse>(&Async::ReadExactly, exactly);
    AwaitReader(handle);
    CancelAndWait(pending_exactly);
    AwaitNoReader(handle);
  }
  peer.Send("c\nrest");
  v1::ReadResponse response;
  ASSERT_TRUE(Do(&Stub::ReadUntil, until, &response).ok());
  EXPECT_EQ(response.data(), "abc\n");
  EXPECT_EQ(response.offset(), 0u);
  exactly.set_n(4);
  ASSERT_TRUE(Do(&Stub::ReadExactly, exactly, &response).ok());
  EXPECT_EQ(response.data(), "rest");
}

TEST_F(BrokerCancel, LinesThatRaceACancellationAreNeverLost) {
  auto [handle, peer] = Connect();
  std::string received;
  std::string sent;
  v1::ReadUntilRequest request;
  request.set_handle(handle);
  request.add_separators(",");
  for (int i = 0; i < 200; i++) {
    request.set_offset(received.size());
    auto pending = Begin<v1::ReadUntilRequest, v1::ReadResponse>(&Async::ReadUntil, request);
    const std::string part = std::to_string(i) + ",";
    peer.Send(part);
    sent += part;
    pending->context.TryCancel();
    if (pending->Wait().ok()) received += pending->response.data();
  }
  while (received.size() < sent.size()) {
    request.set_offset(received.size());
    v1::ReadResponse response;
    // The last cancelled read may still be leaving.
    EVENTUALLY(Do(&Stub::ReadUntil, request, &response).ok());
    if (HasFailure()) return;
    received += response.data();
  }
  EXPECT_EQ(received, sent);
}

TEST_F(BrokerCancel, WhatASessionWasDoingGoesOnForTheNextAndEndsWithItsLease) {
  UseTestResolver();
  const v1::Server server = Start();
  {
    Peer peer;
    SessionClient client(channel_);
    auto connection = client.Open(listener_.port());
    peer = listener_.Accept();
    connection->WaitBound();
    client.Open(80, "0123456789abcdef", "slow.test");
    client.Listen(server.handle(), 3);
    EVENTUALLY(names_.under_way == 1);
    connection->Write("to the peer");
    peer.Send("to the client");
    EXPECT_EQ(connection->Receive(3), "to ");
    EXPECT_EQ(peer.Receive(11), "to the peer");
    client.Cut();

    // Another can have the connection, from where the first had come to.
    SessionClient other(channel_);
    auto taken = other.Bind(connection->handle(), /*steal=*/false, session::Position{3, 0});
    taken->WaitBound();
    EXPECT_EQ(taken->Receive(10), "the client");
    taken->Write(", again");
    EXPECT_EQ(peer.Receive(7), ", again");
    other.Cut();

    EVENTUALLY(!Get(connection->handle()).bound());
    Advance(absl::Seconds(61));
    EXPECT_EQ(peer.ReceiveAll(), "");
  }
  // The look-up had a request_id and so went on, as long as an attempt may take; it has ended too.
  ExpectNothingLeft();
}

}  // namespace
}  // namespace sockbroker::server
