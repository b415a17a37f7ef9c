// Plain sockets and what surrounds them, for tests that connect and serve: peers that are played by
// hand, ports where nobody listens, and counts that show what was left open.
//
//   Descriptor refusing = BoundSocket("127.0.0.1");             // connects to it are refused
//   Descriptor client = ConnectNow(server->sockets()[0]);       // a client without an engine
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"
#include "streams/address.h"
#include "streams/descriptor.h"

namespace sockbroker::streams {

// Blocking TCP sockets on a port that the kernel chose. They throw std::system_error.
Descriptor BoundSocket(const std::string& host);
Descriptor ListeningSocket(const std::string& host, int backlog = 16);
// A blocking client of `address`, TCP or Unix; ConnectNow throws, TryConnect gives the errno.
Descriptor ConnectNow(const SocketAddress& address);
int TryConnect(const SocketAddress& address);

// Whether ::1 can be bound: containers often have no IPv6.
bool HasIpv6();

// A listener whose backlog is full: who connects to it waits until nobody knows when.
class StalledListener {
 public:
  explicit StalledListener(const std::string& host);
  const SocketAddress& address() const { return address_; }

 private:
  Descriptor listener_;
  SocketAddress address_;
  Descriptor filler_;
};

int GetOption(int fd, int level, int option);
bool IsNonBlocking(int fd);
// How many descriptors this process has open.
std::size_t OpenDescriptors();

// A directory of its own, removed with what is in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(absl::string_view name) const;

 private:
  std::string path_;
};

bool Exists(const std::string& path);

// A name in the abstract namespace that nobody else has.
std::string AbstractName(absl::string_view suffix);

}  // namespace sockbroker::streams
