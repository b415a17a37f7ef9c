// BrokerFixture: a broker in this process with a gRPC server around it, in virtual time, and real
// sockets as its peers.
//
//   class Reads : public BrokerFixture {};
//   TEST_F(Reads, ...) {
//     auto [handle, peer] = Connect();  // a connection of the broker's, and its other end
//     peer.Send("line\n");
//     EXPECT_EQ(ReadLine(handle).data(), "line\n");
//     Advance(absl::Seconds(60));       // leases, time-outs
//   }
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/broker.h"
#include "server/descriptor_budget.h"
#include "sockbroker/v1/sockbroker.grpc.pb.h"
#include "streams/address.h"
#include "streams/clock.h"
#include "streams/descriptor.h"
#include "tests/server/temporary_directory.h"

namespace sockbroker::server {

// Virtual time for loops that also wait for real sockets: it moves when the test says so.
class SteppedClock final : public streams::Clock {
 public:
  absl::Time Now() override { return absl::UnixEpoch() + absl::Nanoseconds(now_.load()); }
  void Advance(absl::Duration duration) { now_ += absl::ToInt64Nanoseconds(duration); }

 private:
  std::atomic<int64_t> now_{int64_t{1'000'000'000}};
};

// The other end of a socket, played by hand; blocking, with a time limit that fails the test.
class Peer {
 public:
  Peer() = default;
  explicit Peer(streams::Descriptor socket);

  void Send(absl::string_view data);
  // Exactly so many bytes.
  std::string Receive(std::size_t size);
  // Everything until the end; `*reset`: whether that was a reset.
  std::string ReceiveAll(bool* reset = nullptr);
  void ShutdownWrite();
  void Close();
  // With RST.
  void Reset();
  void SetBuffers(int size);
  int fd() const { return socket_.get(); }

 private:
  streams::Descriptor socket_;
};

// A listening socket on loopback, or at a Unix path, whose connections the test takes by hand.
class Listener {
 public:
  // TCP on 127.0.0.1.
  explicit Listener(int receive_buffer = 0);
  explicit Listener(const std::string& unix_path);
  Peer Accept();
  uint16_t port() const { return address_.port(); }
  const streams::SocketAddress& address() const { return address_; }

 private:
  streams::Descriptor socket_;
  streams::SocketAddress address_;
};

Peer ConnectTo(const v1::Endpoint& endpoint);

// The one ErrorDetail of a status; fails the test when there is none.
v1::ErrorDetail DetailOf(const grpc::Status& status);

// A unary call under way.
template <typename Response>
struct Pending {
  grpc::ClientContext context;
  Response response;
  grpc::Status status;
  std::atomic<bool> done{false};
  // Waits for the end; fails the test if it takes too long.
  grpc::Status Wait();
};

// Polls until `condition` holds; fails the test when it never does. Each look asks the broker
// something, or yields.
void Eventually(const std::function<bool()>& condition, const char* what);
#define EVENTUALLY(condition) Eventually([&] { return (condition); }, #condition)

struct Connected {
  std::string handle;
  Peer peer;
};

class BrokerFixture : public ::testing::Test {
 protected:
  // Before the first use.
  virtual BrokerOptions Options();
  void SetUp() override;
  void TearDown() override;

  v1::SocketBroker::Stub& stub() { return *stub_; }
  Broker& broker() { return *broker_; }
  // Lets time pass, and everything that it sets off.
  void Advance(absl::Duration duration);
  // Until the loops have done what they could.
  void Settle();

  // A connection from the broker to a socket of the test's. `edit` changes the request.
  Connected Connect(const std::function<void(v1::OpenConnectionRequest*)>& edit = nullptr);

  grpc::Status Call(const v1::OpenConnectionRequest& request, v1::OpenConnectionResponse* response);

  // The common RPCs. These fail the test unless the call is OK.
  v1::ReadResponse Read(const std::string& handle, int64_t n);
  v1::ReadResponse ReadLine(const std::string& handle);
  v1::WriteResponse Write(const std::string& handle, absl::string_view data);
  v1::Connection Get(const std::string& handle);
  void Close(const std::string& handle);
  v1::Server Start(const std::function<void(v1::StartServerRequest*)>& edit = nullptr);
  v1::Connection Accept(const std::string& server);

  // Until a read waits on the connection; until none does.
  void AwaitReader(const std::string& handle);
  void AwaitNoReader(const std::string& handle);

  // Any RPC: Do(&v1::SocketBroker::Stub::Read, request, &response).
  template <typename Request, typename Response>
  grpc::Status Do(grpc::Status (v1::SocketBroker::Stub::*rpc)(grpc::ClientContext*, const Request&,
                                                              Response*),
                  const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    return (stub_.get()->*rpc)(&context, request, response);
  }
  // The same, without waiting: Begin(&v1::SocketBroker::Stub::async::Read, request), through the
  // callback API.
  template <typename Request, typename Response>
  std::shared_ptr<Pending<Response>> Begin(
      void (v1::SocketBroker::Stub::async::*rpc)(grpc::ClientContext*, const Request*, Response*,
                                                 std::function<void(grpc::Status)>),
      const Request& request) {
    auto pending = std::make_shared<Pending<Response>>();
    auto copy = std::make_shared<Request>(request);
    pending->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    (stub_->async()->*rpc)(&pending->context, copy.get(), &pending->response,
                           [pending, copy](grpc::Status status) {
                             pending->status = std::move(status);
                             pending->done.store(true);
                             pending->done.notify_all();
                           });
    return pending;
  }

  grpc::StatusCode ProbeReader(const std::string& handle);

  SteppedClock clock_;
  std::unique_ptr<DescriptorBudget> budget_;
  std::unique_ptr<Broker> broker_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::SocketBroker::Stub> stub_;
  // The same broker through TCP on loopback: another principal.
  std::shared_ptr<grpc::Channel> loopback_channel_;
  std::unique_ptr<v1::SocketBroker::Stub> loopback_stub_;
  TemporaryDirectory directory_;
  Listener listener_;
};

template <typename Response>
grpc::Status Pending<Response>::Wait() {
  Eventually([this] { return done.load(); }, "the call ends");
  return status;
}

}  // namespace sockbroker::server
