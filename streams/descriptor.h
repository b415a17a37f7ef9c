// Descriptor: owns a file descriptor and closes it.
//
//   Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
//   if (!socket.valid()) return ErrnoToStatus(errno, "socket");
#pragma once

#include <unistd.h>

#include <utility>

#include "absl/status/status.h"

namespace sockbroker::streams {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Descriptor() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Closes what it has; leaves errno as it is.
  void Reset(int fd = -1);
  // Gives it away.
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

// Sets O_NONBLOCK, if it isn't set.
absl::Status MakeNonBlocking(int fd);

}  // namespace sockbroker::streams
