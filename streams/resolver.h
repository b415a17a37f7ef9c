// Resolver: names to addresses, without a thread. Each loop has one (EventLoop::resolver).
//
//   auto addresses = co_await loop->resolver().GetAddrInfo({.host = "localhost", .port = 80});
//
// The default is c-ares on the loop: thousands of look-ups cost no thread, and cancel at once. It
// reads /etc/hosts, /etc/services and /etc/resolv.conf, but not nsswitch.conf: no mDNS, no NIS.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "streams/address.h"
#include "streams/task.h"

namespace sockbroker::streams {

class EventLoop;

// A port number, or a service's name ("http", or "80" in text). From int and from text.
class Port {
 public:
  Port(int number) : number_(number) {}  // NOLINT(google-explicit-constructor)
  // NOLINTNEXTLINE(google-explicit-constructor)
  Port(std::string service) : service_(std::move(service)) {}
  Port(const char* service) : service_(service) {}  // NOLINT(google-explicit-constructor)

  int number() const { return number_; }  // meaningless when there is a service
  const std::string& service() const { return service_; }
  bool is_service() const { return !service_.empty(); }

 private:
  int number_ = 0;
  std::string service_;
};

// getaddrinfo's arguments, for stream sockets.
struct AddrInfoRequest {
  std::optional<std::string> host;  // none: loopback, or with AI_PASSIVE every interface
  Port port = 0;
  int family = AF_UNSPEC;
  int flags = 0;  // AI_*
};

class Resolver {
 public:
  virtual ~Resolver() = default;

  // The addresses, in the order to try them; never empty. kNotFound (GetResolverError) as
  // socket.gaierror; kInvalidArgument for a port outside 0..65535 or a name with NUL. Cancelling
  // ends the wait at once.
  virtual Task<absl::StatusOr<std::vector<SocketAddress>>> GetAddrInfo(AddrInfoRequest request) = 0;
};

struct CaresOptions {
  // DNS servers "address:port" instead of /etc/resolv.conf's.
  std::vector<std::string> servers;
  // Per try, and how many tries. Default c-ares' own (5 s, 4).
  std::optional<absl::Duration> timeout;
  std::optional<int> tries;
};

std::unique_ptr<Resolver> MakeCaresResolver(EventLoop* loop, CaresOptions options);

}  // namespace sockbroker::streams
