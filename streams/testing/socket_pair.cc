#include "streams/testing/socket_pair.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "streams/event_loop.h"
#include "streams/socket_stream.h"

namespace sockbroker::streams {
namespace {

int Check(int result, const char* call) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), call);
  return result;
}

}  // namespace

std::pair<Descriptor, Descriptor> UnixSocketPair() {
  std::array<int, 2> fds;
  Check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), "socketpair");
  return {Descriptor(fds[0]), Descriptor(fds[1])};
}

std::pair<Descriptor, Descriptor> TcpSocketPair() {
  constexpr int kType = SOCK_STREAM | SOCK_CLOEXEC;
  const Descriptor listener(Check(socket(AF_INET, kType, IPPROTO_TCP), "socket"));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof(address);
  Check(bind(listener.get(), generic, size), "bind");
  Check(listen(listener.get(), 1), "listen");
  Check(getsockname(listener.get(), generic, &size), "getsockname");
  Descriptor client(Check(socket(AF_INET, kType, IPPROTO_TCP), "socket"));
  Check(connect(client.get(), generic, size), "connect");
  Descriptor server(Check(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), "accept4"));
  return {std::move(client), std::move(server)};
}

Connection ConnectionOver(Descriptor socket, StreamOptions options) {
  EventLoop* loop = GetRunningLoop();
  return MakeConnection(loop, SocketStream::Create(loop, std::move(socket)).value(), options)
      .value();
}

std::optional<std::string> ReceiveNow(int fd, std::size_t size, int* os_errno) {
  std::string data(size, '\0');
  const ssize_t received = recv(fd, data.data(), size, MSG_DONTWAIT);
  if (received < 0) {
    if (os_errno != nullptr && errno != EAGAIN) *os_errno = errno;
    return std::nullopt;
  }
  data.resize(static_cast<std::size_t>(received));
  return data;
}

bool SendNow(int fd, absl::string_view data) {
  const ssize_t sent = send(fd, data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  return sent == static_cast<ssize_t>(data.size());
}

void ResetNow(Descriptor* socket) {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  Check(setsockopt(socket->get(), SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), "setsockopt");
  socket->Reset();
}

}  // namespace sockbroker::streams
