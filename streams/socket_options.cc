#include "streams/socket_options.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>

#include "streams/address.h"
#include "streams/error.h"

namespace sockbroker::streams {
namespace {

absl::Status Set(int fd, int level, int option, int value, const char* name) {
  if (setsockopt(fd, level, option, &value, sizeof(value)) == 0) return absl::OkStatus();
  return ErrnoToStatus(errno, name);
}

int WholeSeconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Seconds(absl::Ceil(duration, absl::Seconds(1))));
}

}  // namespace

absl::Status SocketOptions::ApplyTo(int fd) const {
  const int family = SocketAddress::OfLocal(fd).family();
  const bool tcp = family == AF_INET || family == AF_INET6;
  absl::Status status;
  // Each line sets one option if it is present and nothing has failed yet.
  const auto set = [&](bool present, int level, int option, auto value, const char* name) {
    if (present && status.ok()) status = Set(fd, level, option, value(), name);
  };
  set(
      tcp && nodelay.has_value(), IPPROTO_TCP, TCP_NODELAY, [&] { return int{*nodelay}; },
      "nodelay");
  set(
      keepalive.has_value(), SOL_SOCKET, SO_KEEPALIVE, [&] { return int{*keepalive}; },
      "keepalive");
  set(
      tcp && keepalive_idle.has_value(), IPPROTO_TCP, TCP_KEEPIDLE,
      [&] { return WholeSeconds(*keepalive_idle); }, "keepalive_idle");
  set(
      tcp && keepalive_interval.has_value(), IPPROTO_TCP, TCP_KEEPINTVL,
      [&] { return WholeSeconds(*keepalive_interval); }, "keepalive_interval");
  set(
      tcp && keepalive_count.has_value(), IPPROTO_TCP, TCP_KEEPCNT,
      [&] { return *keepalive_count; }, "keepalive_count");
  set(
      tcp && user_timeout.has_value(), IPPROTO_TCP, TCP_USER_TIMEOUT,
      [&] { return static_cast<int>(absl::ToInt64Milliseconds(*user_timeout)); }, "user_timeout");
  set(
      receive_buffer.has_value(), SOL_SOCKET, SO_RCVBUF, [&] { return *receive_buffer; },
      "receive_buffer");
  set(send_buffer.has_value(), SOL_SOCKET, SO_SNDBUF, [&] { return *send_buffer; }, "send_buffer");
  set(family == AF_INET && tos.has_value(), IPPROTO_IP, IP_TOS, [&] { return *tos; }, "tos");
  set(
      family == AF_INET6 && tos.has_value(), IPPROTO_IPV6, IPV6_TCLASS, [&] { return *tos; },
      "tos");
  set(mark.has_value(), SOL_SOCKET, SO_MARK, [&] { return static_cast<int>(*mark); }, "mark");
  set(
      tcp && freebind.has_value(), IPPROTO_IP, IP_FREEBIND, [&] { return int{*freebind}; },
      "freebind");
  if (status.ok() && linger.has_value()) {
    const ::linger value{.l_onoff = 1, .l_linger = WholeSeconds(*linger)};
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &value, sizeof(value)) != 0) {
      status = ErrnoToStatus(errno, "linger");
    }
  }
  if (status.ok() && bind_to_device.has_value()) {
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, bind_to_device->c_str(),
                   static_cast<socklen_t>(bind_to_device->size())) != 0) {
      status = ErrnoToStatus(errno, "bind_to_device");
    }
  }
  return status;
}

}  // namespace sockbroker::streams
