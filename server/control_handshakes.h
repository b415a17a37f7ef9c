// ControlHandshakes: the connections that were given to gRPC and have not shown yet who they are.
// There is a bound to them: when there is one too many, the oldest is ended, so that whoever
// connects and says nothing keeps nobody out and uses up no descriptors.
//
//   ControlHandshakes handshakes(128);
//   handshakes.Begin(fd);                           // before gRPC has it
//   handshakes.Proven("ipv4:192.0.2.1:40123");      // with each call: its ServerContext::peer()
//
// gRPC tells nobody of a handshake's end: a connection's first call, which none can make before, is
// what proves it. One without a call yet may thus be ended too, but only while others press in.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <string>

#include "absl/strings/string_view.h"

namespace sockbroker::server {

// Safe from every thread.
class ControlHandshakes {
 public:
  explicit ControlHandshakes(std::size_t limit) : limit_(limit) {}

  // Does not own `fd`, which whoever does may close at any time: the socket is known by its cookie,
  // never by its number alone.
  void Begin(int fd);
  // Of unknown peers nothing happens.
  void Proven(absl::string_view peer);

  // Some of them may have ended.
  std::size_t size() const { return size_.load(std::memory_order_relaxed); }
  uint64_t ended() const { return ended_.load(std::memory_order_relaxed); }

 private:
  struct Handshake {
    int fd;
    uint64_t cookie;
    std::string peer;
  };

  const std::size_t limit_;
  std::atomic<std::size_t> size_{0};
  std::atomic<uint64_t> ended_{0};
  std::mutex mutex_;
  std::list<Handshake> handshakes_;  // the oldest first
};

}  // namespace sockbroker::server
