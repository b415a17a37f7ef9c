#include "streams/socket_options.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/open_connection.h"
#include "streams/server.h"
#include "streams/testing/co_test.h"
#include "streams/testing/socket_pair.h"
#include "tests/streams/sockets.h"

namespace sockbroker::streams {
namespace {

using ::testing::HasSubstr;

Descriptor TcpSocket(int family = AF_INET) {
  return Descriptor(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

TEST(SocketOptionsTest, NothingIsChangedThatIsAbsent) {
  const Descriptor untouched = TcpSocket();
  const Descriptor socket = TcpSocket();
  EXPECT_THAT(SocketOptions().ApplyTo(socket.get()), IsOk());
  const std::vector<std::pair<int, int>> options = {
      {IPPROTO_TCP, TCP_NODELAY},   {SOL_SOCKET, SO_KEEPALIVE}, {IPPROTO_TCP, TCP_KEEPIDLE},
      {IPPROTO_TCP, TCP_KEEPINTVL}, {IPPROTO_TCP, TCP_KEEPCNT}, {IPPROTO_TCP, TCP_USER_TIMEOUT},
      {SOL_SOCKET, SO_RCVBUF},      {SOL_SOCKET, SO_SNDBUF},    {IPPROTO_IP, IP_TOS},
      {IPPROTO_IP, IP_FREEBIND}};
  for (const auto& [level, option] : options) {
    EXPECT_EQ(GetOption(socket.get(), level, option), GetOption(untouched.get(), level, option));
  }
}

TEST(SocketOptionsTest, EveryOptionThatIsPresentIsSet) {
  SocketOptions options;
  options.nodelay = true;
  options.keepalive = true;
  options.keepalive_idle = absl::Seconds(30);
  options.keepalive_interval = absl::Seconds(7);
  options.keepalive_count = 3;
  options.user_timeout = absl::Milliseconds(12345);
  options.receive_buffer = 50'000;
  options.send_buffer = 60'000;
  options.tos = 0x10;
  options.freebind = true;
  const Descriptor socket = TcpSocket();
  EXPECT_THAT(options.ApplyTo(socket.get()), IsOk());
  EXPECT_EQ(GetOption(socket.get(), IPPROTO_TCP, TCP_NODELAY), 1);
  EXPECT_EQ(GetOption(socket.get(), SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_EQ(GetOption(socket.get(), IPPROTO_TCP, TCP_KEEPIDLE), 30);
  EXPECT_EQ(GetOption(socket.get(), IPPROTO_TCP, TCP_KEEPINTVL), 7);
  EXPECT_EQ(GetOption(socket.get(), IPPROTO_TCP, TCP_KEEPCNT), 3);
  EXPECT_EQ(GetOption(socket.get(), IPPROTO_TCP, TCP_USER_TIMEOUT), 12345);
  // The kernel keeps twice what was asked for, for its own needs.
  EXPECT_EQ(GetOption(socket.get(), SOL_SOCKET, SO_RCVBUF), 100'000);
  EXPECT_EQ(GetOption(socket.get(), SOL_SOCKET, SO_SNDBUF), 120'000);
  EXPECT_EQ(GetOption(socket.get(), IPPROTO_IP, IP_TOS), 0x10);
  EXPECT_EQ(GetOption(socket.get(), IPPROTO_IP, IP_FREEBIND), 1);
}

TEST(SocketOptionsTest, PartsOfASecondAreRoundedUp) {
  SocketOptions options;
  options.keepalive_idle = absl::Milliseconds(1200);
  const Descriptor socket = TcpSocket();
  EXPECT_THAT(options.ApplyTo(socket.get()), IsOk());
  EXPECT_EQ(GetOption(socket.get(), IPPROTO_TCP, TCP_KEEPIDLE), 2);
}

TEST(SocketOptionsTest, ALingerOfZeroIsSetAndNotTakenForNone) {
  SocketOptions options;
  options.linger = absl::ZeroDuration();
  const Descriptor socket = TcpSocket();
  EXPECT_THAT(options.ApplyTo(socket.get()), IsOk());
  linger value{};
  socklen_t size = sizeof(value);
  ASSERT_EQ(getsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &value, &size), 0);
  EXPECT_EQ(value.l_onoff, 1);
  EXPECT_EQ(value.l_linger, 0);
}

TEST(SocketOptionsTest, TosIsTheTrafficClassOfIpv6) {
  SocketOptions options;
  options.tos = 0x10;
  const Descriptor socket = TcpSocket(AF_INET6);
  EXPECT_THAT(options.ApplyTo(socket.get()), IsOk());
  EXPECT_EQ(GetOption(socket.get(), IPPROTO_IPV6, IPV6_TCLASS), 0x10);
}

TEST(SocketOptionsTest, WhatIsOfTcpAloneIsSkippedOnAUnixSocket) {
  SocketOptions options;
  options.nodelay = true;
  options.keepalive_idle = absl::Seconds(1);
  options.keepalive_interval = absl::Seconds(1);
  options.keepalive_count = 1;
  options.user_timeout = absl::Seconds(1);
  options.tos = 1;
  options.freebind = true;
  auto [a, b] = UnixSocketPair();
  EXPECT_THAT(options.ApplyTo(a.get()), IsOk());
}

TEST(SocketOptionsTest, AnOptionThatTheKernelRefusesIsNamed) {
  SocketOptions options;
  options.keepalive_count = 1000;
  const Descriptor socket = TcpSocket();
  EXPECT_THAT(options.ApplyTo(socket.get()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("keepalive_count")));
  EXPECT_THAT(options.ApplyTo(socket.get()), HasErrno(EINVAL));
  SocketOptions device;
  device.bind_to_device = "no-such-device";
  EXPECT_THAT(device.ApplyTo(socket.get()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("bind_to_device")));
}

TEST(SocketOptionsTest, NothingIsSetAfterTheFirstRefusal) {
  SocketOptions options;
  options.keepalive_count = 1000;
  options.freebind = true;
  const Descriptor socket = TcpSocket();
  EXPECT_THAT(options.ApplyTo(socket.get()), HasErrno(EINVAL));
  EXPECT_EQ(GetOption(socket.get(), IPPROTO_IP, IP_FREEBIND), 0);
}

CO_TEST_REAL(SocketOptionsTest, AConnectionIsOpenedWithItsOptions) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  OpenConnectionOptions options;
  options.socket.keepalive = true;
  options.socket.user_timeout = absl::Seconds(5);
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", SocketAddress::OfLocal(listener.get()).port(), options);
  CO_ASSERT_OK(connection);
  const TransportSocket socket = connection->writer.socket();
  EXPECT_THAT(socket.getsockopt(SOL_SOCKET, SO_KEEPALIVE), IsOkAndHolds(1));
  EXPECT_THAT(socket.getsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT), IsOkAndHolds(5000));
}

CO_TEST_REAL(SocketOptionsTest, AnOptionThatTheKernelRefusesFailsTheConnection) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  const std::size_t descriptors = OpenDescriptors();
  OpenConnectionOptions options;
  options.socket.keepalive_count = 1000;
  EXPECT_THAT(
      co_await OpenConnection("127.0.0.1", SocketAddress::OfLocal(listener.get()).port(), options),
      HasErrno(EINVAL));
  EXPECT_EQ(OpenDescriptors(), descriptors);
}

CO_TEST_REAL(SocketOptionsTest, AServersOptionsAreThoseOfWhatItAccepts) {
  StartServerOptions options;
  options.accept = AcceptMode::kOnDemand;
  options.socket.keepalive = true;
  options.socket.keepalive_count = 4;
  absl::StatusOr<Server> server = co_await StartServer(nullptr, "127.0.0.1", 0, options);
  CO_ASSERT_OK(server);
  const Descriptor client = ConnectNow(server->sockets()[0]);
  absl::StatusOr<Connection> accepted = co_await server->Accept();
  CO_ASSERT_OK(accepted);
  EXPECT_THAT(accepted->writer.socket().getsockopt(SOL_SOCKET, SO_KEEPALIVE), IsOkAndHolds(1));
  EXPECT_THAT(accepted->writer.socket().getsockopt(IPPROTO_TCP, TCP_KEEPCNT), IsOkAndHolds(4));
}

}  // namespace
}  // namespace sockbroker::streams
