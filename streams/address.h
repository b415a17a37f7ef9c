// SocketAddress: where a socket's end is: IPv4, IPv6, or Unix (path, abstract, unnamed).
//
//   SocketAddress address = *SocketAddress::FromIp("127.0.0.1", 80);
//   address.ToString();      // "127.0.0.1:80", "[::1]:80", "/run/x.sock", "@abstract"
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/container/inlined_vector.h"
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

  int family() const { return Copy<sockaddr>().sa_family; }
  bool is_ip() const { return family() == AF_INET || family() == AF_INET6; }
  bool is_unix() const { return family() == AF_UNIX; }
  // The numeric host without brackets; "" if not IP.
  std::string host() const;
  // 0 if not IP.
  uint16_t port() const;
  void set_port(uint16_t port);
  // The path's bytes; abstract names begin with NUL; "" for unnamed and not Unix.
  std::string unix_path() const;

  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(words_.data()); }
  socklen_t size() const { return length_; }
  // For people and for messages.
  std::string ToString() const;

  friend bool operator==(const SocketAddress& a, const SocketAddress& b);

 private:
  SocketAddress(const void* data, socklen_t length);
  template <typename Sockaddr>
  Sockaddr Copy() const {
    Sockaddr copy{};
    std::memcpy(&copy, words_.data(),
                std::min(sizeof(copy), words_.size() * sizeof(words_.front())));
    return copy;
  }

  // A sockaddr of the family's size; those of IP need no memory of their own. `length_` is 0 for an
  // unknown address, of which only the family is there.
  absl::InlinedVector<uint32_t, sizeof(sockaddr_in6) / sizeof(uint32_t)> words_;
  socklen_t length_;
};

}  // namespace sockbroker::streams
