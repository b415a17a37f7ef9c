#include "streams/address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "streams/error.h"

namespace sockbroker::streams {

SocketAddress::SocketAddress() : words_(1, AF_UNSPEC), length_(0) {}

// A Unix path is read with the NUL behind it, which may lie beyond `length`.
SocketAddress::SocketAddress(const void* data, socklen_t length)
    : words_(std::max<std::size_t>(length / sizeof(uint32_t) + 1, 4)), length_(length) {
  std::memcpy(words_.data(), data, length);
}

absl::StatusOr<SocketAddress> SocketAddress::FromIp(absl::string_view host, uint16_t port) {
  const std::string text(host);
  sockaddr_in v4{};
  if (inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1 && text.size() == host.size()) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    return SocketAddress(&v4, sizeof(v4));
  }
  const std::size_t percent = text.find('%');
  sockaddr_in6 v6{};
  if (inet_pton(AF_INET6, text.substr(0, percent).c_str(), &v6.sin6_addr) == 1 &&
      text.find('\0') == std::string::npos) {
    if (percent != std::string::npos) {
      const std::string zone = text.substr(percent + 1);
      uint32_t scope = if_nametoindex(zone.c_str());
      if (scope == 0 && !absl::SimpleAtoi(zone, &scope)) {
        return absl::InvalidArgumentError(absl::StrCat("no such network interface: '", zone, "'"));
      }
      v6.sin6_scope_id = scope;
    }
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    return SocketAddress(&v6, sizeof(v6));
  }
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not an IP address"));
}

absl::StatusOr<SocketAddress> SocketAddress::FromUnixPath(absl::string_view path) {
  if (path.empty()) return ErrnoToStatus(EINVAL, "a Unix path is empty");
  sockaddr_un address{};
  const bool abstract = path[0] == '\0';
  // A path needs room for its closing NUL, an abstract name has none.
  const std::size_t room = sizeof(address.sun_path) - (abstract ? 0 : 1);
  if (path.size() > room) {
    return absl::InvalidArgumentError(
        absl::StrCat("AF_UNIX path too long: ", path.size(), " bytes, at most ", room));
  }
  if (!abstract && path.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError("embedded null byte in a Unix path");
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return SocketAddress(&address, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) +
                                                        path.size() + (abstract ? 0 : 1)));
}

SocketAddress SocketAddress::FromSockaddr(const sockaddr* data, socklen_t length) {
  return SocketAddress(data, std::min<socklen_t>(length, sizeof(sockaddr_storage)));
}

SocketAddress SocketAddress::OfLocal(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  return SocketAddress(&address, length);
}

SocketAddress SocketAddress::OfPeer(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  return SocketAddress(&address, length);
}

std::string SocketAddress::host() const {
  char text[INET6_ADDRSTRLEN] = "";
  if (family() == AF_INET) {
    const auto v4 = Copy<sockaddr_in>();
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    return text;
  }
  if (family() == AF_INET6) {
    const auto v6 = Copy<sockaddr_in6>();
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
    if (v6.sin6_scope_id == 0) return text;
    char zone[IF_NAMESIZE];
    if (if_indextoname(v6.sin6_scope_id, zone) != nullptr) return absl::StrCat(text, "%", zone);
    return absl::StrCat(text, "%", v6.sin6_scope_id);
  }
  return "";
}

uint16_t SocketAddress::port() const {
  if (family() == AF_INET) {
    return ntohs(Copy<sockaddr_in>().sin_port);
  }
  if (family() == AF_INET6) {
    return ntohs(Copy<sockaddr_in6>().sin6_port);
  }
  return 0;
}

void SocketAddress::set_port(uint16_t port) {
  if (family() == AF_INET) {
    auto v4 = Copy<sockaddr_in>();
    v4.sin_port = htons(port);
    *this = SocketAddress(&v4, length_);
  } else if (family() == AF_INET6) {
    auto v6 = Copy<sockaddr_in6>();
    v6.sin6_port = htons(port);
    *this = SocketAddress(&v6, length_);
  }
}

std::string SocketAddress::unix_path() const {
  constexpr socklen_t kPathOffset = offsetof(sockaddr_un, sun_path);
  if (!is_unix() || length_ <= kPathOffset) return "";
  const auto unix_address = Copy<sockaddr_un>();
  std::size_t size = length_ - kPathOffset;
  if (unix_address.sun_path[0] != '\0') size = strnlen(unix_address.sun_path, size);
  return std::string(unix_address.sun_path, size);
}

std::string SocketAddress::ToString() const {
  switch (family()) {
    case AF_INET:
      return absl::StrCat(host(), ":", port());
    case AF_INET6:
      return absl::StrCat("[", host(), "]:", port());
    case AF_UNIX: {
      std::string path = unix_path();
      if (path.empty()) return "(unnamed)";
      if (path[0] == '\0') path[0] = '@';
      return path;
    }
    default:
      return "(unknown)";
  }
}

bool operator==(const SocketAddress& a, const SocketAddress& b) {
  return a.length_ == b.length_ && std::memcmp(a.data(), b.data(), a.length_) == 0;
}

}  // namespace sockbroker::streams
