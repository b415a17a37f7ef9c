// WatchCall: one WatchConnections stream. First what exists (or what was missed), then what
// happens.
//
//   return WatchCall::Start(core, context, request);
//
// It is a coroutine on one loop; gRPC's reactions only dispatch to it, so one write is ever under
// way and Finish is called once, after it.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>

#include "server/broker_core.h"
#include "server/errors.h"
#include "server/event_log.h"
#include "server/principal.h"
#include "sockbroker/v1/connection.pb.h"
#include "streams/cancel.h"
#include "streams/task.h"
#include "streams/wait_queue.h"

namespace sockbroker::server {

class WatchCall final : public grpc::ServerWriteReactor<v1::ConnectionEvent>,
                        public std::enable_shared_from_this<WatchCall> {
 public:
  // `checked`: whether the request's fields are in order; else the stream ends with it at once.
  static grpc::ServerWriteReactor<v1::ConnectionEvent>* Start(
      BrokerCore* core, std::shared_ptr<const Principal> principal,
      const v1::WatchConnectionsRequest& request, const RpcStatus& checked);

 private:
  WatchCall(BrokerCore* core, streams::EventLoop* loop) : core_(core), loop_(loop) {}

  static streams::Task<void> Run(std::shared_ptr<WatchCall> self);
  // False when the watcher has gone.
  streams::Task<bool> SendExisting(uint64_t up_to);
  streams::Task<bool> SendMark(v1::ConnectionEvent::Kind kind, uint64_t sequence);
  streams::Task<bool> Send(const v1::ConnectionEvent* event);
  void Wake();

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  BrokerCore* const core_;
  streams::EventLoop* const loop_;
  EventLog::Filter filter_;
  v1::WatchConnectionsRequest request_;
  std::atomic<bool> wake_posted_{false};

  // The loop's.
  streams::CancelSource cancel_;
  streams::WaitQueue changed_;
  bool writing_ = false;
  bool write_ok_ = true;

  std::shared_ptr<WatchCall> self_;  // gRPC's share
};

}  // namespace sockbroker::server
