#include "server/control_handshakes.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "streams/descriptor.h"

namespace sockbroker::server {
namespace {

// The kernel's number of a socket, used for no second one. 0: none.
uint64_t Cookie(int fd) {
  uint64_t cookie = 0;
  socklen_t size = sizeof(cookie);
  return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0 ? cookie : 0;
}

// The peer in gRPC's words, but for the brackets that it writes as %5B and %5D.
std::string PeerText(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "";
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
    inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
    return absl::StrCat("ipv4:", text, ":", ntohs(v4->sin_port));
  }
  if (address.ss_family != AF_INET6) return "";
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
  if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
    inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], text, sizeof(text));
    return absl::StrCat("ipv4:", text, ":", ntohs(v6->sin6_port));
  }
  inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
  return absl::StrCat("ipv6:[", text, "]:", ntohs(v6->sin6_port));
}

// The socket itself, if `fd` still stands for it: the number may be another's by now, and could
// become that at any moment.
streams::Descriptor Take(int fd, uint64_t cookie) {
  streams::Descriptor own(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (own.valid() && Cookie(own.get()) != cookie) own = streams::Descriptor();
  return own;
}

}  // namespace

void ControlHandshakes::Begin(int fd) {
  const uint64_t cookie = Cookie(fd);
  if (cookie == 0) return;
  const std::lock_guard lock(mutex_);
  if (handshakes_.size() >= limit_) {
    // Those that have ended by themselves make room first.
    handshakes_.remove_if(
        [](const Handshake& handshake) { return !Take(handshake.fd, handshake.cookie).valid(); });
  }
  while (handshakes_.size() >= limit_) {
    const Handshake& oldest = handshakes_.front();
    if (const streams::Descriptor own = Take(oldest.fd, oldest.cookie); own.valid()) {
      // Its owner reads that it has ended, and closes it.
      (void)shutdown(own.get(), SHUT_RDWR);
      ended_.fetch_add(1, std::memory_order_relaxed);
    }
    handshakes_.pop_front();
  }
  handshakes_.push_back({fd, cookie, PeerText(fd)});
  size_.store(handshakes_.size(), std::memory_order_relaxed);
}

void ControlHandshakes::Proven(absl::string_view peer) {
  if (size() == 0) return;
  const std::string text = absl::StrReplaceAll(peer, {{"%5B", "["}, {"%5D", "]"}});
  const std::lock_guard lock(mutex_);
  handshakes_.remove_if([&](const Handshake& handshake) { return handshake.peer == text; });
  size_.store(handshakes_.size(), std::memory_order_relaxed);
}

}  // namespace sockbroker::server
