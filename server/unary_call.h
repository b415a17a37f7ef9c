// UnaryCall: a unary RPC that is answered from a loop.
//
//   auto call = UnaryCall::Start(loop);
//   loop->Dispatch([call] { loop->Spawn(Answer(call), call->cancel_state()); });
//   return call->reactor();  // Answer ends with call->Finish(status)
//
// Two own it: gRPC, until OnDone, and whoever holds the shared pointer. When the caller goes away
// (cancelled, deadline, connection lost) `gone` becomes true at once and the cancel state follows
// on the loop; Finish is still called exactly once, by the loop.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>
#include <utility>

#include "server/errors.h"
#include "streams/cancel.h"
#include "streams/event_loop.h"

namespace sockbroker::server {

class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  static std::shared_ptr<UnaryCall> Start(streams::EventLoop* loop) {
    std::shared_ptr<UnaryCall> call(new UnaryCall(loop));
    call->self_ = call;
    return call;
  }

  grpc::ServerUnaryReactor* reactor() { return this; }
  streams::EventLoop* loop() const { return loop_; }
  // Any thread.
  const std::atomic<bool>* gone() const { return &gone_; }
  // The loop's thread only.
  streams::internal::CancelState* cancel_state() { return cancel_.token().state(); }

  // Exactly once. Nothing of the request or response may be touched afterwards.
  void Finish(const RpcStatus& status) { grpc::ServerUnaryReactor::Finish(status.ToGrpc()); }

 private:
  explicit UnaryCall(streams::EventLoop* loop) : loop_(loop) {}

  void OnCancel() override {
    gone_.store(true);
    loop_->Dispatch([self = self_] { self->cancel_.Cancel(); });
  }
  // OnDone, the last thing that gRPC calls, only lets go, and OnCancel only dispatches: neither
  // needs a thread of gRPC's executor, which would be woken up for each call.
  bool InternalInlineable() override { return true; }
  void OnDone() override { const std::shared_ptr<UnaryCall> self = std::move(self_); }

  streams::EventLoop* const loop_;
  std::atomic<bool> gone_{false};
  streams::CancelSource cancel_;
  std::shared_ptr<UnaryCall> self_;  // gRPC's share
};

// For what can be answered on gRPC's own thread.
inline grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context,
                                           const RpcStatus& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status.ToGrpc());
  return reactor;
}

}  // namespace sockbroker::server
