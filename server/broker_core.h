// BrokerCore: what all parts of the broker share. Made by Broker, outlives every record.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/broker.h"
#include "server/creation.h"
#include "server/descriptor_budget.h"
#include "server/event_log.h"
#include "server/handle.h"
#include "server/handle_table.h"
#include "server/memory_budget.h"
#include "server/own_listeners.h"
#include "server/session_registry.h"
#include "server/settings_pool.h"
#include "server/tls_settings.h"
#include "sockbroker/v1/connection.pb.h"
#include "sockbroker/v1/server.pb.h"
#include "streams/event_loop.h"
#include "streams/loop_thread.h"

namespace sockbroker::server {

class ConnectionRecord;
class ServerRecord;

// What is remembered of a connection that is gone.
struct ConnectionTombstone {
  v1::Connection last;
  // The error that ended it; OK when it ended well.
  RpcStatus loss;
  // The peer ended it (TLS: both directions at once): reads go on to give EOF.
  bool eof = false;
};
struct ServerTombstone {
  v1::Server last;
};

struct BrokerCore {
  explicit BrokerCore(BrokerOptions o);

  // A place for a new connection or server.
  streams::EventLoop* NextLoop() {
    return loops[next_loop.fetch_add(1, std::memory_order_relaxed) % loops.size()];
  }
  // `count` descriptors, or what to answer.
  RpcStatus AcquireDescriptors(std::size_t count, std::vector<DescriptorBudget::Hold>* holds);
  // The memory for what clients send is short: sessions give back what their windows don't need.
  void RevokeUnusedWindows();
  // The clock's time as the wall's.
  absl::Time Wall(absl::Time time) const { return absl::Now() - (clock->Now() - time); }

  const BrokerOptions options;
  streams::Clock* const clock;
  const BrokerIdentity identity;
  CreationTable creations;
  HandleTable<ConnectionRecord, ConnectionTombstone> connections;
  HandleTable<ServerRecord, ServerTombstone> servers;
  EventLog events;
  OwnListeners own_listeners;
  TlsSettings tls;
  SettingsPool settings;
  MemoryBudgets memory;
  SessionRegistry sessions;
  std::atomic<int64_t> windows_revoked_ms{0};  // when, by the clock
  std::atomic<bool> draining{false};
  std::atomic<std::size_t> next_loop{0};
  std::vector<streams::EventLoop*> loops;
  // The last member: its threads end before anything they use.
  std::vector<std::unique_ptr<streams::LoopThread>> threads;
};

}  // namespace sockbroker::server
