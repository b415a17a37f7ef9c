// Broker: everything behind `service SocketBroker` but the gRPC server itself: event loops,
// handles, connections, servers, leases, tombstones, events.
//
//   Broker broker({.broker_id_seed = "example", .descriptors = &budget, .inherited = &inherited});
//   builder.RegisterService(broker.service());
//   std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
//   broker.AddOwnListener(address);              // once per listener, when its real port is known
//   ...
//   broker.Drain(absl::Seconds(8));              // close everything in good order
//   server->Shutdown(deadline);                  // before the Broker is destroyed
#pragma once

#include <grpcpp/impl/codegen/service_type.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "streams/address.h"
#include "streams/clock.h"
#include "streams/event_loop.h"

namespace sockbroker::server {

class AuditLog;
class DescriptorBudget;
class InheritedDescriptors;

// What bounds the broker's memory and what clients get when they don't say. Sizes in bytes.
struct BrokerLimits {
  // Write buffer of one connection; a write that would pass it is refused (WRITE_BUFFER_FULL).
  std::size_t write_buffer = 8 << 20;
  // What is held for clients of sessions, in each direction: of all together, of one principal, of
  // one connection. 0: an eighth of the machine's memory, at least 256 MiB; half of that.
  std::size_t buffer_memory = 0;
  std::size_t buffer_memory_per_principal = 0;
  std::size_t buffer_memory_per_connection = 16 << 20;
  absl::Duration default_lease = absl::Seconds(60);
  absl::Duration default_connect_timeout = absl::Seconds(60);
  absl::Duration default_close_timeout = absl::Seconds(30);
  absl::Duration default_proxy_header_timeout = absl::Seconds(5);
  // How long an accepted connection may stay without a call before it goes back to its server's
  // queue.
  absl::Duration claim_timeout = absl::Seconds(10);
  // How long a closed handle, and what a request_id stood for, is remembered; and how many of
  // either at most.
  absl::Duration tombstone_lifetime = absl::Minutes(10);
  std::size_t tombstones = 100'000;
  std::size_t remembered_requests = 100'000;
  // Connections and servers, open or opening, of all callers together. 0: the descriptors are the
  // limit.
  std::size_t connections = 0;
  std::size_t servers = 0;
  // Events that a watcher can be behind before it meets a GAP.
  std::size_t events = 16'384;
};

struct BrokerOptions {
  // One thread each; 0: one per core.
  int loops = 0;
  // Must outlive the broker. Null: the monotonic clock.
  streams::Clock* clock = nullptr;
  // The broker's id in every handle is derived from it: the same text, the same id. Empty: random.
  std::string broker_id_seed;
  // Must outlive the broker. Null: nothing is refused for want of descriptors; nothing was
  // inherited.
  DescriptorBudget* descriptors = nullptr;
  InheritedDescriptors* inherited = nullptr;
  // The directory of key material that requests name instead of sending it: NAME.crt, NAME.key,
  // NAME.ca. Empty: there is none.
  std::string tls_store;
  // Gets the lines of an NSS key log, from the loops' threads: whoever has them reads everything.
  // Null: nobody does.
  std::function<void(absl::string_view)> tls_key_log;
  // Callers with a certificate may open whatever the broker's own user could; else nothing.
  bool allow_all = false;
  // Gets a line per open, refusal and close. Must outlive the broker; null: nobody is told.
  const AuditLog* audit = nullptr;
  BrokerLimits limits;
};

class Broker {
 public:
  // Starts the loops.
  explicit Broker(BrokerOptions options);
  // Resets what is still open, and joins the loops. The grpc::Server must be gone by then.
  ~Broker();
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;

  // A SocketBroker::CallbackService. Belongs to the broker.
  grpc::Service* service();

  // An address (or Unix path) the broker itself listens on: never dialled for a client. Any thread,
  // any time.
  void AddOwnListener(const streams::SocketAddress& address);

  // From here on creation RPCs answer UNAVAILABLE (DRAINING), and Accepts that wait end so. Returns
  // at once.
  void StopOpening();
  // StopOpening, then closes every server and, gracefully, every connection (BROKER_STOPPED); waits
  // until everything is flushed, at most `timeout`; then resets what is left and waits until that
  // is gone. True if nothing had to be reset. Not on a loop's or gRPC's thread.
  bool Drain(absl::Duration timeout);

  // How many connections are open (closing ones included). Any thread.
  std::size_t open_connections() const;

  // Hexadecimal, 16 digits.
  std::string id() const;
  // Drawn at random at the start.
  uint64_t incarnation() const;
  // For those who need one (and for tests).
  const std::vector<streams::EventLoop*>& loops() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace sockbroker::server
