// ServerRecord: one listening server as the broker keeps it: its lease, who waits in Accept, and
// what was accepted but is nobody's yet. Lives on the server's loop; everything but the constants
// belongs to that loop's thread.
//
// Connections stay in the kernel's backlog while nobody waits. Where a PROXY header or a TLS
// handshake comes first, they are had side by side, so that a peer that sends nothing delays
// nobody; when there are too many of those, the one that has been silent for the longest goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "server/broker_core.h"
#include "server/connection_record.h"
#include "server/errors.h"
#include "server/handle.h"
#include "server/lease.h"
#include "server/options_codec.h"
#include "server/principal.h"
#include "streams/server.h"
#include "streams/wait_queue.h"

namespace sockbroker::server {

class ServerRecord : public std::enable_shared_from_this<ServerRecord> {
 public:
  struct Birth {
    streams::Server server;
    ServerSettings settings;
    std::shared_ptr<const Principal> principal;
    std::string request_key;
    std::string rpc;
    std::vector<DescriptorBudget::Hold> descriptors;  // one per listening socket
  };

  // On the loop that it will live on. Gives it a handle and puts it into the table.
  static std::shared_ptr<ServerRecord> Create(BrokerCore* core, Birth birth);
  ServerRecord(const ServerRecord&) = delete;
  ServerRecord& operator=(const ServerRecord&) = delete;

  // --- any thread
  const Handle& handle() const { return handle_; }
  streams::EventLoop* loop() const { return loop_; }

  // --- the loop's thread
  Lease::Use BeginCall() { return lease_.Begin(); }
  void EndCall() {}
  bool closed() const { return closed_; }
  const std::shared_ptr<const ServerTombstone>& tombstone() const { return tombstone_; }
  const ServerSettings& settings() const { return settings_; }
  const std::shared_ptr<const Principal>& principal() const { return principal_; }
  v1::Server Snapshot() const;

  streams::Task<RpcStatus> StartServing();
  // Waits for a connection, first come, first served. Cancelled, it takes none.
  streams::Task<RpcStatus> Accept(AcceptedSocket* accepted);
  // Ends every Accept that waits.
  void FailAccepts(const RpcStatus& status);
  // Stops listening at once. `why`: for people. Idempotent.
  void Close(absl::string_view why);
  uint64_t CloseClients();
  uint64_t AbortClients();
  // Until it is closed and every accepted connection is gone: OK, or why the wait ended.
  streams::Task<absl::Status> WaitClosed();

  // A connection that nobody claimed: to the front of the queue.
  void TakeBack(AcceptedSocket socket);
  // The records of its connections.
  void Add(ConnectionRecord* record) { records_.insert(record); }
  void Remove(ConnectionRecord* record) { records_.erase(record); }

 private:
  struct Waiter {
    streams::WaitQueue woken;
    bool served = false;
    RpcStatus status;
    AcceptedSocket socket;
  };
  // What must come before a connection can be given to an Accept.
  struct Preparation {
    bool spoke = false;    // any byte came
    bool stalled = false;  // others no longer wait for it
    bool ending = false;   // it was told to make room
    streams::CancelSource* cancel = nullptr;
  };

  ServerRecord(BrokerCore* core, Birth birth, streams::EventLoop* loop);

  static streams::Task<void> Watch(std::shared_ptr<ServerRecord> self);
  static streams::Task<void> Pump(std::shared_ptr<ServerRecord> self);
  static streams::Task<void> PrepareForAccept(std::shared_ptr<ServerRecord> self,
                                              AcceptedSocket socket,
                                              std::unique_ptr<Preparation> preparation);
  static streams::Task<bool> Prepare(const ServerSettings& settings, Preparation* preparation,
                                     AcceptedSocket* socket);
  static streams::Task<RpcStatus> ParseProxyHeader(Preparation* preparation,
                                                   AcceptedSocket* socket);
  // Until the peer has said something, which is left unread: true; else it has ended.
  static streams::Task<bool> FirstBytes(Preparation* preparation, AcceptedSocket* socket);
  // The oldest that stalls and never said a word; when all stall, the oldest of all; else null.
  Preparation* OneThatCanGo() const;
  // Ends it. Says whether there is one that will end.
  bool EndOneThatStalls();
  bool WantsMore() const;
  void UpdatePump();
  void Deliver();
  std::vector<std::shared_ptr<ConnectionRecord>> Records() const;
  void Audit(bool open) const;

  BrokerCore* const core_;
  streams::EventLoop* const loop_;
  const Handle handle_;
  const std::shared_ptr<const Principal> principal_;
  const std::string rpc_;
  const ServerSettings settings_;
  const absl::Time started_at_wall_;
  const absl::Time started_at_;

  streams::Server server_;
  std::vector<DescriptorBudget::Hold> descriptors_;
  bool closed_ = false;
  std::string close_message_;
  absl::Time closed_at_wall_;
  std::shared_ptr<const ServerTombstone> tombstone_;
  streams::WaitQueue gone_;
  absl::flat_hash_set<ConnectionRecord*> records_;

  std::deque<Waiter*> waiters_;
  std::deque<AcceptedSocket> ready_;
  bool pumping_ = false;
  std::unique_ptr<streams::CancelSource> pump_cancel_;
  streams::CancelSource prepare_cancel_;
  const std::size_t max_preparing_;
  std::list<Preparation*> preparing_;  // the oldest first
  std::size_t stalled_ = 0;            // of those
  std::size_t ending_ = 0;             // of those, and no longer among the stalled
  streams::WaitQueue prepared_;        // one of them has ended, well or not

  Lease lease_;
};

}  // namespace sockbroker::server
