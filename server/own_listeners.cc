#include "server/own_listeners.h"

#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/stat.h>

#include <cstring>

namespace sockbroker::server {
namespace {

using streams::SocketAddress;

// An IP address in IPv6's 16 bytes, IPv4 as ::ffff:a.b.c.d, and what follows from the bytes alone.
struct Ip {
  in6_addr bytes = {};

  explicit Ip(const sockaddr* address) {
    if (address->sa_family == AF_INET6) {
      bytes = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    } else if (address->sa_family == AF_INET) {
      bytes.s6_addr[10] = bytes.s6_addr[11] = 0xff;
      std::memcpy(&bytes.s6_addr[12], &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, 4);
    }
  }
  bool v4() const { return IN6_IS_ADDR_V4MAPPED(&bytes); }
  bool any() const {
    if (!v4()) return IN6_IS_ADDR_UNSPECIFIED(&bytes);
    return bytes.s6_addr[12] == 0 && bytes.s6_addr[13] == 0 && bytes.s6_addr[14] == 0 &&
           bytes.s6_addr[15] == 0;
  }
  bool loopback() const {
    return v4() ? bytes.s6_addr[12] == 127 : IN6_IS_ADDR_LOOPBACK(&bytes) != 0;
  }
  friend bool operator==(const Ip& a, const Ip& b) {
    return std::memcmp(&a.bytes, &b.bytes, sizeof(a.bytes)) == 0;
  }
};

bool IsOfThisMachine(const Ip& ip) {
  if (ip.any() || ip.loopback()) return true;
  ifaddrs* interfaces = nullptr;
  // When the kernel won't tell: better one refusal too many.
  if (getifaddrs(&interfaces) != 0) return true;
  bool found = false;
  for (const ifaddrs* i = interfaces; i != nullptr && !found; i = i->ifa_next) {
    if (i->ifa_addr == nullptr) continue;
    if (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6) continue;
    found = Ip(i->ifa_addr) == ip;
  }
  freeifaddrs(interfaces);
  return found;
}

bool Reaches(const SocketAddress& target, const SocketAddress& listener) {
  if (target.port() != listener.port()) return false;
  const Ip to(target.data());
  const Ip at(listener.data());
  // connect() to the unspecified address goes to loopback.
  if (at.any()) return IsOfThisMachine(to);
  return to == at || (to.any() && at.loopback());
}

bool IsFile(const std::string& path) { return !path.empty() && path[0] != '\0'; }

}  // namespace

void OwnListeners::Add(const SocketAddress& address) {
  Listener listener{.address = address};
  const std::string path = address.unix_path();
  struct stat file;
  if (IsFile(path) && stat(path.c_str(), &file) == 0) {
    listener.device = file.st_dev;
    listener.inode = file.st_ino;
  }
  const absl::MutexLock lock(&mutex_);
  listeners_.push_back(listener);
}

bool OwnListeners::Contains(const SocketAddress& target) const {
  std::vector<Listener> listeners;
  {
    const absl::MutexLock lock(&mutex_);
    listeners = listeners_;
  }
  const std::string path = target.unix_path();
  struct stat file = {};
  const bool is_file = IsFile(path) && stat(path.c_str(), &file) == 0;
  for (const Listener& listener : listeners) {
    if (target.is_ip() && listener.address.is_ip()) {
      if (Reaches(target, listener.address)) return true;
    } else if (target.is_unix() && listener.address.is_unix()) {
      if (target == listener.address) return true;
      if (is_file && listener.inode != 0 && listener.inode == file.st_ino &&
          listener.device == file.st_dev) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace sockbroker::server
