// SocketAddress: where a socket's end is: IPv4, IPv6, or Unix (path, abstract, unnamed).
//
//   SocketAddress address = *SocketAddress::FromIp("127.0.0.1", 80);
//   address.ToString();                     // "127.0.0.1:80", "[::1]:80", "/run/x.sock",
//   "@abstract"
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sockbroker::streams {

class SocketAddress {
 public:
  // Unknown (peername None): family() is AF_UNSPEC.
  SocketAddress();

  // A numeric address in its canonical form ("fe80::1%eth0" with a zone). kInvalidArgument for
  // anything else.
  static absl::StatusOr<SocketAddress> FromIp(absl::string_view host, uint16_t port);
  // A leading NUL means the abstract namespace. "" is kUnavailable with EINVAL, a path over 107
  // bytes kInvalidArgument: what connect() and Python say.
  static absl::StatusOr<SocketAddress> FromUnixPath(absl::string_view path);
  static SocketAddress FromSockaddr(const sockaddr* address, socklen_t length);
  // getsockname, getpeername; unknown if they fail.
  static SocketAddress OfLocal(int fd);
  static SocketAddress OfPeer(int fd);

  int family() const { return storage_.ss_family; }
  bool is_ip() const { return family() == AF_INET || family() == AF_INET6; }
  bool is_unix() const { return family() == AF_UNIX; }
  // The numeric host without brackets; "" if not IP.
  std::string host() const;
  // 0 if not IP.
  uint16_t port() const;
  void set_port(uint16_t port);
  // The path's bytes; abstract names begin with NUL; "" for unnamed and not Unix.
  std::string unix_path() const;

  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t size() const { return length_; }
  // For people and for messages.
  std::string ToString() const;

  friend bool operator==(const SocketAddress& a, const SocketAddress& b);

 private:
  sockaddr_storage storage_;
  socklen_t length_;
};

}  // namespace sockbroker::streams
