#include "tests/server/broker_fixture.h"

#include <grpc/grpc.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/synchronization/notification.h"
#include "google/rpc/status.pb.h"

namespace sockbroker::server {
namespace {

constexpr int kPatienceSeconds = 20;

void SetPatience(int fd) {
  const timeval patience{.tv_sec = kPatienceSeconds, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
}

}  // namespace

Peer::Peer(streams::Descriptor socket) : socket_(std::move(socket)) { SetPatience(socket_.get()); }

void Peer::Send(absl::string_view data) {
  while (!data.empty()) {
    const ssize_t sent = send(fd(), data.data(), data.size(), MSG_NOSIGNAL);
    ASSERT_GT(sent, 0) << strerror(errno);
    data.remove_prefix(static_cast<std::size_t>(sent));
  }
}

std::string Peer::Receive(std::size_t size) {
  std::string data(size, '\0');
  std::size_t got = 0;
  while (got < size) {
    const ssize_t n = recv(fd(), data.data() + got, size - got, 0);
    EXPECT_GT(n, 0) << "after " << got << " bytes: " << strerror(errno);
    if (n <= 0) break;
    got += static_cast<std::size_t>(n);
  }
  data.resize(got);
  return data;
}

std::string Peer::ReceiveAll(bool* reset) {
  std::string all;
  std::string buffer(1 << 16, '\0');
  while (true) {
    const ssize_t n = recv(fd(), buffer.data(), buffer.size(), 0);
    if (n > 0) {
      all.append(buffer.data(), static_cast<std::size_t>(n));
      continue;
    }
    if (n < 0) {
      EXPECT_EQ(errno, ECONNRESET) << strerror(errno);
    }
    if (reset != nullptr) *reset = n < 0;
    return all;
  }
}

void Peer::ShutdownWrite() { shutdown(fd(), SHUT_WR); }
void Peer::Close() { socket_.Reset(); }

void Peer::Reset() {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd(), SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  Close();
}

void Peer::SetBuffers(int size) {
  setsockopt(fd(), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
  setsockopt(fd(), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

Listener::Listener(int receive_buffer) : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  if (receive_buffer > 0) {
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  }
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(socket_.get(), 1024), 0);
  SetPatience(socket_.get());
  address_ = streams::SocketAddress::OfLocal(socket_.get());
}

Listener::Listener(const std::string& unix_path)
    : socket_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  const auto address = streams::SocketAddress::FromUnixPath(unix_path);
  EXPECT_TRUE(address.ok());
  EXPECT_EQ(bind(socket_.get(), address->data(), address->size()), 0) << strerror(errno);
  EXPECT_EQ(listen(socket_.get(), 128), 0);
  SetPatience(socket_.get());
  address_ = *address;
}

Peer Listener::Accept() {
  streams::Descriptor accepted(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_TRUE(accepted.valid()) << strerror(errno);
  return Peer(std::move(accepted));
}

Peer ConnectTo(const v1::Endpoint& endpoint) {
  const auto address =
      endpoint.has_tcp() ? streams::SocketAddress::FromIp(
                               endpoint.tcp().host(), static_cast<uint16_t>(endpoint.tcp().port()))
                         : streams::SocketAddress::FromUnixPath(endpoint.unix());
  EXPECT_TRUE(address.ok());
  streams::Descriptor fd(socket(address->family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(fd.get(), address->data(), address->size()), 0) << strerror(errno);
  return Peer(std::move(fd));
}

v1::ErrorDetail DetailOf(const grpc::Status& status) {
  google::rpc::Status rpc_status;
  v1::ErrorDetail detail;
  EXPECT_TRUE(rpc_status.ParseFromString(status.error_details())) << status.error_message();
  EXPECT_EQ(rpc_status.code(), status.error_code());
  EXPECT_EQ(rpc_status.message(), status.error_message());
  EXPECT_LE(status.error_details().size(), 4096u);
  EXPECT_EQ(rpc_status.details_size(), 1) << status.error_message();
  if (rpc_status.details_size() == 1) {
    EXPECT_TRUE(rpc_status.details(0).UnpackTo(&detail));
  }
  return detail;
}

void Eventually(const std::function<bool()>& condition, const char* what) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(kPatienceSeconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) {
      ADD_FAILURE() << "never: " << what;
      return;
    }
    std::this_thread::yield();
  }
}

BrokerOptions BrokerFixture::Options() {
  BrokerOptions options;
  options.loops = 2;
  options.clock = &clock_;
  options.broker_id_seed = "test";
  options.descriptors = budget_.get();
  return options;
}

void BrokerFixture::SetUp() {
  // Held to the end of the process: gRPC 1.51 takes up to ten seconds to shut down when one of its
  // writes had to wait for a socket.
  static const bool grpc_held = (grpc_init(), true);
  (void)grpc_held;
  budget_ = std::make_unique<DescriptorBudget>(100'000);
  broker_ = std::make_unique<Broker>(Options());
  grpc::ServerBuilder builder;
  builder.RegisterService(broker_->service());
  const std::string address = "unix:" + directory_.path("broker.sock");
  int loopback_port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &loopback_port);
  server_ = builder.BuildAndStart();
  ASSERT_NE(server_, nullptr);
  channel_ = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  stub_ = v1::SocketBroker::NewStub(channel_);
  loopback_channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(loopback_port),
                                          grpc::InsecureChannelCredentials());
  loopback_stub_ = v1::SocketBroker::NewStub(loopback_channel_);
}

void BrokerFixture::TearDown() {
  stub_.reset();
  channel_.reset();
  loopback_stub_.reset();
  loopback_channel_.reset();
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  server_.reset();
  broker_.reset();
}

void BrokerFixture::Settle() {
  // What one loop posts to another, and what its tasks make ready, comes in later rounds.
  for (int round = 0; round < 4; round++) {
    for (streams::EventLoop* loop : broker_->loops()) {
      absl::Notification done;
      loop->Post([&] { done.Notify(); });
      done.WaitForNotification();
    }
  }
}

void BrokerFixture::Advance(absl::Duration duration) {
  Settle();
  clock_.Advance(duration);
  Settle();
}

Connected BrokerFixture::Connect(const std::function<void(v1::OpenConnectionRequest*)>& edit) {
  v1::OpenConnectionRequest request;
  request.set_host("127.0.0.1");
  request.set_port(listener_.port());
  if (edit) edit(&request);
  v1::OpenConnectionResponse response;
  const grpc::Status status = Call(request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return {response.connection().handle(), status.ok() ? listener_.Accept() : Peer()};
}

grpc::Status BrokerFixture::Call(const v1::OpenConnectionRequest& request,
                                 v1::OpenConnectionResponse* response) {
  return Do(&v1::SocketBroker::Stub::OpenConnection, request, response);
}

v1::ReadResponse BrokerFixture::Read(const std::string& handle, int64_t n) {
  v1::ReadRequest request;
  request.set_handle(handle);
  request.set_n(n);
  v1::ReadResponse response;
  const grpc::Status status = Do(&v1::SocketBroker::Stub::Read, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

v1::ReadResponse BrokerFixture::ReadLine(const std::string& handle) {
  v1::ReadLineRequest request;
  request.set_handle(handle);
  v1::ReadResponse response;
  const grpc::Status status = Do(&v1::SocketBroker::Stub::ReadLine, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

v1::WriteResponse BrokerFixture::Write(const std::string& handle, absl::string_view data) {
  v1::WriteRequest request;
  request.set_handle(handle);
  request.set_data(std::string(data));
  v1::WriteResponse response;
  const grpc::Status status = Do(&v1::SocketBroker::Stub::Write, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

v1::Connection BrokerFixture::Get(const std::string& handle) {
  v1::GetConnectionRequest request;
  request.set_handle(handle);
  v1::Connection response;
  const grpc::Status status = Do(&v1::SocketBroker::Stub::GetConnection, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

// A kept read is refused while another waits, and with an offset that can't be it never waits
// itself.
grpc::StatusCode BrokerFixture::ProbeReader(const std::string& handle) {
  v1::ReadRequest probe;
  probe.set_handle(handle);
  probe.set_n(1);
  probe.set_offset(~uint64_t{0});
  v1::ReadResponse response;
  return Do(&v1::SocketBroker::Stub::Read, probe, &response).error_code();
}

void BrokerFixture::AwaitReader(const std::string& handle) {
  EVENTUALLY(ProbeReader(handle) == grpc::StatusCode::FAILED_PRECONDITION);
}

void BrokerFixture::AwaitNoReader(const std::string& handle) {
  EVENTUALLY(ProbeReader(handle) == grpc::StatusCode::OUT_OF_RANGE);
}

void BrokerFixture::Close(const std::string& handle) {
  v1::CloseRequest request;
  request.set_handle(handle);
  v1::CloseResponse response;
  const grpc::Status status = Do(&v1::SocketBroker::Stub::Close, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

v1::Server BrokerFixture::Start(const std::function<void(v1::StartServerRequest*)>& edit) {
  v1::StartServerRequest request;
  request.add_hosts("127.0.0.1");
  request.set_port(0);
  if (edit) edit(&request);
  v1::StartServerResponse response;
  const grpc::Status status = Do(&v1::SocketBroker::Stub::StartServer, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.server();
}

v1::Connection BrokerFixture::Accept(const std::string& server) {
  v1::AcceptRequest request;
  request.set_server(server);
  v1::AcceptResponse response;
  const grpc::Status status = Do(&v1::SocketBroker::Stub::Accept, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.connection();
}

}  // namespace sockbroker::server
